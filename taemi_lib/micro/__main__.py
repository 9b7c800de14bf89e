"""Retrain the embedded backbones: `python -m taemi_lib.micro [role ...] --folder DIR`. About an
hour on two cores."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

ROLES = ("audio", "vision", "speech", "text")


def retrain(
    roles: tuple[str, ...] = ROLES, folder: str | Path | None = None, progress: bool = True, **sizes
) -> Path:
    """Train these backbones into `folder`/<role>; without a folder, into the package itself.
    `sizes` go to each `train`."""
    from taemi_lib.micro.corpus import utterances
    from taemi_lib.profiles import MICRO

    folder = Path(folder or MICRO)
    corpus = (
        utterances(sizes.pop("utterance_count", 8000)) if {"audio", "speech"} & set(roles) else None
    )
    for role in roles:
        heard = {"corpus": corpus} if role in ("audio", "speech") else {}
        import_module(f"taemi_lib.micro.train_{role}").train(
            folder / role, progress=progress, **heard, **sizes
        )
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m taemi_lib.micro", description=__doc__)
    parser.add_argument(
        "roles", nargs="*", choices=[*ROLES, []], help="which backbones (default: all four)"
    )
    parser.add_argument("--folder", help="where to write <role>/ (default: over the embedded ones)")
    arguments = parser.parse_args()
    retrain(tuple(arguments.roles) or ROLES, arguments.folder)


if __name__ == "__main__":
    main()

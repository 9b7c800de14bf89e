"""Settings: the named profiles, and any of them in full."""

from __future__ import annotations

import click

from taemi_lib import profiles as known
from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError


@click.command()
@click.argument("name", required=False)
@options.settings
def profiles(name: str | None, settings: dict[str, object]) -> None:
    """List the profiles, or print one whole as TOML."""
    if name is None and settings:
        raise ChoiceError("--set changes a profile: name it, as in `taemi profiles demo --set ...`")
    if name is None:
        for profile, said in known.DESCRIPTIONS.items():
            print(f"{profile:8} {said}")
        return
    print(known.to_toml(known.load(name, settings, "--set")), end="")

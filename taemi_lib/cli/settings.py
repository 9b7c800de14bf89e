"""Settings: the named profiles, and any of them in full."""

from __future__ import annotations

import click

from taemi_lib import profiles as known
from taemi_lib.cli import options


@click.command()
@click.argument("name", required=False)
@options.changes
def profiles(name: str | None, changes: tuple[str, ...]) -> None:
    """List the profiles, or print one whole as TOML."""
    if name is None:
        for profile, said in known.DESCRIPTIONS.items():
            print(f"{profile:6} {said}")
        return
    print(known.to_toml(known.load(name, known.parse_settings(changes), "--set")), end="")

"""Encoders: download those that are not on this machine, once, when asked."""

from __future__ import annotations

import sys

import click

from taemi_lib import profiles
from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError, CourseError


@click.command()
@options.profile
@options.settings
@click.option("--yes", is_flag=True, help="Download without asking, as scripts must.")
def fetch(profile: str, settings: dict[str, object], yes: bool) -> None:
    """Download the profile's encoders: shows sizes, then asks.

    Nothing else in taemi downloads an encoder. What is here already is not downloaded again.
    """
    wanted = profiles.load(profile, settings, "--set").encoders
    from taemi_lib.features import fetching

    encoders = fetching.plan(wanted)
    for encoder in encoders:
        print(encoder)
    absent = [encoder for encoder in encoders if encoder.files]
    if not absent:
        print("nothing to download")
        return
    total = fetching.megabytes(sum(encoder.size for encoder in absent))
    if not yes:
        _ask(total)
    for encoder in absent:
        fetching.download(encoder)
    print(f"downloaded {total}: everything is here")


def _ask(total: str) -> None:
    """Raises ChoiceError where nobody can answer, CourseError when the answer is no."""
    if not sys.stdin.isatty():
        raise ChoiceError(f"{total} to download, and nobody to ask: add --yes to agree beforehand")
    if not click.confirm(f"download {total}?"):
        raise CourseError("nothing was downloaded")

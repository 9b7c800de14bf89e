"""Clips: make their features."""

from __future__ import annotations

import click

from taemi_lib.cli import options


@click.command()
@options.places
def extract(**places) -> None:
    """Make the features of all clips; unchanged ones are kept."""
    here = options.workspace(**places)
    manifest = here.clips()
    _, report = here.features()
    splits = manifest.table["split"].value_counts()
    print(f"{len(manifest)} clips: {', '.join(f'{n} {name}' for name, n in splits.items())}")
    for line in manifest.skipped:
        print(f"  left out: {line}")
    print(report)
    print(f"features: {here.features_folder}")

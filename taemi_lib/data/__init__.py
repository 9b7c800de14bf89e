"""The clips: their table (`manifest`), its readers (`vidmimic2`, `synthmimic`, a CSV) and their
decoding (`media`)."""

from __future__ import annotations

from pathlib import Path

from taemi_lib import profiles
from taemi_lib.data.manifest import Clip, Manifest, read_csv
from taemi_lib.errors import ChoiceError, ManifestError

SOURCES = ("synthmimic", "vidmimic2", "csv")


def load(data: profiles.Data, root: str | Path) -> Manifest:
    """The manifest of a profile's data in `root`: a folder, or for the source "csv" the table
    itself.

    Raises ChoiceError for an unknown source and ManifestError for data that breaks rules.
    """
    if data.source == "synthmimic":
        from taemi_lib.data import synthmimic  # brings the generator along

        return synthmimic.read(root, regime=data.regime)
    if data.source == "vidmimic2":
        from taemi_lib.data import vidmimic2

        return vidmimic2.read(root, seed=data.seed)
    if data.source == "csv":
        return read_csv(root, seed=data.seed)
    raise ChoiceError(
        f"there is no data source {data.source!r}; the sources are: {', '.join(SOURCES)}"
    )


__all__ = ["Clip", "Manifest", "load", "read_csv"]

"""The clips: their table (`manifest`), its readers (`vidmimic2`, `synthmimic`, a CSV) and their
decoding (`media`)."""

from __future__ import annotations

from pathlib import Path

from taemi_lib import profiles
from taemi_lib.data import synthmimic, vidmimic2
from taemi_lib.data.manifest import Clip, Manifest
from taemi_lib.data.tables import read_csv
from taemi_lib.errors import ChoiceError


def load(data: profiles.Data, root: str | Path) -> Manifest:
    """The manifest of a profile's data in the folder `root`; own clips are in the table that the
    profile names.

    Raises ChoiceError when it names none, ManifestError for data that breaks rules.
    """
    if data.source == "synthmimic":
        return synthmimic.read(root, data)
    if data.source == "vidmimic2":
        return vidmimic2.read(root, data)
    if data.table is None:
        raise ChoiceError("own clips need their table: --set data.table=clips.csv")
    return read_csv(profiles.resolve(data.table), data)


__all__ = ["Clip", "Manifest", "load", "read_csv"]

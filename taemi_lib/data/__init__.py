"""The clips: their table (`manifest`), its readers (`vidmimic2`, `synthmimic`, a CSV) and their
decoding (`media`)."""

from __future__ import annotations

from pathlib import Path

from taemi_lib import profiles
from taemi_lib.data import synthmimic, vidmimic2
from taemi_lib.data.manifest import Clip, Manifest
from taemi_lib.data.tables import read_csv
from taemi_lib.errors import ChoiceError


def load(data: profiles.Data, root: str | Path, task: profiles.Task | None = None) -> Manifest:
    """The manifest of a profile's data in the folder `root`; own clips are in the table that the
    profile names, with the targets of `task` as labels.

    Raises ChoiceError when it names none, or when the data has other targets than `task`;
    ManifestError for data that breaks rules.
    """
    task = task or profiles.Task()
    if data.source in ("synthmimic", "vidmimic2") and task != profiles.Task():
        raise ChoiceError(
            f"data.source = {data.source!r} has the six emotions between 0 and 1 as labels; other "
            'targets need data.source = "csv" or "features"'
        )
    if data.source == "synthmimic":
        return synthmimic.read(root, data)
    if data.source == "vidmimic2":
        return vidmimic2.read(root, data)
    if data.source == "features":
        return read_csv(Path(root) / "clips.csv", data, root, task, media=False)
    if data.table is None:
        raise ChoiceError("own clips need their table: --set data.table=clips.csv")
    return read_csv(profiles.resolve(data.table), data, task=task)


__all__ = ["Clip", "Manifest", "load", "read_csv"]

"""The clip table: which clips there are, where their files lie, and their labels.

Everything starts here: a reader (a CSV of one's own clips, `vidmimic2`, `synthmimic`) makes a
`Manifest`, the encoders read its files, the training reads its labels. A manifest that exists is
sound: construction checks every rule and lists all the problems at once, before anything is
decoded.
"""

from __future__ import annotations

import copy
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from taemi_lib.errors import ChoiceError, ManifestError
from taemi_lib.profiles import SPLITS, TABLE_COLUMNS, Task

COLUMNS = TABLE_COLUMNS[1:]  # of every table, behind clip_id and before the targets
_LABELLED_SPLITS = ("train", "selection", "test")
# an id names a file of the feature store: no separators, no leading dot
_ID = re.compile(r"\w[\w.\- ]*")
# bytes: file systems take 255 for a name, and the store adds its ending and a mark while it writes
LONGEST_ID = 200
_Complain = Callable[[str, str], None]  # (column, what is wrong with this row's cell)


@dataclass(frozen=True)
class Clip:
    """One row: file paths are absolute, `labels` are its targets (K,), NaN where one is missing, or
    None where all are.

    `audio` is a separate sound file; where it is None the sound comes from `video`. `transcript` is
    None where the source has no transcripts at all, and "" where its cell is empty.
    """

    clip_id: str
    split: str
    video: Path | None
    audio: Path | None = None
    transcript: str | None = None
    labels: np.ndarray | None = None


class Manifest:
    """All clips of one source, checked.

    table:  one row a clip with the columns clip_id (or as index), video and optionally split,
            audio, transcript, group and the task's targets; cells may be strings as read from a
            file. Rows without a split are train when they have labels, else predict.
    root:   folder that relative paths in `video` and `audio` start from, and must stay in.
    source: what to call this table in errors, usually the CSV's name.
    labels: name of the label set ("cue", "fixed", ... of the generator); "" where there is only
            one.
    places: "file, row n" for every row, for the errors; by default the rows of `source`, its
            header being row 1.
    names:  column names as the source spells them, where they differ ({"clip_id": "Filename"}).
    missing_files: "refuse", or "skip": clips without their file are left out, and `skipped` has a
            line for each.
    links:  "refuse" or "follow" symbolic links in `root` that lead out of it.
    task:   what the labels are.
    media:  whether every clip needs a video or an audio file; imported features have none.

    Ids and file names are the same in both Unicode spellings of a letter with an accent; an id is
    kept in the composed one.

    Raises ManifestError listing every problem: duplicate or unusable ids, files that do not exist
    or relative paths that leave `root`, labels that are no numbers or outside the task's range,
    unknown splits, labels missing where the split needs them.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        root: str | Path,
        source: str,
        labels: str = "",
        places: Sequence[str] | None = None,
        names: Mapping[str, str] | None = None,
        missing_files: str = "refuse",
        links: str = "refuse",
        task: Task | None = None,
        media: bool = True,
    ):
        self.task = task or Task()
        # absolute: whoever reads the files may stand in another folder by then
        self.root, self.source, self.labels = Path(root).absolute(), source, labels
        raw = table.reset_index() if "clip_id" not in table else table
        rows = raw.to_dict("records")
        places = places or [f"{source}, row {number + 2}" for number in range(len(rows))]
        self.skipped: list[str] = []
        files = _Files(self.root, links)
        if missing_files == "skip":
            rows, places = self._with_files(rows, places, files)
        self.table = _checked(rows, files, source, places, names or {}, self.task, media)

    def _with_files(
        self, rows: list[dict], places: Sequence[str], files: _Files
    ) -> tuple[list[dict], list[str]]:
        """The rows whose files are there; `skipped` tells of the others."""
        kept, where = [], []
        for row, place in zip(rows, places, strict=True):
            cells = [_text(row.get(kind)) for kind in ("video", "audio")]
            gone = [cell for cell in cells if cell and not os.path.isfile(files.place(cell))]
            if gone:
                self.skipped.append(f"{_text(row.get('clip_id'))}: {', '.join(gone)} is missing")
            else:
                kept.append(row)
                where.append(place)
        if self.skipped and not kept:
            raise ManifestError(
                self.source, [f"none of its {len(rows)} clips has its file in {self.root}"]
            )
        return kept, where

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Clip]:
        return (self[clip_id] for clip_id in self.table.index)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self.table.index

    def __getitem__(self, clip_id: str) -> Clip:
        """The clip of this id. Raises KeyError naming the table."""
        if clip_id not in self.table.index:
            raise KeyError(f"{self.source} has no clip {clip_id!r}")
        row = self.table.loc[clip_id]
        labels = row[list(self.task.targets)].to_numpy(np.float64)
        video, audio = (self.root / row[kind] if row[kind] else None for kind in ("video", "audio"))
        return Clip(
            clip_id,
            row["split"],
            video,
            audio,
            row["transcript"],
            None if np.isnan(labels).all() else labels,
        )

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{n} {split}" for split in SPLITS if (n := int((self.table["split"] == split).sum()))
        )
        return f"Manifest({self.source}: {len(self)} clips{': ' + counts if counts else ''})"

    @property
    def clip_ids(self) -> list[str]:
        return list(self.table.index)

    @property
    def groups(self) -> dict[str, str]:
        """{clip: whose it is}; a clip of which nobody says is a group of its own."""
        return {clip_id: group or clip_id for clip_id, group in self.table["group"].items()}

    def select(self, split: str) -> Manifest:
        """The clips of one split. Raises ChoiceError for an unknown one."""
        if split not in SPLITS:
            raise ChoiceError(f"unknown split {split!r}; the splits are: {', '.join(SPLITS)}")
        return self._with(self.table[self.table["split"] == split])

    def thinned(self, split: str, count: int, seed: int = 0) -> Manifest:
        """The same table with only `count` clips of `split`, drawn so that fewer are always a part
        of more.

        Raises ValueError when the split has fewer clips.
        """
        ids = np.array(self.select(split).clip_ids, dtype=object)
        if not 0 < count <= len(ids):
            raise ValueError(f"{self.source}: {split} has {len(ids)} clips, asked for {count}")
        dropped = np.random.default_rng(seed).permutation(ids)[count:]
        return self._with(self.table.drop(index=dropped))

    def targets(self, clip_ids: Iterable[str]) -> np.ndarray:
        """Labels of these clips, (N, K) float64 in the order of the task's targets. Raises
        ValueError naming unlabelled clips."""
        clip_ids = list(clip_ids)
        unknown = [clip_id for clip_id in clip_ids if clip_id not in self.table.index]
        if unknown:
            raise KeyError(f"{self.source} has no clip {', '.join(unknown[:5])}")
        values = self.table.loc[clip_ids, list(self.task.targets)].to_numpy(np.float64)
        unlabelled = [
            clip_id for clip_id, row in zip(clip_ids, values, strict=True) if np.isnan(row).all()
        ]
        if unlabelled:
            raise ValueError(
                f"{self.source}: {len(unlabelled)} clips have no labels, "
                f"for example {unlabelled[0]}; leave the predict split out where labels are needed"
            )
        return values

    def _with(self, table: pd.DataFrame) -> Manifest:
        other = copy.copy(self)  # the rows were checked when they came in
        other.table = table
        return other


def _checked(
    rows: list[dict],
    files: _Files,
    source: str,
    places: Sequence[str],
    names: Mapping[str, str],
    task: Task,
    media: bool,
) -> pd.DataFrame:
    """The table in its final form (index clip_id; COLUMNS and targets), or ManifestError with
    everything that is wrong with it."""
    problems: list[str] = []
    first_place: dict[str, str] = {}
    finished: list[dict] = []
    for row, place in zip(rows, places, strict=True):

        def complain(column: str, what: str, place=place) -> None:
            problems.append(f"{place}, column {names.get(column, column)}: {what}")

        clip_id = _id(row, place, first_place, complain)
        cells = {kind: _text(row.get(kind)) for kind in ("video", "audio")}
        paths = {kind: files.checked(cell, kind, complain) for kind, cell in cells.items()}
        if media and not any(cells.values()):
            complain("video", f"clip {clip_id!r} has neither a video nor an audio file")
        labels = _labels(row, task, complain)
        transcript = row.get("transcript")
        finished.append(
            {
                "clip_id": clip_id,
                "split": _split(row, labels, complain),
                **paths,
                "transcript": None if transcript is None else _text(transcript),
                "group": _text(row.get("group")),
                **labels,
            }
        )
    if not any(target in row for row in rows for target in task.targets):
        problems += _without_labels(finished, places, task)
    if problems:
        raise ManifestError(source, problems)
    table = pd.DataFrame(finished, columns=["clip_id", *COLUMNS, *task.targets]).set_index(
        "clip_id"
    )
    kinds = dict.fromkeys(COLUMNS, object) | dict.fromkeys(task.targets, np.float64)
    return table.astype(kinds)


def _id(row: dict, place: str, first_place: dict[str, str], complain: _Complain) -> str:
    clip_id = composed(_text(row.get("clip_id")))
    length = len(clip_id.encode(errors="replace"))
    if not _ID.fullmatch(clip_id):
        complain(
            "clip_id",
            f"{clip_id!r} is not usable as an id; use letters, digits, '_', '-' and '.', "
            "no folders: it names a file inside the data folder",
        )
    elif length > LONGEST_ID:
        complain(
            "clip_id",
            f"{clip_id[:20]!r}... takes {length} bytes as a file name, {LONGEST_ID} are allowed; "
            "use a shorter id",
        )
    elif clip_id in first_place:
        complain("clip_id", f"{clip_id!r} is a duplicate of {first_place[clip_id]}")
    first_place.setdefault(clip_id, place)
    return clip_id


def _labels(row: dict, task: Task, complain: _Complain) -> dict[str, float]:
    """{target: value}, NaN where the cell is empty: all or none, unless the task takes some."""
    values = {target: _label(row.get(target), target, task, complain) for target in task.targets}
    empty = [target for target in task.targets if not _text(row.get(target))]
    if task.missing_labels == "refuse" and 0 < len(empty) < len(task.targets):
        for target in empty:
            complain(
                target,
                "is empty although other labels of the clip have values; fill all "
                "or none, or learn from what is there: --set task.missing_labels=mask",
            )
    return values


def as_number(text: str) -> float:
    """A cell as a number. Raises ValueError, also for what Python would read: 0.2_5 as 0.25, nan
    (a label that is not known has an empty cell)."""
    value = math.nan if "_" in text else float(text)
    if math.isnan(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def _split(row: dict, labels: dict[str, float], complain: _Complain) -> str:
    empty = not any(_text(row.get(target)) for target in labels)
    split = _text(row.get("split")) or ("predict" if empty else "train")
    if split not in SPLITS:
        complain("split", f"unknown split {split!r}; the splits are: {', '.join(SPLITS)}")
    elif empty and split in _LABELLED_SPLITS and any(target in row for target in labels):
        complain(
            next(iter(labels)),
            f"a clip of the {split} split needs labels; without them its split is predict",
        )
    return split


def _without_labels(finished: list[dict], places: Sequence[str], task: Task) -> list[str]:
    """One line for each split that needs labels, of a table that has no columns for them."""
    lines = []
    for split in _LABELLED_SPLITS:
        if found := [place for clip, place in zip(finished, places) if clip["split"] == split]:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            lines.append(
                f"{', '.join(found[:3])}{more}, column split: the {split} split needs labels, and "
                f"the table has none; add the columns {', '.join(task.targets)}, or write predict"
            )
    return lines


def _text(cell: object) -> str:
    missing = cell is None or (isinstance(cell, float) and math.isnan(cell))
    return "" if missing else str(cell).strip()


def composed(name: str) -> str:
    """A letter with an accent as one character. macOS writes two, and both look the same."""
    return unicodedata.normalize("NFC", name)


class _Files:
    """Where the files of a table lie. Folders are listed once, and only for names that are not
    there as they are written."""

    def __init__(self, root: Path, links: str):
        self.root, self.follow = os.path.abspath(root), links == "follow"
        self._listed: dict[str, dict[str, list[str]]] = {}

    def place(self, cell: str) -> str:
        """The absolute path that a cell means, as the disk spells it."""
        return self._spelled(os.path.normpath(os.path.join(self.root, cell)))

    def checked(self, cell: str, kind: str, complain: _Complain) -> str:
        """The cell as a path relative to the data folder, or as the absolute path that it is."""
        if not cell:
            return ""
        full, absolute = self.place(cell), os.path.isabs(cell)
        inside = Path(full).is_relative_to(self.root)
        if not (inside or absolute):
            complain(
                kind,
                f"{cell!r} leaves the data folder; put the file into it, or give an absolute path",
            )
        elif not os.path.isfile(full):
            where = " in the data folder" if inside else ""
            complain(
                kind,
                f"{cell!r} does not exist{where}; "
                "to leave such clips out: --set data.missing_files=skip",
            )
        elif not (absolute or self.follow or self._stays(full)):
            complain(
                kind,
                f"{cell!r} is, or lies in, a link that leaves the data folder; give an absolute "
                "path, or trust the folder's links: --set data.links=follow",
            )
        return os.path.relpath(full, self.root) if inside else full

    def _stays(self, path: str) -> bool:
        """Whether all links lead to somewhere in the folder, which may be a link itself."""
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))

    def _spelled(self, path: str) -> str:
        # no disk holds longer paths; what they are made of may be hostile
        if path.isascii() or len(path) > 4096 or os.path.lexists(path):
            return path
        above, name = os.path.split(path)
        folder = self._spelled(above)
        if folder not in self._listed:
            names = os.listdir(folder) if os.path.isdir(folder) else []
            self._listed[folder] = {}
            for there in names:
                self._listed[folder].setdefault(composed(there), []).append(there)
        found = self._listed[folder].get(composed(name), [])
        # of several none is the one that is meant
        return os.path.join(folder, found[0] if len(found) == 1 else name)


def _label(cell: object, target: str, task: Task, complain: _Complain) -> float:
    text = _text(cell)
    if not text:
        return math.nan
    try:
        value = as_number(text)
    except ValueError:
        point = ", write a decimal point" if re.fullmatch(r"\d*,\d+", text) else ""
        complain(target, f"{text!r} is not a number{point}")
        return math.nan
    if not task.low <= value <= task.high:
        complain(target, f"{text} is outside [{task.low:g}, {task.high:g}]")
    return value

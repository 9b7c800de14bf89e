"""The clip table: which clips there are, where their files lie, and their labels.

Everything starts here: a reader (a CSV of one's own clips, `vidmimic2`, `synthmimic`) makes a
`Manifest`, the encoders read its files, the training reads its labels. A manifest that exists is
sound: construction checks every rule and lists all the problems at once, before anything is
decoded.
"""

from __future__ import annotations

import copy
import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from taemi_lib.errors import ChoiceError, ManifestError
from taemi_lib.profiles import EMOTIONS, SPLITS

COLUMNS = ("split", "video", "audio", "transcript", *EMOTIONS)
_LABELLED_SPLITS = ("train", "selection", "test")
_ID = re.compile(
    r"\w[\w.\- ]{0,199}"
)  # an id names a file of the feature store: no separators, no leading dot


@dataclass(frozen=True)
class Clip:
    """One row: file paths are absolute, `labels` are the six intensities (6,) in [0, 1] or None
    where unknown.

    `audio` is a separate sound file; where it is None the sound comes from `video`. `transcript` is
    None where the source has no transcripts at all, and "" where it says that nothing was spoken.
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
            audio, transcript and the six emotions; cells may be strings as read from a file. Rows
            without a split get one by `default_split`.
    root:   folder that the paths in `video` and `audio` are relative to, and must stay in.
    source: what to call this table in errors, usually the CSV's name.
    labels: name of the label set ("cue", "fixed", ... of the generator); "" where there is only
    one. places: "file, row n" for every row, for the errors; by default the rows of `source`, its
    header being row 1.
    names:  column names as the source spells them, where they differ ({"clip_id": "Filename"}).

    Raises ManifestError listing every problem: duplicate or unusable ids, files that do not exist
    or lie outside `root`, labels that are no numbers or outside [0, 1], unknown splits, labels
    missing where the split needs them.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        root: str | Path,
        source: str,
        labels: str = "",
        places: Sequence[str] | None = None,
        names: Mapping[str, str] | None = None,
    ):
        self.root, self.source, self.labels = Path(root), source, labels
        raw = table.reset_index() if "clip_id" not in table else table
        rows = raw.to_dict("records")
        places = places or [f"{source}, row {number + 2}" for number in range(len(rows))]
        self.table = _checked(rows, self.root, source, places, names or {})

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
        labels = row[list(EMOTIONS)].to_numpy(np.float64)
        video, audio = (self.root / row[kind] if row[kind] else None for kind in ("video", "audio"))
        return Clip(
            clip_id,
            row["split"],
            video,
            audio,
            row["transcript"],
            None if np.isnan(labels).any() else labels,
        )

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{n} {split}" for split in SPLITS if (n := int((self.table["split"] == split).sum()))
        )
        return f"Manifest({self.source}: {len(self)} clips{': ' + counts if counts else ''})"

    @property
    def clip_ids(self) -> list[str]:
        return list(self.table.index)

    def select(self, split: str) -> Manifest:
        """The clips of one split. Raises ChoiceError for a name that is no split."""
        if split not in SPLITS:
            raise ChoiceError(f"there is no split {split!r}; the splits are: {', '.join(SPLITS)}")
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
        """Labels of these clips, (N, 6) float64 in the order of EMOTIONS. Raises ValueError naming
        unlabelled clips."""
        clip_ids = list(clip_ids)
        unknown = [clip_id for clip_id in clip_ids if clip_id not in self.table.index]
        if unknown:
            raise KeyError(f"{self.source} has no clip {', '.join(unknown[:5])}")
        values = self.table.loc[clip_ids, list(EMOTIONS)].to_numpy(np.float64)
        unlabelled = [
            clip_id for clip_id, row in zip(clip_ids, values, strict=True) if np.isnan(row).any()
        ]
        if unlabelled:
            raise ValueError(
                f"{self.source}: {len(unlabelled)} clips have no labels, for example {unlabelled[0]}; "
                "leave the predict split out where labels are needed"
            )
        return values

    def with_labels(self, labels: pd.DataFrame, name: str) -> Manifest:
        """The same clips under another label set: `labels` has the six emotions as columns and clip
        ids as index."""
        table = self.table.copy()
        table[list(EMOTIONS)] = labels.reindex(table.index)[list(EMOTIONS)].astype(np.float64)
        return Manifest(table, self.root, f"{self.source} [{name}]", name)

    def with_transcripts(self, transcripts: Mapping[str, str]) -> Manifest:
        """The same clips with these transcripts; a clip that is not named is one where nothing was
        spoken."""
        return self._with(
            self.table.assign(transcript=[transcripts.get(i, "") for i in self.table.index])
        )

    def _with(self, table: pd.DataFrame) -> Manifest:
        other = copy.copy(self)  # the rows were checked when they came in
        other.table = table
        return other


def read_csv(
    path: str | Path, root: str | Path | None = None, selection_share: float = 0.1, seed: int = 0
) -> Manifest:
    """One's own clips from a CSV.

    Columns: clip_id, video, the six emotions (cells may be empty, all six or none), optionally
    split, audio, transcript. Paths are relative to `root`, by default the CSV's folder, and stay in
    it. Without splits, labelled clips are train and the others predict; where there is train but no
    selection, a seeded share of train becomes selection. Where there is a transcript column, an
    empty cell means that nothing was spoken. Raises ManifestError listing every problem.
    """
    path = Path(path)
    rows, places = read_rows(path, required=("clip_id", "video", *EMOTIONS))
    manifest = Manifest(pd.DataFrame(rows), root or path.parent, path.name, places=places)
    table = manifest.table
    if not (table["split"] == "selection").any():
        held_out = hold_out(table.index[table["split"] == "train"], selection_share, seed)
        table.loc[sorted(held_out), "split"] = "selection"
    return manifest


def read_rows(path: Path, required: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of a CSV as strings, and "file, row n" for each (the header is row 1, as spreadsheets
    count).

    Raises ManifestError when the file is missing, is no CSV in UTF-8, lacks a required column, or
    has ragged rows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
    except OSError as error:
        raise ManifestError(path.name, [f"{path}: cannot be read ({error.strerror})"]) from error
    except UnicodeDecodeError as error:
        raise ManifestError(
            path.name, [f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8"]
        ) from error
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True))
    except csv.Error as error:
        raise ManifestError(path.name, [f"{path}: is not a CSV ({error})"]) from error
    header = [name.strip() for name in lines[0]] if lines else []
    problems = [
        f"{path.name}, row 1, column {name}: missing column"
        for name in required
        if name not in header
    ]
    problems += [
        f"{path.name}, row 1, column {name}: appears twice"
        for name in sorted(set(header))
        if name and header.count(name) > 1
    ]
    rows, places = [], []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        place = f"{path.name}, row {number}"
        if len(cells) != len(header):
            problems.append(
                f"{place}, column {min(len(cells), len(header)) + 1}: "
                f"the row has {len(cells)} cells, the header {len(header)}"
            )
        rows.append(dict(zip(header, (cell.strip() for cell in cells), strict=False)))
        places.append(place)
    if not rows and not problems:
        problems.append(f"{path.name}, row 2, column {required[0]}: the table has no rows")
    if problems:
        raise ManifestError(path.name, problems)
    return rows, places


def hold_out(clip_ids: Iterable[str], share: float, seed: int) -> set[str]:
    """A seeded share of the ids (at least one of two or more), the same whatever order they come
    in."""
    ordered = sorted(clip_ids)
    if not 0 <= share < 1:
        raise ValueError(f"selection_share is {share}, expected 0 <= share < 1")
    count = min(max(round(share * len(ordered)), int(share > 0)), max(len(ordered) - 1, 0))
    return set(np.random.default_rng(seed).permutation(ordered)[:count].tolist())


def _checked(
    rows: list[dict], root: Path, source: str, places: Sequence[str], names: Mapping[str, str]
) -> pd.DataFrame:
    """The table in its final form (index clip_id, COLUMNS), or ManifestError with everything that
    is wrong with it."""
    problems: list[str] = []
    first_place: dict[str, str] = {}
    finished: list[dict] = []
    for row, place in zip(rows, places, strict=True):

        def complain(column: str, what: str, place=place) -> None:
            problems.append(f"{place}, column {names.get(column, column)}: {what}")

        clip_id = _text(row.get("clip_id"))
        if not _ID.fullmatch(clip_id):
            complain(
                "clip_id",
                f"{clip_id!r} is not usable as an id; use letters, digits, '_', '-' and '.', "
                "no folders: it names a file inside the data folder",
            )
        elif clip_id in first_place:
            complain("clip_id", f"{clip_id!r} is a duplicate of {first_place[clip_id]}")
        first_place.setdefault(clip_id, place)

        paths = {
            kind: _path(_text(row.get(kind)), root, kind, complain) for kind in ("video", "audio")
        }
        if not any(_text(row.get(kind)) for kind in ("video", "audio")):
            complain("video", f"clip {clip_id!r} has neither a video nor an audio file")

        values = [_label(row.get(emotion), emotion, complain) for emotion in EMOTIONS]
        empty = [emotion for emotion, value in zip(EMOTIONS, values, strict=True) if value is None]
        if 0 < len(empty) < len(EMOTIONS):
            for emotion in empty:
                complain(
                    emotion,
                    "is empty although other emotions of the clip have values; fill all six or none",
                )

        split = _text(row.get("split")) or ("predict" if empty else "train")
        if split not in SPLITS:
            complain("split", f"{split!r} is no split; the splits are: {', '.join(SPLITS)}")
        elif split in _LABELLED_SPLITS and len(empty) == len(EMOTIONS):
            complain(
                EMOTIONS[0],
                f"a clip of the {split} split needs labels; without them its split is predict",
            )

        transcript = row.get("transcript")
        finished.append(
            {
                "clip_id": clip_id,
                "split": split,
                **paths,
                "transcript": None
                if "transcript" not in row or transcript is None
                else _text(transcript),
                **{
                    emotion: math.nan if value is None else value
                    for emotion, value in zip(EMOTIONS, values, strict=True)
                },
            }
        )
    if problems:
        raise ManifestError(source, problems)
    table = pd.DataFrame(finished, columns=["clip_id", *COLUMNS]).set_index("clip_id")
    texts = ["split", "video", "audio", "transcript"]
    return table.astype({**dict.fromkeys(texts, object), **dict.fromkeys(EMOTIONS, np.float64)})


def _text(cell: object) -> str:
    missing = cell is None or (isinstance(cell, float) and math.isnan(cell))
    return "" if missing else str(cell).strip()


def _path(cell: str, root: Path, kind: str, complain) -> str:
    """The cell as a path relative to `root`. Links inside the folder may point anywhere: their
    owner put them there."""
    if not cell:
        return ""
    base = os.path.abspath(root)
    full = os.path.normpath(os.path.join(base, cell))
    if not Path(full).is_relative_to(base):
        complain(kind, f"{cell!r} leaves the data folder; put the file into it, or a link to it")
    elif not os.path.isfile(full):
        complain(kind, f"{cell!r} does not exist in the data folder")
    return os.path.relpath(full, base)


def _label(cell: object, emotion: str, complain) -> float | None:
    text = _text(cell)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        complain(emotion, f"{text!r} is not a number")
    elif not 0 <= value <= 1:
        complain(emotion, f"{text} is outside [0, 1]")
    return value

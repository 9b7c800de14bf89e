"""CSV files: their rows, and the splits of a table of own clips."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from taemi_lib.data.manifest import COLUMNS, Manifest
from taemi_lib.errors import ManifestError
from taemi_lib.profiles import Data, Task

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_csv(
    path: str | Path,
    data: Data | None = None,
    root: str | Path | None = None,
    task: Task | None = None,
    media: bool = True,
) -> Manifest:
    """One's own clips from a CSV.

    Columns: clip_id, video (without `media`: neither is needed); the targets of the task where
    there are labels (cells may be empty: all of a clip's, or any where the task says so);
    optionally split, audio, transcript, group. Paths are relative to `root`, by default the
    CSV's folder, and stay in it, or are absolute. Without a split column, labelled clips get seeded
    splits (data.seed, data.test_share, data.selection_share) and the others are to be predicted;
    where there is train but no selection, a share of train becomes selection. Clips of one `group`
    (a speaker, say) stay together. Raises ManifestError listing every problem.
    """
    path, data = Path(path), data or Data()
    task = task or Task()
    required = ("clip_id", "video") if media else ("clip_id",)
    rows, places = read_rows(path, required, together=task.targets)
    manifest = Manifest(
        pd.DataFrame(rows),
        root or path.parent,
        path.name,
        places=places,
        missing_files=data.missing_files,
        links=data.links,
        task=task,
        media=media,
    )
    table = manifest.table
    groups = manifest.groups
    if not any(row.get("split") for row in rows):
        test = hold_out(_of(groups, table, "train"), data.test_share, data.seed, keep=2)
        table.loc[sorted(test), "split"] = "test"
    if not (table["split"] == "selection").any():
        chosen = hold_out(_of(groups, table, "train"), data.selection_share, data.seed)
        table.loc[sorted(chosen), "split"] = "selection"
    return manifest


def _of(groups: Mapping[str, str], table: pd.DataFrame, split: str) -> dict[str, str]:
    return {clip_id: groups[clip_id] for clip_id in table.index[table["split"] == split]}


def hold_out(groups: Mapping[str, str], share: float, seed: int, keep: int = 1) -> set[str]:
    """A seeded share of the clips, the same whatever order they come in.

    groups: {clip id: its group}. A group is held out as a whole, and at least `keep` groups stay.
    Groups are drawn while they fit into the share; where none does, the smallest one is held out.
    """
    members: dict[str, list[str]] = {}
    for clip_id, group in groups.items():
        members.setdefault(group, []).append(clip_id)
    drawn = np.random.default_rng(seed).permutation(sorted(members)).tolist()
    wanted, found = max(round(share * len(groups)), 1), list[str]()
    left = max(len(members) - keep, 0)  # groups that may still be held out
    for group in drawn:
        if left and len(found) + len(members[group]) <= wanted:
            found += members[group]
            left -= 1
    if left and not found:  # every group is larger than the share: the smallest one
        found = members[min(drawn, key=lambda group: len(members[group]))]
    return set(found)


def read_rows(
    path: Path, required: Sequence[str], together: Sequence[str] = ()
) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of a CSV as strings, and "file, row n" for each (the header is row 1, as spreadsheets
    count).

    together: columns of which all or none must be there. Raises ManifestError when the file is
    missing, is no CSV in UTF-8 with commas (a first line "sep=," is passed over), lacks a required
    column, or has ragged rows.
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
    top = _after_hint(path.name, lines)
    header = [name.strip() for name in lines[top]] if len(lines) > top else []
    _refuse_other_separator(path.name, header, required[0])
    problems = _header_problems(path.name, header, required, together)
    rows, places = [], []
    for number, cells in enumerate(lines[top + 1 :], start=top + 2):
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


def _after_hint(name: str, lines: list[list[str]]) -> int:
    """Index of the header: 1 after the line "sep=," that Excel takes, and some programs write.

    Raises ManifestError when it asks for another separator.
    """
    first = ",".join(lines[0]).strip() if lines else ""
    if not first.lower().startswith("sep="):
        return 0
    separator = first[len("sep=") :] or "\t"  # stripped
    if separator != ",":
        spoken = SEPARATORS.get(separator, repr(separator))
        raise ManifestError(
            name, [f"{name}, row 1: separated by {spoken}; save the table with commas"]
        )
    return 1


def _refuse_other_separator(name: str, header: list[str], first: str) -> None:
    """Raises ManifestError when the first needed column is in the header, and commas are not what
    separates it."""
    for separator, spoken in SEPARATORS.items():
        cells = [cell.strip(' "') for cell in ",".join(header).split(separator)]
        if first not in header and first in cells:
            raise ManifestError(
                name, [f"{name}, row 1: separated by {spoken}; save the table with commas"]
            )


def _header_problems(
    name: str, header: list[str], required: Sequence[str], together: Sequence[str]
) -> list[str]:
    some = any(column in header for column in together)
    wanted = (*required, *(together if some else ()))
    there = f"the table has: {', '.join(filter(None, header)) or 'nothing'}"
    problems = [
        f"{name}, row 1, column {column}: missing column; {there}"
        for column in wanted
        if column not in header
    ]
    problems += [
        f"{name}, row 1, column {column}: appears twice"
        for column in sorted(set(header))
        if column and header.count(column) > 1
    ]
    # Columns that are not needed would be overlooked in silence.
    known = {column.lower(): column for column in ("clip_id", *COLUMNS, *together)}
    return problems + [
        f"{name}, row 1, column {column}: write it {known[column.lower()]!r}"
        for column in header
        if known.get(column.lower(), column) not in header and column not in required
    ]

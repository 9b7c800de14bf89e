"""One's own features: a folder of audio/<clip>.npy, vision/<clip>.npy, text/<clip>.npy (or
.safetensors, one tensor each), (T, D) or (D,), with a CSV of labels.

pooled/<clip>.npy, (D,), is the text's vector, where there is one. The CSV has clip_id, optionally
split, group and transcript, and one column a target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from taemi_lib.data.manifest import as_number
from taemi_lib.data.readers.base import SPLITS, FeatureClip, Source, reader, steps
from taemi_lib.data.tables import hold_out
from taemi_lib.profiles import MODALITIES, TABLE_COLUMNS, Data

_ENDINGS = (".npy", ".safetensors")


def recognises(source: Source) -> bool:
    return len(_tables(source)) == 1 and any((source.path / m).is_dir() for m in MODALITIES)


def _tables(source: Source) -> list[str]:
    return sorted(path.name for path in source.path.glob("*.csv")) if source.path.is_dir() else []


@reader("own", "a folder of audio/, vision/, text/<clip>.npy or .safetensors and a CSV", recognises)
def read(source: Source) -> Iterator[FeatureClip]:
    """Clips of a folder of one's own."""
    tables = _tables(source)
    if len(tables) != 1:
        raise source.stop(f"expected one CSV of labels in the folder, found {tables or 'none'}")
    rows = source.table(tables[0], ("clip_id",))
    targets = tuple(
        source.options.targets or (name for name in rows[0] if name and name not in TABLE_COLUMNS)
    )
    source.task(targets)
    if not targets:
        source.problem(f"{tables[0]}: no column of labels beside {', '.join(rows[0])}")
    drawn = None if any(row.get("split") for row in rows) else _drawn(source, rows, targets)
    for number, row in enumerate(rows, start=2):
        place = f"{tables[0]}, row {number}"
        split = drawn[row["clip_id"]] if drawn else SPLITS.get(row.get("split") or "train")
        if split is None:
            source.problem(f"{place}: split {row['split']!r} is none of {', '.join(SPLITS)}")
            continue
        yield _clip(
            source, row, split, {name: _number(source, row, name, place) for name in targets}
        )


def _drawn(source: Source, rows: list[dict[str, str]], targets: tuple[str, ...]) -> dict[str, str]:
    """A table without splits: labelled clips are train and test, others are to be predicted."""
    labelled = {
        row["clip_id"]: row.get("group") or row["clip_id"]
        for row in rows
        if any(row.get(name) for name in targets)
    }
    test = hold_out(labelled, Data().test_share, source.options.seed, keep=2)
    source.assume(
        f"the table has no splits: {len(test)} of {len(labelled)} labelled clips are the test "
        f"split (seed {source.options.seed})"
    )
    names = {clip: "test" if clip in test else "train" for clip in labelled}
    return {row["clip_id"]: names.get(row["clip_id"], "predict") for row in rows}


def _number(source: Source, row: dict[str, str], name: str, place: str) -> float:
    if name not in row:
        source.problem(f"no column {name!r} in the table; it has: {', '.join(row)}")
        return math.nan
    try:
        return as_number(row[name]) if row[name] else math.nan
    except ValueError:
        source.problem(f"{place}, column {name}: {row[name]!r} is not a number")
        return math.nan


def _clip(source: Source, row: dict[str, str], split: str, labels: dict[str, float]) -> FeatureClip:
    absent: dict[str, str] = {}
    found = {}
    for kind in (*MODALITIES, "pooled"):
        array = _read(source, kind, row["clip_id"])
        if array is None:
            continue
        try:
            found[kind] = steps(array)
        except ValueError as error:
            source.problem(f"{kind}/{row['clip_id']}: {error}")
            continue
        if not len(found[kind]):
            del found[kind]
            absent[kind] = "no steps in the source"
    pooled = found.pop("pooled", None)
    if pooled is not None and len(pooled) != 1:
        source.problem(f"pooled/{row['clip_id']}: {len(pooled)} vectors, expected one")
    return FeatureClip(
        row["clip_id"],
        split,
        labels,
        found,
        pooled=None if pooled is None else pooled[0],
        transcript=row.get("transcript"),
        group=row.get("group", ""),
        absent={kind: why for kind, why in absent.items() if kind != "pooled"},
    )


def _read(source: Source, kind: str, clip: str) -> np.ndarray | None:
    names = [f"{kind}/{clip}{ending}" for ending in _ENDINGS]
    there = [name for name in names if source.place(name).is_file()]
    if len(there) > 1:
        source.problem(f"{' and '.join(there)} are both there; keep one")
    if not there or not source.place(there[0]).resolve().is_relative_to(source.path.resolve()):
        return None
    return source.array(there[0])

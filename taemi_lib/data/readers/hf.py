"""A folder of Hugging Face `datasets`: parquet files, one row a clip, with columns of sequences.

Splits are the names of the files (train-00000-of-00001.parquet) or of their folders. Columns audio,
vision and text hold lists of vectors, or one vector; id (or clip_id, name), transcript (raw_text),
group (speaker, video) are taken where they are there; any other column of numbers is a target.
Other names are given by the user. pyarrow reads parquet, a few rows at a time, without `datasets`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from taemi_lib.data.readers.base import SPLITS, FeatureClip, Source, reader
from taemi_lib.profiles import MODALITIES
from taemi_lib.support import memory

ROWS = 64  # in memory at a time
# ours -> what else it is called
_CALLED = {
    "clip_id": ("id", "clip_id", "name", "clip"),
    "transcript": ("transcript", "raw_text", "sentence"),
    "group": ("group", "speaker", "video"),
    "pooled": ("pooled",),
    **{name: (name,) for name in MODALITIES},
}


def recognises(source: Source) -> bool:
    return source.path.is_dir() and bool(_files(source))


def _files(source: Source) -> list[str]:
    found = sorted(source.path.rglob("*.parquet"))
    return [path.relative_to(source.path).as_posix() for path in found]


@reader("hf", "a folder of Hugging Face datasets: parquet files with sequence columns", recognises)
def read(source: Source) -> Iterator[FeatureClip]:
    """Clips of a folder of parquet files."""
    files = _files(source)
    if not files:
        hint = ""
        if any(source.path.rglob("*.arrow")):
            hint = "; save_to_disk wrote .arrow files: write parquet with to_parquet"
        raise source.stop(f"no parquet files in the folder{hint}")
    source.task()
    for name in files:
        split = _split_of(name)
        if split is None:
            source.problem(f"{name}: no split in its name: train-..., validation-...")
        else:
            yield from _file(source, name, split)


def _split_of(name: str) -> str | None:
    """The split in a file's name, or in that of one of its folders."""
    for part in reversed(name.removesuffix(".parquet").split("/")):
        first = re.split(r"[-_.]", part)[0].lower()
        if first in SPLITS:
            return SPLITS[first]
    return None


def _file(source: Source, name: str, split: str) -> Iterator[FeatureClip]:
    path = source.place(name)
    with path.open("rb") as opened:
        source.read(name, hashlib.file_digest(opened, "sha256").hexdigest())
    try:
        file = pq.ParquetFile(path)
        needed = max(
            (file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)),
            default=0,
        )
    except (pa.ArrowException, OSError) as error:
        source.problem(f"{name}: is no parquet file, or damaged ({str(error)[:200]})")
        return
    if (there := memory.available()) < 2 * needed:
        source.problem(
            f"{name}: its largest group of rows takes {memory.gigabytes(2 * needed)} of memory, "
            f"this machine has {memory.gigabytes(there)} left; write smaller row groups"
        )
        return
    if not file.metadata.num_rows:
        source.problem(f"{name}: split {split!r} has no clips")
        return
    columns = _columns(source, file.schema_arrow.names)
    kinds = {field.name: field.type for field in file.schema_arrow}
    targets = _targets(source, kinds, columns)
    if "clip_id" not in columns:
        source.problem(f"{name}: no column of ids; name it: --column clip_id=COLUMN")
        return
    row = 0
    try:
        for batch in file.iter_batches(ROWS, columns=[*columns.values(), *targets]):
            for index in range(batch.num_rows):
                yield _clip(source, batch, index, split, columns, targets, f"{name}, row {row}")
                row += 1
    except pa.ArrowException as error:
        source.problem(f"{name}: damaged ({str(error)[:200]})")


def _columns(source: Source, names: list[str]) -> dict[str, str]:
    """{ours: the file's} of the columns that are there."""
    found = {}
    for ours, called in _CALLED.items():
        asked = source.options.columns.get(ours)
        if asked is not None and asked not in names:
            source.problem(f"--column {ours}={asked}: no such column; there are {', '.join(names)}")
        there = [name for name in (called if asked is None else (asked,)) if name in names]
        if there:
            found[ours] = there[0]
    return found


def _targets(
    source: Source, kinds: dict[str, pa.DataType], columns: dict[str, str]
) -> tuple[str, ...]:
    numbers = [
        name
        for name, kind in kinds.items()
        if name not in columns.values()
        and (pa.types.is_floating(kind) or pa.types.is_integer(kind))
    ]
    asked = source.options.targets
    found = tuple(name for name in asked if name in kinds) if asked else tuple(numbers)
    if asked and (missing := [name for name in asked if name not in kinds]):
        source.problem(
            f"--targets {','.join(missing)}: no such column; there are {', '.join(kinds)}"
        )
    return found


def _clip(
    source: Source,
    batch: pa.RecordBatch,
    index: int,
    split: str,
    columns: dict[str, str],
    targets: tuple[str, ...],
    place: str,
) -> FeatureClip:
    def cell(name: str) -> pa.Scalar:
        return batch.column(batch.schema.get_field_index(name))[index]

    absent: dict[str, str] = {}
    arrays = {}
    for kind in (*MODALITIES, "pooled"):
        if kind in columns:
            try:
                values = _numbers(cell(columns[kind]))
            except (ValueError, pa.ArrowException) as error:
                source.problem(f"{place}, column {columns[kind]}: {error}")
                continue
            if values is None or not values.size:
                absent[kind] = "no steps in the source"
            else:
                arrays[kind] = values
    told = {
        ours: (None if (found := cell(columns[ours]).as_py()) is None else str(found))
        for ours in ("clip_id", "transcript", "group")
        if ours in columns
    }
    pooled = arrays.pop("pooled", None)
    labels = {name: cell(name).as_py() for name in targets}
    return FeatureClip(
        told["clip_id"] or "",
        split,
        {name: float("nan") if value is None else float(value) for name, value in labels.items()},
        arrays,
        pooled=None if pooled is None else pooled.reshape(-1),
        transcript=told.get("transcript"),
        group=told.get("group") or "",
        absent={kind: why for kind, why in absent.items() if kind in MODALITIES},
    )


def _numbers(cell: pa.Scalar) -> np.ndarray | None:
    """(T, D) or (D,) of a list of lists, or a list, of numbers. Raises ValueError."""
    if not isinstance(cell, pa.ListScalar):  # all kinds of lists are
        raise ValueError(f"{cell.type}, expected lists of numbers")
    values = cell.values
    if values is None:
        return None
    if not pa.types.is_nested(values.type):
        return _flat(values)
    widths = {} if values.null_count else set(pc.list_value_length(values).to_pylist())
    if len(values) and len(widths) != 1:
        raise ValueError("its steps are missing or of different widths")
    return _flat(values.flatten()).reshape(len(values), -1) if len(values) else None


def _flat(values: pa.Array) -> np.ndarray:
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise ValueError(f"{values.type}, expected numbers")
    return values.to_numpy(zero_copy_only=False)  # what is null becomes NaN

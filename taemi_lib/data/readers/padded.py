"""Pickles of padded arrays (N, L, D), a dictionary for each split: which steps of each clip are
real.

Lengths or the text's mask say so where a format has them. Rows of zeros are the last resort: they
are cut at the end, or at the start where a file pads there, never in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from taemi_lib.data.readers.base import SPLITS, Source, as_array

Extent = tuple[np.ndarray, np.ndarray]  # (N,) first real step, (N,) the one behind the last


def is_pickle(source: Source) -> bool:
    """By its name or its first byte, which protocol 2 and later begin with."""
    if not source.path.is_file():
        return False
    with source.path.open("rb") as file:
        return source.path.suffix in (".pkl", ".pickle", ".p") or file.read(1) == b"\x80"


def splits(source: Source, key: str) -> dict[str, Mapping[str, Any]]:
    """The splits of a pickle of splits that have this key."""
    if not source.path.is_file():
        return {}
    found = source.pickle()
    return {
        name: part
        for name, part in (found.items() if isinstance(found, dict) else ())
        if name in SPLITS and isinstance(part, dict) and key in part
    }


def lengths(
    part: Mapping[str, Any],
    modality: str,
    size: int,
    clips: list[str],
    source: Source,
    split: str,
) -> Extent | None:
    """Extents by the lengths (N,) that the file gives, checked against its array's `size`, or None
    where it gives none."""
    name = f"{modality}_lengths"
    if part.get(name) is None:
        return None
    try:
        given = as_array(part[name]).reshape(-1)
    except ValueError as error:
        source.problem(f"{split}: {name} are no numbers ({error})")
        return None
    if len(given) != len(clips):
        source.problem(f"{split}: {name} has {len(given)} entries for {len(clips)} clips")
        return None
    wrong = [
        f"{clip} ({length:g})"
        for clip, length in zip(clips, given, strict=True)
        if not 0 <= length <= size or length != int(length)
    ]
    if wrong:
        source.problem(
            f"{split}: {name} outside 0 to {size}, the array's length, of {len(wrong)} clips: "
            f"{', '.join(wrong[:5])}"
        )
        return None
    source.assume(f"{modality}: padding is what lies behind {name}")
    return np.zeros(len(clips), int), given.astype(int)


def by_zeros(values: np.ndarray, modality: str, source: Source) -> Extent:
    """Extents by rows of zeros, at that end at which this file pads."""
    real = np.asarray(values.any(axis=2))  # (N, L)
    some, size = real.any(axis=1), real.shape[1]
    first = np.where(some, real.argmax(axis=1), 0)
    last = np.where(some, size - real[:, ::-1].argmax(axis=1), 0)
    front, back = int((first > 0)[some].sum()), int((last < size)[some].sum())
    side = "start" if front > back else "end"
    if front or back:
        other = min(front, back)
        kept = f"; {other} clips have such rows at the other end, kept as steps" if other else ""
        source.assume(f"{modality}: rows of zeros at the {side} are taken for padding{kept}")
    else:
        source.assume(f"{modality}: no rows of zeros at either end, so no padding")
    return (first, np.where(some, size, 0)) if side == "start" else (np.zeros_like(last), last)


def aligned(values: np.ndarray, extent: Extent, modality: str, source: Source) -> Extent | None:
    """The text's extent for another modality of the same length; None where that has values outside
    of it."""
    places = np.arange(values.shape[1])
    outside = (places < extent[0][:, None]) | (places >= extent[1][:, None])
    if (values.any(axis=2) & outside).any():
        source.assume(
            f"{modality}: is as long as the text, but has values where the text has none, so it is "
            "not aligned to it"
        )
        return None
    source.assume(f"{modality}: aligned to the text, so its padding is the text's")
    return extent


def cut(
    values: np.ndarray, extent: Extent, row: int, modality: str, absent: dict[str, str]
) -> np.ndarray | None:
    """The real steps of one clip, or None and the reason in `absent`."""
    start, stop = int(extent[0][row]), int(extent[1][row])
    if stop <= start:
        absent[modality] = "no steps in the source"
        return None
    return values[row, start:stop]


def three_axes(
    part: Mapping[str, Any], modality: str, clips: list[str], source: Source, split: str
) -> np.ndarray | None:
    """A split's array (N, L, D), or None where there is none, or a problem with it. (N, D) are
    vectors of one step."""
    if part.get(modality) is None:
        return None
    try:
        values = as_array(part[modality])
    except ValueError as error:
        source.problem(f"{split}: {modality} is no array of numbers ({error})")
        return None
    if values.ndim == 2:
        values = values[:, None]
    if values.ndim != 3 or len(values) != len(clips):
        source.problem(
            f"{split}: {modality} has shape {values.shape}, expected ({len(clips)} clips, steps, "
            "width)"
        )
        return None
    return values


def without_infinity(values: np.ndarray, clip: str, source: Source) -> np.ndarray:
    """-inf, a logarithm of silence in the field's files, becomes 0, as the field does."""
    if values.dtype.kind == "f" and np.isneginf(values).any():
        source.assume("audio: -inf becomes 0", clip)
        values = np.where(np.isneginf(values), 0, values).astype(values.dtype)
    return values

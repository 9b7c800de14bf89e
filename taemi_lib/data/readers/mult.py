"""Pickles of MulT and MultiBench: {train, valid, test} -> vision, audio, text (N, L, D), labels
(N, 1, 1) and mostly id, (N,) names or (N, 3) of video, start and end.

No lengths are known: rows of zeros are padding, and where all three are equally long they are
aligned to the text.

Source: the layout that github.com/yaohungt/Multimodal-Transformer and
github.com/pliang279/MultiBench read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from taemi_lib.data.readers import padded
from taemi_lib.data.readers.base import SPLITS, FeatureClip, Source, as_array, reader, text_of
from taemi_lib.data.readers.mmsa import LABEL
from taemi_lib.profiles import MODALITIES


def recognises(source: Source) -> bool:
    return padded.is_pickle(source) and bool(padded.splits(source, "labels"))


@reader("mult", "a pickle of MulT or MultiBench: train, valid, test with labels", recognises)
def read(source: Source) -> Iterator[FeatureClip]:
    """Clips of a MulT or MultiBench pickle."""
    splits = padded.splits(source, "labels")
    if not splits:
        raise source.stop("no train, valid or test with labels in it: is it of MulT or MultiBench?")
    source.task((LABEL,), -3, 3, "sentiment")
    for name, part in splits.items():
        yield from _split(source, name, part)


def _split(source: Source, split: str, part: Mapping[str, Any]) -> Iterator[FeatureClip]:
    try:
        labels = as_array(part["labels"])
    except ValueError as error:
        source.problem(f"{split}: labels are no numbers ({error})")
        return
    count = len(labels) if labels.ndim else 0
    if not count:
        source.problem(f"split {split!r} has no clips")
        return
    if labels.size != count:
        source.problem(
            f"{split}: labels have shape {labels.shape}, expected one number a clip, (N, 1, 1); "
            "classes are out of scope"
        )
        return
    clips, groups = _ids(source, split, part.get("id"), count)
    arrays = {m: padded.three_axes(part, m, clips, source, split) for m in MODALITIES}
    spans = _extents(source, arrays)
    for row, clip in enumerate(clips):
        absent: dict[str, str] = {}
        found = {}
        for modality, extent in spans.items():
            values = arrays[modality]
            assert values is not None
            steps = padded.cut(values, extent, row, modality, absent)
            if steps is not None:
                found[modality] = steps
        if "audio" in found:
            found["audio"] = padded.without_infinity(found["audio"], clip, source)
        label = {LABEL: float(labels.reshape(-1)[row])}
        yield FeatureClip(clip, SPLITS[split], label, found, group=groups[row], absent=absent)


def _ids(source: Source, split: str, given: Any, count: int) -> tuple[list[str], list[str]]:
    """Names of the clips, and of the videos that they are of."""
    if given is None or len(given) != count:
        source.assume(
            "clips have no ids in the file and are numbered, so nobody can see whether one stands "
            "in two splits"
        )
        return [f"{split}_{row:05d}" for row in range(count)], [""] * count
    parts = [[text_of(part) for part in np.atleast_1d(np.asarray(name))] for name in given]
    names, groups = ["_".join(name) for name in parts], [name[0] for name in parts]
    often = {name for name, times in Counter(names).items() if times > 1}
    if often:
        source.assume(
            "ids stand for several clips of a split (a video's, it seems) and are numbered",
        )
        seen: Counter[str] = Counter()
        for row, name in enumerate(names):
            if name in often:
                seen[name] += 1
                names[row] = f"{name}_{split}{seen[name]}"
    elif all(len(name) == 1 for name in parts):
        groups = [""] * count  # nothing but the clip is named
    return names, groups


def _extents(source: Source, arrays: Mapping[str, np.ndarray | None]) -> dict[str, padded.Extent]:
    found: dict[str, padded.Extent] = {}
    text = arrays["text"]
    if text is not None:
        found["text"] = padded.by_zeros(text, "text", source)
    for modality in ("audio", "vision"):
        values = arrays[modality]
        if values is None:
            continue
        extent = None
        if text is not None and values.shape[1] == text.shape[1]:
            extent = padded.aligned(values, found["text"], modality, source)
        found[modality] = extent or padded.by_zeros(values, modality, source)
    return found

"""Pickles of MMSA: MOSI, MOSEI and SIMS (aligned_50, unaligned_50, unaligned_39).

{train, valid, test} -> id ("video$_$clip"), raw_text, text (N, L, D), text_bert (N, 3, L: ids,
mask, segments), audio, vision (N, L, D), with audio_lengths and vision_lengths (N,) in the
unaligned ones, regression_labels (N,), and in SIMS regression_labels_T, _A and _V. Classes and
annotations are not read.

Source: the layout that github.com/thuiar/MMSA reads (src/MMSA/data_loader.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from taemi_lib.data.readers import padded
from taemi_lib.data.readers.base import SPLITS, FeatureClip, Source, as_array, reader, text_of

LABEL, UNIMODAL = "Sentiment", ("T", "A", "V")


def recognises(source: Source) -> bool:
    return padded.is_pickle(source) and bool(padded.splits(source, "regression_labels"))


@reader(
    "mmsa",
    "a pickle of MMSA (MOSI, MOSEI, SIMS): train, valid, test with regression_labels",
    recognises,
)
def read(source: Source) -> Iterator[FeatureClip]:
    """Clips of a MOSI, MOSEI or SIMS pickle."""
    splits = padded.splits(source, "regression_labels")
    if not splits:
        raise source.stop("no train, valid or test with regression_labels in it: is it of MMSA?")
    sims = any("regression_labels_T" in part for part in splits.values())
    if sims:
        source.task((LABEL,), -1, 1, "sims")
        source.assume(
            f"labels of single modalities are in the file ({', '.join(_names(sims)[1:])}); "
            f"to import them: --targets {','.join(_names(sims))}"
        )
    else:
        source.task((LABEL,), -3, 3, "sentiment")
    source.pooled = "cls"
    for name, part in splits.items():
        yield from _split(source, name, part, sims)


def _names(sims: bool) -> list[str]:
    return [LABEL, *(f"{LABEL}_{letter}" for letter in UNIMODAL if sims)]


def _split(
    source: Source, split: str, part: Mapping[str, Any], sims: bool
) -> Iterator[FeatureClip]:
    if part.get("id") is None:
        source.problem(f"{split}: no id")
        return
    clips = [text_of(name) for name in part["id"]]
    if not clips:
        source.problem(f"split {split!r} has no clips")
        return
    labels = _labels(source, split, part, len(clips), sims)
    arrays = {m: padded.three_axes(part, m, clips, source, split) for m in ("audio", "vision")}
    text = padded.three_axes(part, "text", clips, source, split)
    bert = _bert(source, split, part, clips)
    spans = _extents(source, split, part, clips, arrays | {"text": text}, bert)
    words = part.get("raw_text")
    for row, clip in enumerate(clips):
        absent: dict[str, str] = {}
        found = {}
        for modality, values in (arrays | {"text": text}).items():
            if values is not None:
                steps = padded.cut(values, spans[modality], row, modality, absent)
                if steps is not None:
                    found[modality] = steps
        if "audio" in found:
            found["audio"] = padded.without_infinity(found["audio"], clip, source)
        ids = None
        if text is None and bert is not None:
            ids = padded.cut(bert, spans["text"], row, "text", absent)
            ids = None if ids is None else ids[:, 0].astype(np.int64)
        yield FeatureClip(
            clip,
            SPLITS[split],
            {name: float(values[row]) for name, values in labels.items()},
            found,
            token_ids=ids,
            transcript=None if words is None else text_of(words[row]),
            group=clip.rpartition("$_$")[0],
            absent=absent,
        )


def _labels(
    source: Source, split: str, part: Mapping[str, Any], count: int, sims: bool
) -> dict[str, np.ndarray]:
    found = {}
    for name in _names(sims):
        key = "regression_labels" + name.removeprefix(LABEL)
        try:
            values = as_array(part[key]).reshape(-1).astype(np.float64)
        except (KeyError, ValueError) as error:
            source.problem(f"{split}: {key} is missing or no numbers ({error})")
            continue
        if len(values) != count:
            source.problem(f"{split}: {key} has {len(values)} labels for {count} clips")
            continue
        found[name] = values
    return found


def _bert(
    source: Source, split: str, part: Mapping[str, Any], clips: list[str]
) -> np.ndarray | None:
    """(N, L, 3): ids, mask and segments of the text's tokens."""
    if part.get("text_bert") is None:
        return None
    try:
        values = as_array(part["text_bert"])
    except ValueError as error:
        source.problem(f"{split}: text_bert is no array of numbers ({error})")
        return None
    if values.ndim != 3 or values.shape[:2] != (len(clips), 3):
        source.problem(
            f"{split}: text_bert has shape {values.shape}, expected ({len(clips)} clips, 3, tokens)"
        )
        return None
    mask = values[:, 1]
    if not np.isin(mask, (0, 1)).all() or (np.diff(mask, axis=1) > 0).any():
        source.problem(f"{split}: the mask in text_bert is not ones and then zeros")
        return None
    return values.transpose(0, 2, 1)


def _extents(
    source: Source,
    split: str,
    part: Mapping[str, Any],
    clips: list[str],
    arrays: Mapping[str, np.ndarray | None],
    bert: np.ndarray | None,
) -> dict[str, padded.Extent]:
    """Which steps are real, by what the file says best."""
    found: dict[str, padded.Extent] = {}
    text, masked = arrays["text"], None
    if bert is not None and (text is None or text.shape[1] == bert.shape[1]):
        count = bert[..., 1].sum(axis=1).astype(int)
        found["text"] = masked = (np.zeros_like(count), count)
        source.assume("text: padding is what the mask in text_bert says")
    elif text is not None:
        given = padded.lengths(part, "text", text.shape[1], clips, source, split)
        found["text"] = given or padded.by_zeros(text, "text", source)
    for modality in ("audio", "vision"):
        values = arrays[modality]
        if values is None:
            continue
        size = values.shape[1]
        extent = padded.lengths(part, modality, size, clips, source, split)
        if extent is None and bert is not None and masked is not None and size == bert.shape[1]:
            extent = padded.aligned(values, masked, modality, source)
        found[modality] = extent or padded.by_zeros(values, modality, source)
    return found

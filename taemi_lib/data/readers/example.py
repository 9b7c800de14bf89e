"""A made-up feature file in the layout of MMSA's MOSI (unaligned_50.pkl), to try an import on.

Nobody was recorded: words, sound and face are drawn, and labels follow a rule that is known. In
every clip the voice and the face show one feeling early and another one late, and the words name
the moment that counts. So text decides where to look, and a system that cannot choose a moment by
the words must fall behind one that can. Four made-up raters then give whole numbers from -3 to 3,
and their mean is the label.

As in real files, sequences are padded with zeros, silence is -inf in the sound, and some clips lack
a modality (their length is 0).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from taemi_lib.support import files

COUNTS = {"train": 400, "valid": 140, "test": 300}
WIDTHS = {"text": 32, "audio": 5, "vision": 20}
LONGEST = {"text": 12, "audio": 32, "vision": 24}  # steps, padding included
ABSENT = 0.05  # of the clips have no sound, and as many no face
SILENT = 0.1  # of the clips have steps of silence
RATERS = 4

MOMENTS = {"early": ("first", "initially"), "late": ("finally", "afterwards")}
POLARITY = {"great": 1, "lovely": 1, "dull": -1, "awful": -1, "film": 0, "scene": 0}
FILLERS = ("so", "well", "really", "the", "and", "then", "it", "was")
_WORDS = ("[CLS]", *(w for pair in MOMENTS.values() for w in pair), *POLARITY, *FILLERS)
_FIRST_ID = 100  # of a word, in text_bert
MARK = "synthetic_"  # how every clip's id begins, so that nobody takes it for a recording


def write_example(
    path: str | Path, seed: int = 0, counts: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Write such a pickle, {train, valid, test: MMSA's fields}; the same seed gives the same file.

    Returns what only the maker knows, in the order of the clips, split after split: `late` (N,),
    whether the late moment counts, and `feelings` (N, 2), early and late, each from -1 to 1.
    """
    rng = np.random.default_rng(seed)
    # what a word or a feeling looks like in each modality, the same in all clips
    looks = {name: rng.normal(size=(len(_WORDS), width)) for name, width in WIDTHS.items()}
    whole, known = {}, []
    for split, count in (counts or COUNTS).items():
        clips = [_clip(rng, looks) for _ in range(count)]
        known += clips
        whole[split] = _fields(split, clips)
    buffer = io.BytesIO()
    pickle.dump(whole, buffer, protocol=4)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, buffer.getvalue())
    return {name: np.array([clip[name] for clip in known]) for name in ("late", "feelings")}


def _clip(rng: np.random.Generator, looks: Mapping[str, np.ndarray]) -> dict:
    """One clip: what was drawn, its arrays (T, D), its label."""
    late = bool(rng.random() < 0.5)
    feelings = rng.uniform(-1, 1, size=2)
    words = [*rng.choice(list(POLARITY), 2), *rng.choice(FILLERS, rng.integers(3, 9))]
    words.insert(rng.integers(len(words)), rng.choice(MOMENTS["late" if late else "early"]))
    felt = 2.4 * feelings[int(late)] + 0.5 * sum(POLARITY.get(word, 0) for word in words)
    ratings = np.clip(np.round(felt + rng.normal(0, 0.6, RATERS)), -3, 3)
    return {
        "late": late,
        "feelings": feelings,
        "words": words,
        "text": _text(rng, looks["text"], words),
        "audio": _silenced(rng, _seen(rng, looks["audio"], feelings, LONGEST["audio"])),
        "vision": _seen(rng, looks["vision"], feelings, LONGEST["vision"]),
        "label": ratings.mean(),
    }


def _text(rng: np.random.Generator, looks: np.ndarray, words: list[str]) -> np.ndarray:
    """(T, D): one row that sums the sentence up, as a CLS token does, then a row for each word."""
    rows = np.array([looks[_WORDS.index(word)] for word in words])
    rows = np.vstack([rows.sum(axis=0, keepdims=True), rows])
    return rows + rng.normal(0, 0.2, rows.shape)


def _seen(
    rng: np.random.Generator, looks: np.ndarray, feelings: np.ndarray, longest: int
) -> np.ndarray:
    """(T, D) noise in which one short stretch of each half shows that half's feeling, and another
    look that something happens; (0, D) where the modality is lacking."""
    steps = int(rng.integers(longest // 2, longest + 1)) if rng.random() >= ABSENT else 0
    values = rng.normal(0, 0.5, size=(steps, looks.shape[1]))
    for half, feeling in enumerate(feelings):
        start = int((half / 2 + rng.uniform(0.05, 0.25)) * steps)
        values[start : start + steps // 5] += 2 * feeling * looks[0] + looks[1]
    return values


def _silenced(rng: np.random.Generator, sound: np.ndarray) -> np.ndarray:
    """Some clips begin with steps whose last number, a logarithm of loudness, is -inf."""
    if rng.random() < SILENT:
        sound[:2, -1] = -np.inf
    return sound


def _fields(split: str, clips: list[dict]) -> dict:
    """What MMSA's pickle holds of a split."""
    mask = np.zeros((len(clips), LONGEST["text"]), np.float32)
    ids = np.zeros_like(mask)
    for row, clip in enumerate(clips):
        mask[row, : len(clip["words"]) + 1] = 1
        tokens = [_WORDS.index(word) + _FIRST_ID for word in ("[CLS]", *clip["words"])]
        ids[row, : len(tokens)] = tokens
    return {
        "raw_text": [" ".join(clip["words"]) for clip in clips],
        # four clips a video, as "video$_$clip"
        "id": [f"{MARK}{split}_{row // 4:03d}$_${row % 4}" for row in range(len(clips))],
        **{name: _padded([clip[name] for clip in clips], name) for name in WIDTHS},
        "text_bert": np.stack([ids, mask, np.zeros_like(mask)], axis=1),
        "audio_lengths": [len(clip["audio"]) for clip in clips],
        "vision_lengths": [len(clip["vision"]) for clip in clips],
        "regression_labels": np.array([clip["label"] for clip in clips], np.float32),
    }


def _padded(arrays: list[np.ndarray], name: str) -> np.ndarray:
    """(N, L, D) float32, zeros behind each clip's own steps."""
    out = np.zeros((len(arrays), LONGEST[name], WIDTHS[name]), np.float32)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out

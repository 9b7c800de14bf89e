"""Fixed missing masks: the same clips of a split, some of them without sound, without face or
without words.

Missing tokens and modality dropout can do nothing for complete clips, so what they are worth is
seen under such masks only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from taemi_lib.batches import ClipDataset
from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.profiles import MODALITIES

ABSENT = 0.3  # share of the clips that lack each modality


def draw_masks(test: ClipDataset, seed: int = 30) -> pd.DataFrame:
    """Which modalities to take away from each test clip: bool columns audio, vision, text (True:
    absent), index clip_id.

    Each is taken from a share ABSENT of the clips, to the clip; never the last one that a clip has.
    """
    rng = np.random.default_rng(seed)
    there = np.array(
        [[name not in test[index][0].absent for name in MODALITIES] for index in range(len(test))]
    )
    absent = np.zeros_like(there)
    for column in rng.permutation(len(MODALITIES)):
        others = np.delete(there & ~absent, column, axis=1).any(axis=1)
        can_spare = np.flatnonzero(others)
        absent[
            rng.choice(can_spare, min(round(ABSENT * len(test)), len(can_spare)), replace=False),
            column,
        ] = True
    return pd.DataFrame(
        absent, columns=list(MODALITIES), index=pd.Index(test.clip_ids, name="clip_id")
    )


def hidden(clip: ClipFeatures, modalities: Iterable[str], why: str = "masked") -> ClipFeatures:
    """The clip without these modalities; one that it lacks already keeps its own reason."""
    fields = {"audio": ("audio",), "vision": ("vision",), "text": ("tokens", "pooled")}
    gone = list(modalities)
    nothing: dict[str, Any] = {name: None for modality in gone for name in fields[modality]}
    if "text" in gone:
        nothing |= {"transcript": None, "words": ()}
    damaged = {name: text for name, text in clip.damaged.items() if name not in gone}
    absent = clip.absent | {name: clip.absent.get(name, why) for name in gone}
    return replace(clip, **nothing, absent=absent, damaged=damaged)


def masked(dataset: ClipDataset, masks: pd.DataFrame) -> ClipDataset:
    """The same clips and labels, in memory, with the modalities hidden that `masks` says."""
    clips = [dataset[index][0] for index in range(len(dataset))]
    return in_place_of(
        dataset,
        [
            hidden(clip, [name for name in MODALITIES if masks.at[clip.clip_id, name]])
            for clip in clips
        ],
    )


def in_place_of(dataset: ClipDataset, clips: Sequence[ClipFeatures]) -> ClipDataset:
    """A dataset of these clips, in the order of the dataset, with its labels and widths. The
    clips' sound is averaged already, as the dataset gives it."""
    averaged = dataset.audio_average
    return ClipDataset.from_clips(
        clips, dataset.targets, dataset.task, averaged=averaged, dims=dataset.dims
    )

"""Fixed missing masks: the same clips of a split, some of them without sound, without face or
without words.

Missing tokens and modality dropout can do nothing for complete clips, so what they are worth is
seen under such masks only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from taemi_lib.batches import ClipDataset
from taemi_lib.data import Manifest
from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.features.store import Store
from taemi_lib.profiles import MODALITIES, Task

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


class MaskedStore(Store):
    """A feature store that hides what `masks` says, and is read like the store itself."""

    def __init__(self, store: Store, masks: pd.DataFrame) -> None:
        self.store, self.masks = store, masks
        self.identity = store.identity

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self.masks.index and clip_id in self.store

    def fingerprint(self, clip_ids: Iterable[str]) -> str:
        return self.store.fingerprint(clip_ids)

    def _hidden(self, clip_id: str) -> list[str]:
        return [name for name in MODALITIES if self.masks.at[clip_id, name]]

    def read(self, clip_id: str) -> ClipFeatures:
        features = self.store.read(clip_id)
        fields = {
            "audio": ("audio",),
            "vision": ("vision",),
            "text": ("tokens", "pooled", "transcript"),
        }
        hidden = self._hidden(clip_id)
        nothing: dict[str, Any] = {name: None for modality in hidden for name in fields[modality]}
        damaged = {name: why for name, why in features.damaged.items() if name not in hidden}
        absent = dict(features.absent) | {
            name: features.absent.get(name, "masked") for name in hidden
        }
        return replace(features, **nothing, absent=absent, damaged=damaged)

    def shapes(self, clip_id: str) -> dict[str, tuple[int, int]]:
        hidden = self._hidden(clip_id)
        return {
            name: shape for name, shape in self.store.shapes(clip_id).items() if name not in hidden
        }


def masked(dataset: ClipDataset, masks: pd.DataFrame) -> ClipDataset:
    """The same clips and labels with the modalities hidden that `masks` says."""
    table = pd.DataFrame(
        dataset.targets, columns=list(dataset.task.targets), index=dataset.clip_ids
    )
    store = MaskedStore(dataset.store, masks)
    rows = _Rows(table, dataset.task)
    return ClipDataset(store, rows, None, dataset.audio_average, dims=dataset.dims)


class _Rows(Manifest):
    """What ClipDataset reads of a manifest: its table and task."""

    def __init__(self, table: pd.DataFrame, task: Task) -> None:
        self.table, self.task = table, task

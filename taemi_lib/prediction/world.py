"""How far a clip is from the clips that a system was trained on.

A clip's modality becomes one vector: the mean of its steps, or the text vector. Its distance from
the training clips is Mahalanobis': every feature counts in its own standard deviations, and what
the training clips' correlations explain counts once. A share of 0.1 of the identity in the
correlations keeps directions apart in which a few hundred clips say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taemi_lib.batches import ClipDataset
from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.prediction.answer import Distance, Outside
from taemi_lib.profiles import MODALITIES

SHRINKAGE = 0.1
USUAL = 0.99  # share of clips of the training's kind that are held for usual


def vectors(features: ClipFeatures) -> dict[str, np.ndarray]:
    """{modality that is there: (D,) float64}."""
    found = {
        name: np.asarray(sequence.values, np.float64).mean(axis=0)
        for name, sequence in (("audio", features.audio), ("vision", features.vision))
        if sequence is not None
    }
    if features.pooled is not None:
        found["text"] = np.asarray(features.pooled, np.float64)
    return found


@dataclass(frozen=True)
class Cloud:
    """The training clips of one modality: their mean (D,), and `white` (D, D), which turns a
    difference from it into uncorrelated numbers whose root mean square is 1 for a clip of the
    selection split. float32."""

    mean: np.ndarray
    white: np.ndarray

    def distance(self, vector: np.ndarray) -> float:
        """Of a vector (D,). Raises ValueError for another width."""
        if vector.shape != self.mean.shape:
            raise ValueError(f"{vector.shape} features, expected {self.mean.shape}")
        difference = self.white.astype(np.float64) @ (vector - self.mean)
        return float(np.sqrt(np.mean(difference**2)))


@dataclass(frozen=True)
class World:
    """The training clips, and from which distance on a clip is unlike them.

    clouds     modality -> Cloud, of the modalities that training and selection clips have
    threshold  one for all: 99 of 100 clips of the training's kind have no modality beyond it
    """

    clouds: Mapping[str, Cloud]
    threshold: float

    def place(self, features: ClipFeatures) -> Outside:
        """Where a clip is, its sound averaged as in training."""
        return Outside(
            {
                name: Distance(self.clouds[name].distance(vector), self.threshold)
                for name, vector in vectors(features).items()
                if name in self.clouds
            }
        )


def fit(train: ClipDataset, selection: ClipDataset) -> World:
    """The world of `train`; the threshold is from `selection`, which no cloud has seen.

    With fewer than 100 selection clips it is their largest distance, and about one in (number + 1)
    usual clips lies beyond it.
    """
    known = [vectors(train[index][0]) for index in range(len(train))]
    held = [vectors(selection[index][0]) for index in range(len(selection))]
    clouds = {}
    for name in MODALITIES:
        rows = [clip[name] for clip in known if name in clip]
        others = [clip[name] for clip in held if name in clip]
        if len(rows) > 1 and others:
            clouds[name] = _cloud(np.array(rows), np.array(others))
    furthest = [
        max((clouds[name].distance(clip[name]) for name in clip if name in clouds), default=0.0)
        for clip in held
    ]
    rank = min(math.ceil((len(furthest) + 1) * USUAL), len(furthest))
    return World(clouds, float(np.sort(furthest)[rank - 1]))


def _cloud(rows: np.ndarray, others: np.ndarray) -> Cloud:
    """rows (N, D): the training's; others (M, D): the selection's, which set the unit."""
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    # A feature that hardly varies in training would make a tiny change look enormous.
    typical = float(np.median(deviation)) or 1.0
    deviation = np.where(deviation > 1e-3 * typical, deviation, typical)
    standard = (rows - mean) / deviation
    correlation = standard.T @ standard / len(standard)
    correlation = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(mean))
    white = np.linalg.inv(np.linalg.cholesky(correlation)) / deviation
    unit = float(np.sqrt(np.mean(((others - mean) @ white.T) ** 2))) or 1.0
    return Cloud(mean.astype(np.float32), (white / unit).astype(np.float32))

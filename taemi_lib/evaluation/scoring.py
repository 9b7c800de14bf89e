"""From a trained system and a split to predictions, scores with intervals, and the attention behind
them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from taemi_lib import models
from taemi_lib.batches import ClipDataset
from taemi_lib.evaluation import metrics
from taemi_lib.models.base import System
from taemi_lib.profiles import EMOTIONS
from taemi_lib.support import device as devices


class TrainedRun(Protocol):
    """What is asked of a run here (runs.Run): its best checkpoint."""

    def model(self) -> System:
        """The system, ready to predict."""


@dataclass
class Predictions:
    """What a system says about N clips, in the dataset's order.

    prediction  (N, 6) float32, not clipped
    target      (N, 6) float64, NaN where a clip has no labels
    attention   {modality: N x ((H, T) or None)} over the clip's real steps; None where the modality
                is absent
    times       {modality: N x ((T,) or None)} seconds of these steps
    absent      (N,) bool: no modality at all, predicted from the missing tokens
    """

    clip_ids: list[str]
    prediction: np.ndarray
    target: np.ndarray
    absent: np.ndarray
    attention: dict[str, list[np.ndarray | None]] = field(default_factory=dict)
    times: dict[str, list[np.ndarray | None]] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """Tidy: clip_id, emotion, target, prediction; one row for each clip and emotion."""
        return pd.DataFrame(
            {
                "clip_id": np.repeat(np.array(self.clip_ids, dtype=object), len(EMOTIONS)),
                "emotion": list(EMOTIONS) * len(self.clip_ids),
                "target": self.target.reshape(-1),
                "prediction": self.prediction.astype(np.float64).reshape(-1),
            }
        )


@dataclass
class Evaluation:
    """The scores of one system on one split; `interval` is a 95 % bootstrap interval of mean_rho
    over clips."""

    mean_rho: float
    per_emotion: dict[str, float]
    mse: float
    interval: metrics.Interval | None  # None: not asked for
    ccc: dict[str, float]
    constant: tuple[str, ...]  # emotions whose prediction does not vary: they count as 0
    predictions: Predictions

    @property
    def table(self) -> pd.DataFrame:
        """The tidy table of the predictions."""
        return self.predictions.table

    def as_dict(self) -> dict:
        """The scores as plain JSON values."""
        return {
            "mean_rho": self.mean_rho,
            "per_emotion": self.per_emotion,
            "mse": self.mse,
            "interval": self.interval and list(self.interval),
            "ccc": self.ccc,
            "constant": list(self.constant),
            "clips": len(self.predictions.clip_ids),
        }


@torch.no_grad()
def predict_dataset(
    model: System,
    dataset: ClipDataset,
    device: str | torch.device | None = None,
    batch_size: int = 64,
    attention: bool = False,
) -> Predictions:
    """Predict every clip of a dataset, in evaluation mode and float32; the model's mode is put back
    afterwards.

    device      None: where the model is
    attention   also keep the attention weights and times of every clip
    """
    if device is not None:
        model.to(devices.choose(device))
    device = next(model.parameters()).device
    if model.needs_partner:
        dataset = dataset.with_partners()
    count = len(dataset)
    prediction = np.zeros((count, len(EMOTIONS)), dtype=np.float32)
    absent = np.zeros(count, dtype=bool)
    weights: dict[str, list] = {}
    times: dict[str, list] = {}
    training = model.training
    model.eval()
    try:
        for rows in _by_length(dataset, batch_size):
            batch = dataset.batch(rows)
            output = model(batch.to(device))
            prediction[rows] = output.prediction.float().cpu().numpy()
            absent[rows] = ~torch.stack(list(batch.present.values())).any(dim=0).numpy()
            for name, weight in output.attention.items() if attention else ():
                kept_weights = weights.setdefault(name, [None] * count)
                kept_times = times.setdefault(name, [None] * count)
                weight = weight.float().cpu().numpy()
                for place, row in enumerate(rows):
                    if batch.present[name][place]:
                        real = batch.mask[name][place].numpy()
                        kept_weights[row] = weight[place][:, real]
                        kept_times[row] = batch.times[name][place].numpy()[real]
    finally:
        model.train(training)
    return Predictions(list(dataset.clip_ids), prediction, dataset.targets, absent, weights, times)


def _by_length(dataset: ClipDataset, batch_size: int) -> Iterator[list[int]]:
    order = np.argsort(dataset.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size].tolist()


def score(predictions: Predictions, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """The scores of predictions that are there already; no interval with resamples=0.

    Raises ValueError as taemi_lib.evaluation.metrics does, and naming a clip without labels.
    """
    prediction, target = predictions.prediction, predictions.target
    if np.isnan(target).any():
        clip = predictions.clip_ids[int(np.argwhere(np.isnan(target))[0][0])]
        raise ValueError(f"clip {clip!r} has no labels: this split can be predicted, not scored")
    constant = metrics.constant_emotions(prediction)
    with warnings.catch_warnings():
        # it is in the result, as `constant`
        warnings.simplefilter("ignore", metrics.ConstantPrediction)
        rho = metrics.pearson_per_emotion(prediction, target)
    return Evaluation(
        mean_rho=float(rho.mean()),
        per_emotion=dict(zip(EMOTIONS, rho.tolist(), strict=True)),
        mse=metrics.mse(prediction, target),
        interval=metrics.bootstrap(prediction, target, resamples, seed) if resamples else None,
        ccc=dict(zip(EMOTIONS, metrics.ccc(prediction, target).tolist(), strict=True)),
        constant=constant,
        predictions=predictions,
    )


def evaluate(
    system: System | TrainedRun | str | Path,
    dataset: ClipDataset,
    device: str | torch.device | None = "auto",
    batch_size: int = 64,
    resamples: int = 1000,
    seed: int = 0,
    attention: bool = False,
    threads: int | None = 1,
) -> Evaluation:
    """Score a model, or a run's best checkpoint, on a whole split (docs/paper.md rows 16 and 17).

    system    a System, a run, or the folder of a run or of a checkpoint
    threads   torch CPU threads meanwhile; 1 makes the last digits independent of the number of
              cores
    Raises FileNotFoundError when the folder holds neither, ValueError as `score` does.
    """
    model = _model(system)
    with devices.threads(threads):
        predictions = predict_dataset(model, dataset, device, batch_size, attention)
    return score(predictions, resamples, seed)


def _model(system: System | TrainedRun | str | Path) -> System:
    if isinstance(system, (str, Path)):
        best = Path(system) / "best"
        return models.load(best if best.is_dir() else system)
    if isinstance(system, System):
        return system
    run: TrainedRun = system
    return run.model()

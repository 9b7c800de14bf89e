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
from taemi_lib.profiles import Task
from taemi_lib.support import device as devices


class TrainedRun(Protocol):
    """What is asked of a run here (runs.Run): its best checkpoint."""

    def model(self) -> System:
        """The system, ready to predict."""


@dataclass
class Predictions:
    """What a system says about N clips, in the dataset's order.

    prediction  (N, K) float32 in the task's units, not clipped
    target      (N, K) float64, NaN where a label is missing
    attention   {modality: N x ((H, T) or None)} over the clip's real steps; None where the modality
                is absent
    times       {modality: N x ((T,) or None)} seconds of these steps
    task        what was predicted
    absent      (N,) bool: no modality at all, predicted from the missing tokens
    """

    clip_ids: list[str]
    prediction: np.ndarray
    target: np.ndarray
    absent: np.ndarray
    attention: dict[str, list[np.ndarray | None]] = field(default_factory=dict)
    times: dict[str, list[np.ndarray | None]] = field(default_factory=dict)
    task: Task = field(default_factory=Task)

    @property
    def table(self) -> pd.DataFrame:
        """Tidy: clip_id, emotion (the target's name, whatever the task), target (its label),
        prediction; one row for each clip and target."""
        names = self.task.targets
        return pd.DataFrame(
            {
                "clip_id": np.repeat(np.array(self.clip_ids, dtype=object), len(names)),
                "emotion": list(names) * len(self.clip_ids),
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
    constant: tuple[str, ...]  # targets whose prediction does not vary: they count as 0
    predictions: Predictions
    mae: float
    more: dict[str, float] = field(default_factory=dict)  # what the task's field scores beside it

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
        } | self._more()

    def _more(self) -> dict:
        """What a task of another field, or one that selects by error, is scored with."""
        task = self.predictions.task
        plain = task.metrics == "intensity" and task.selects == "rho"
        return {} if plain else {"mae": self.mae} | self.more


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
    prediction = np.zeros((count, len(dataset.task.targets)), dtype=np.float32)
    absent = np.zeros(count, dtype=bool)
    weights: dict[str, list] = {}
    times: dict[str, list] = {}
    training = model.training
    model.eval()
    try:
        for rows in _by_length(dataset, batch_size):
            batch = dataset.batch(rows)
            output = model(batch.to(device))
            outputs = output.prediction.float().cpu().numpy()
            prediction[rows] = dataset.task.unscaled(outputs)
            absent[rows] = ~torch.stack(list(batch.present.values())).any(dim=0).numpy()
            for name, weight in output.attention.items() if attention else ():
                kept_weights = weights.setdefault(name, [None] * count)
                kept_times = times.setdefault(name, [None] * count)
                shown = weight.float().cpu().numpy()
                for place, row in enumerate(rows):
                    if batch.present[name][place]:
                        real = batch.mask[name][place].numpy()
                        kept_weights[row] = shown[place][:, real]
                        kept_times[row] = batch.times[name][place].numpy()[real]
    finally:
        model.train(training)
    return Predictions(
        *(list(dataset.clip_ids), prediction, dataset.targets, absent, weights, times),
        task=dataset.task,
    )


def _by_length(dataset: ClipDataset, batch_size: int) -> Iterator[list[int]]:
    order = np.argsort(dataset.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size].tolist()


def score(predictions: Predictions, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """The scores of predictions that are there already; no interval with resamples=0.

    Raises ValueError as taemi_lib.evaluation.metrics does, and naming a clip without labels.
    """
    prediction, target, task = predictions.prediction, predictions.target, predictions.task
    missing = task.missing_labels == "mask"
    if np.isnan(target).any() and not missing:
        clip = predictions.clip_ids[int(np.argwhere(np.isnan(target))[0][0])]
        raise ValueError(f"clip {clip!r} has no labels: this split can be predicted, not scored")
    given: tuple = (prediction, target, task.targets, missing)
    constant = metrics.constant_emotions(prediction, task.targets)
    with warnings.catch_warnings():
        # it is in the result, as `constant`
        warnings.simplefilter("ignore", metrics.ConstantPrediction)
        rho = metrics.pearson_per_emotion(*given)
    return Evaluation(
        mean_rho=float(rho.mean()),
        per_emotion=dict(zip(task.targets, rho.tolist(), strict=True)),
        mse=metrics.mse(*given),
        interval=metrics.bootstrap(
            prediction, target, resamples, seed, names=task.targets, missing=missing
        )
        if resamples
        else None,
        ccc=dict(zip(task.targets, metrics.ccc(*given).tolist(), strict=True)),
        constant=constant,
        predictions=predictions,
        mae=metrics.mae(*given),
        more=field_scores(prediction, target, task),
    )


def field_scores(prediction: np.ndarray, target: np.ndarray, task: Task) -> dict[str, float]:
    """What MOSI, MOSEI and SIMS are scored with (N, K): {"acc_7": ...}, of several targets
    {"Text/acc_7": ...}; nothing for a task of intensities."""
    if task.metrics == "intensity":
        return {}
    from taemi_lib.evaluation import sentiment  # brings scikit-learn along

    score_one = {"sentiment": sentiment.sentiment, "sims": sentiment.sims}[task.metrics]
    found: dict[str, float] = {}
    for column, name in enumerate(task.targets):
        known = ~np.isnan(target[:, column])
        scores = score_one(prediction[known, column], target[known, column])
        prefix = f"{name}/" if len(task.targets) > 1 else ""
        found |= {f"{prefix}{key}": value for key, value in scores.items()}
    return found


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

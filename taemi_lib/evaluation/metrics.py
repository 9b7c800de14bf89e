"""The scores: Pearson's r per emotion over the WHOLE split, their mean ("mean rho"), and what
belongs beside it.

All of it in float64 and two passes, from (N, 6) predictions and targets as arrays or tensors.
docs/paper.md row 17 decides the corner cases: a constant prediction scores 0 and is flagged, a
constant target and a NaN are errors. Never use these on a batch: the r of batches does not average
to the r of the split.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from taemi_lib.profiles import EMOTIONS


class ConstantPrediction(UserWarning):
    """A prediction is the same for every clip: its r is undefined and counts as 0."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def _array(values) -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor, without importing torch for those who have arrays
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _name(column: int, columns: int) -> str:
    return repr(EMOTIONS[column]) if columns == len(EMOTIONS) else f"column {column}"


def checked(prediction, target) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, K) float64, checked. Raises ValueError."""
    prediction, target = _array(prediction), _array(target)
    if prediction.ndim != 2 or prediction.shape != target.shape:
        raise ValueError(
            f"prediction is {prediction.shape} and target {target.shape}; "
            f"both must be (N, {len(EMOTIONS)}), one row a clip, the whole split at once"
        )
    if len(prediction) < 2:
        raise ValueError(f"a correlation needs at least 2 clips, this split has {len(prediction)}")
    for name, values in (("prediction", prediction), ("target", target)):
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{bad.sum()} values of the {name} are NaN or infinite, the first in row {row}, "
                f"{_name(column, values.shape[1])}: score labelled clips only, "
                "and look for divergence in training"
            )
    return prediction.astype(np.float64), target.astype(np.float64)


def refuse_constant(target: np.ndarray) -> None:
    """Raises ValueError naming the emotion when a target (N, 6) is the same for all clips: nobody
    can be scored on it."""
    if (flat := np.ptp(target, axis=0) == 0).any():
        raise ValueError(
            f"the target of {_name(int(np.argmax(flat)), len(flat))} is the same for all "
            f"{len(target)} clips: its correlation is undefined; score a larger split"
        )


def constant_columns(prediction) -> np.ndarray:
    """(K,) bool: which columns do not vary beyond the rounding of their own number format."""
    prediction = _array(prediction)
    rounding = np.finfo(prediction.dtype).eps if prediction.dtype.kind == "f" else 0.0
    values = prediction.astype(np.float64)
    return np.ptp(values, axis=0) <= 4 * rounding * np.abs(values).max(axis=0)


def constant_emotions(prediction) -> tuple[str, ...]:
    """The flag: names of the emotions for which all clips (N, 6) get the same prediction."""
    return tuple(
        name
        for name, constant in zip(EMOTIONS, constant_columns(prediction), strict=True)
        if constant
    )


def _pearson(prediction: np.ndarray, target: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """(K,) r of checked float64 columns; 0 where `constant`."""
    # First pass: the means. Second pass: products of deviations, scaled so that nothing over- or
    # underflows.
    deviations = []
    for values in (prediction, target):
        centred = values - values.mean(axis=0)
        centred /= np.maximum(np.abs(centred).max(axis=0), np.finfo(np.float64).tiny)
        deviations.append(
            centred / np.maximum(np.sqrt((centred**2).sum(axis=0)), np.finfo(np.float64).tiny)
        )
    r = (deviations[0] * deviations[1]).sum(axis=0)
    return np.where(constant, 0.0, np.clip(r, -1.0, 1.0))


def pearson_per_emotion(prediction, target) -> np.ndarray:
    """(6,) float64 r over the split, for (N, 6) predictions and targets.

    A constant prediction gives 0 and a ConstantPrediction warning. Raises ValueError on a constant
    target, NaN, infinity, fewer than 2 clips, or shapes that do not fit.
    """
    given = prediction
    prediction, target = checked(prediction, target)
    # of the given format: float32 rounds where float64 would not
    constant = constant_columns(given)
    refuse_constant(target)
    if constant.any():
        columns = np.flatnonzero(constant).tolist()
        flagged = ", ".join(_name(column, len(constant)) for column in columns)
        warnings.warn(
            f"constant prediction for {flagged}: rho counts as 0", ConstantPrediction, stacklevel=2
        )
    return _pearson(prediction, target, constant)


def mean_pearson(prediction, target) -> float:
    """Mean rho: the mean of the six r over the whole split. See pearson_per_emotion."""
    return float(pearson_per_emotion(prediction, target).mean())


def mse(prediction, target) -> float:
    """Mean squared error over clips and emotions."""
    prediction, target = checked(prediction, target)
    return float(((prediction - target) ** 2).mean())


def ccc(prediction, target) -> np.ndarray:
    """(6,) concordance: 2 cov / (var_p + var_t + (mean_p - mean_t)^2). A constant prediction gives
    0.

    Raises ValueError as pearson_per_emotion does.
    """
    prediction, target = checked(prediction, target)
    refuse_constant(target)
    means = prediction.mean(axis=0), target.mean(axis=0)
    spread = prediction.var(axis=0) + target.var(axis=0) + (means[0] - means[1]) ** 2
    return 2 * ((prediction - means[0]) * (target - means[1])).mean(axis=0) / spread


def resamples(target: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """`n` times the rows of a resample of the split with replacement.

    A resample in which some target does not vary (sparse labels, few clips) has no rho and is drawn
    again. Raises ValueError when hardly any resample varies.
    """
    rng = np.random.default_rng(seed)
    found, columns = 0, np.ascontiguousarray(target.T)  # (K, N): quick to reduce
    for _ in range(10 * n):
        rows = rng.integers(len(target), size=len(target))
        drawn = columns.take(rows, axis=1)
        if (drawn.max(axis=1) == drawn.min(axis=1)).any():
            continue
        yield rows
        found += 1
        if found == n:
            return
    raise ValueError(
        f"{len(target)} clips are too few: {found} of {10 * n} resamples vary in all targets"
    )


def _quantiles(scores: list[float], level: float) -> Interval:
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def bootstrap(prediction, target, n: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile interval of mean rho over clips: `n` resamples of the split with replacement.

    A resample in which some target does not vary (sparse labels, few clips) has no rho and is drawn
    again. Raises ValueError as mean_pearson does, and when hardly any resample varies.
    """
    constant = constant_columns(prediction)
    prediction, target = checked(prediction, target)
    refuse_constant(target)
    scores = []
    for rows in resamples(target, n, seed):
        p = prediction[rows]
        scores.append(_pearson(p, target[rows], constant | (np.ptp(p, axis=0) == 0)).mean())
    return _quantiles(scores, level)

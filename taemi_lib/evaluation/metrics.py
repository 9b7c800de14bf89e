"""The scores: Pearson's r per emotion over the WHOLE split, their mean ("mean rho"), and what
belongs beside it.

All of it in float64 and two passes, from (N, K) predictions and targets as arrays or tensors, one
column a target of the task (six emotions, unless `names` says otherwise). docs/paper.md row 17
decides the corner cases: a constant prediction scores 0 and is flagged, a constant target and a NaN
are errors. With missing=True a NaN target is a label that nobody gave: each column is scored on the
clips that have it. Never use these on a batch: the r of batches does not average
to the r of the split.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
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


Names = Sequence[str]


def _name(column: int, columns: int, names: Names = EMOTIONS) -> str:
    return repr(names[column]) if columns == len(names) else f"column {column}"


def checked(
    prediction, target, names: Names = EMOTIONS, missing: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, K) float64, checked. Raises ValueError."""
    prediction, target = _array(prediction), _array(target)
    if prediction.ndim != 2 or prediction.shape != target.shape:
        raise ValueError(
            f"prediction is {prediction.shape} and target {target.shape}; "
            f"both must be (N, {len(names)}), one row a clip, the whole split at once"
        )
    if len(prediction) < 2:
        raise ValueError(f"a correlation needs at least 2 clips, this split has {len(prediction)}")
    for name, values in (("prediction", prediction), ("target", target)):
        bad = ~np.isfinite(values)
        if missing and name == "target":
            bad &= ~np.isnan(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{bad.sum()} values of the {name} are NaN or infinite, the first in row {row}, "
                f"{_name(column, values.shape[1], names)}: score labelled clips only, "
                "and look for divergence in training"
            )
    return prediction.astype(np.float64), target.astype(np.float64)


def refuse_constant(target: np.ndarray, names: Names = EMOTIONS) -> None:
    """Raises ValueError naming the target (N, K) that is the same for all clips, or known of none:
    nobody can be scored on it."""
    real = ~np.isnan(target)
    highest = np.where(real, target, -np.inf).max(axis=0)
    if (flat := highest <= np.where(real, target, np.inf).min(axis=0)).any():
        raise ValueError(
            f"the target of {_name(int(np.argmax(flat)), len(flat), names)} is the same for all "
            f"{len(target)} clips: its correlation is undefined; score a larger split"
        )


def constant_columns(prediction) -> np.ndarray:
    """(K,) bool: which columns do not vary beyond the rounding of their own number format."""
    prediction = _array(prediction)
    rounding = np.finfo(prediction.dtype).eps if prediction.dtype.kind == "f" else 0.0
    values = prediction.astype(np.float64)
    return np.ptp(values, axis=0) <= 4 * rounding * np.abs(values).max(axis=0)


def constant_emotions(prediction, names: Names = EMOTIONS) -> tuple[str, ...]:
    """The flag: names of the targets for which all clips (N, K) get the same prediction."""
    return tuple(
        name for name, constant in zip(names, constant_columns(prediction), strict=True) if constant
    )


def _pearson(prediction: np.ndarray, target: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """(K,) r of checked float64 columns; 0 where `constant`."""
    if np.isnan(target).any():
        return _by_column(_pearson, prediction, target, constant)
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


def _by_column(score, prediction: np.ndarray, target: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """(K,) a score of each column on the rows whose target is known."""
    found = []
    for column, known in enumerate(~np.isnan(target.T)):
        one = slice(column, column + 1)
        rest = [entry[one] for entry in more]
        found.append(score(prediction[known, one], target[known, one], *rest))
    return np.concatenate(found)


def pearson_per_emotion(
    prediction, target, names: Names = EMOTIONS, missing: bool = False
) -> np.ndarray:
    """(K,) float64 r over the split, for (N, K) predictions and targets.

    A constant prediction gives 0 and a ConstantPrediction warning. Raises ValueError on a constant
    target, NaN, infinity, fewer than 2 clips, or shapes that do not fit.
    """
    given = prediction
    prediction, target = checked(prediction, target, names, missing)
    # of the given format: float32 rounds where float64 would not
    constant = constant_columns(given)
    refuse_constant(target, names)
    if constant.any():
        columns = np.flatnonzero(constant).tolist()
        flagged = ", ".join(_name(column, len(constant), names) for column in columns)
        warnings.warn(
            f"constant prediction for {flagged}: rho counts as 0", ConstantPrediction, stacklevel=2
        )
    return _pearson(prediction, target, constant)


def mean_pearson(prediction, target, names: Names = EMOTIONS, missing: bool = False) -> float:
    """Mean rho: the mean of the r of all targets over the whole split. See pearson_per_emotion."""
    return float(pearson_per_emotion(prediction, target, names, missing).mean())


def mse(prediction, target, names: Names = EMOTIONS, missing: bool = False) -> float:
    """Mean squared error over clips and targets, as far as they are known."""
    prediction, target = checked(prediction, target, names, missing)
    return float(np.nanmean((prediction - target) ** 2))


def mae(prediction, target, names: Names = EMOTIONS, missing: bool = False) -> float:
    """Mean absolute error over clips and targets, as far as they are known."""
    prediction, target = checked(prediction, target, names, missing)
    return float(np.nanmean(np.abs(prediction - target)))


def ccc(prediction, target, names: Names = EMOTIONS, missing: bool = False) -> np.ndarray:
    """(K,) concordance: 2 cov / (var_p + var_t + (mean_p - mean_t)^2). A constant prediction gives
    0.

    Raises ValueError as pearson_per_emotion does.
    """
    prediction, target = checked(prediction, target, names, missing)
    refuse_constant(target, names)
    return (
        _by_column(_ccc, prediction, target) if np.isnan(target).any() else _ccc(prediction, target)
    )


def _ccc(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    means = prediction.mean(axis=0), target.mean(axis=0)
    spread = prediction.var(axis=0) + target.var(axis=0) + (means[0] - means[1]) ** 2
    return 2 * ((prediction - means[0]) * (target - means[1])).mean(axis=0) / spread


def resamples(
    target: np.ndarray, n: int, seed: int, groups: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """`n` times the rows of a resample of the split with replacement.

    groups   (N,) whose clip each row is: whole groups are drawn, all of their clips at once

    A resample in which some target does not vary (sparse labels, few clips) has no rho and is drawn
    again. Raises ValueError when hardly any resample varies.
    """
    rng = np.random.default_rng(seed)
    found, columns = 0, np.ascontiguousarray(target.T)  # (K, N): quick to reduce
    incomplete = bool(np.isnan(columns).any())
    members = [] if groups is None else [np.flatnonzero(groups == g) for g in np.unique(groups)]
    for _ in range(10 * n):
        if groups is None:
            rows = rng.integers(len(target), size=len(target))
        else:
            some = rng.integers(len(members), size=len(members))
            rows = np.concatenate([members[group] for group in some])
        drawn = columns.take(rows, axis=1)
        if incomplete:
            real = ~np.isnan(drawn)
            flat = np.where(real, drawn, -np.inf).max(axis=1) <= np.where(real, drawn, np.inf).min(
                axis=1
            )
        else:
            flat = drawn.max(axis=1) == drawn.min(axis=1)
        if flat.any():
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


def bootstrap(
    prediction,
    target,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    names: Names = EMOTIONS,
    missing: bool = False,
) -> Interval:
    """Percentile interval of mean rho over clips: `n` resamples of the split with replacement.

    A resample in which some target does not vary (sparse labels, few clips) has no rho and is drawn
    again. Raises ValueError as mean_pearson does, and when hardly any resample varies.
    """
    constant = constant_columns(prediction)
    prediction, target = checked(prediction, target, names, missing)
    refuse_constant(target, names)
    scores = []
    for rows in resamples(target, n, seed):
        p = prediction[rows]
        scores.append(_pearson(p, target[rows], constant | (np.ptp(p, axis=0) == 0)).mean())
    return _quantiles(scores, level)

"""Is one system better than another? Predictions of several seeds on one split go in, a difference
with an interval comes out.

    resampled_rho        mean rho of every seed under every resample of the clips
    compare              one system minus a reference: difference, 95 % interval, p-value
    holm                 several comparisons as one family: adjusted p-values, intervals that match
                         them, verdicts in words

The numbers know nothing of training or files; `experiments` brings the predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from scipy import stats

from taemi_lib.evaluation import metrics

Name = TypeVar("Name")  # what a caller calls its comparisons
RESAMPLES = 2000
VERDICTS = BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no detectable difference"


@dataclass(frozen=True)
class Rho:
    """Mean rho of one system on one split.

    seeds      (K,) of each seed, on the split as it is
    resampled  (K, B) of each seed on B resamples of the clips; resample b draws the same clips for
               every system of the split
    groups     how many groups of clips were drawn from, instead of clips; None: clips
    """

    seeds: np.ndarray
    resampled: np.ndarray
    groups: int | None = None

    @property
    def mean(self) -> float:
        return float(self.seeds.mean())


@dataclass(frozen=True)
class Comparison:
    """System minus reference, in mean rho. After `holm`, low and high are adjusted as p_holm is.

    error    standard error of delta over clips and seeds
    freedom  degrees of freedom of that error (few seeds: few)
    p        two-sided, of this comparison alone
    """

    delta: float
    low: float
    high: float
    p: float
    error: float
    freedom: float
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the interval is clear of zero, and on which side."""
        return BETTER if self.low > 0 else WORSE if self.high < 0 else NO_DIFFERENCE


def combined(parts: Sequence[tuple[float, Rho]]) -> Rho:
    """Weighted sum of one system's Rhos, seed by seed and resample by resample: a drop is (1, what
    it is under a condition), (-1, what it is without); a mean over a curve has shares as weights.

    The same seeds must stand behind all of them: they are the same trained models.
    """
    first = parts[0][1]
    return Rho(
        sum((weight * rho.seeds for weight, rho in parts), np.zeros_like(first.seeds)),
        sum((weight * rho.resampled for weight, rho in parts), np.zeros_like(first.resampled)),
        first.groups,
    )


def from_zero(rho: Rho) -> Comparison:
    """A Rho (a drop, say) against 0, as `compare` has it for two systems."""
    nothing = Rho(np.zeros(1), np.zeros((1, rho.resampled.shape[1])), rho.groups)
    return compare(rho, nothing)


def resampled_rho(
    predictions: Sequence[np.ndarray],
    target: np.ndarray,
    n: int = RESAMPLES,
    seed: int = 0,
    missing: bool = False,
    groups: Sequence | None = None,
) -> Rho:
    """Mean rho of one system's seeds on a split and on `n` resamples of its clips.

    predictions   one (N, K) for each seed
    target        (N, K)
    missing       whether NaN stands for a label that nobody gave: a column is then scored on the
                  clips that have it
    groups        (N,) whose clip each is (a person, a voice): whole groups are drawn
    The resamples depend on target, groups, n and seed only, so two systems scored on the same split
    are paired clip by clip. Raises ValueError as metrics.mean_pearson does, when the split is too
    small to resample, when all clips are of one group, and when some have none.
    """
    if not len(predictions):
        raise ValueError("a system has no predictions: give one (N, K) for each seed")
    checked = [metrics.checked(each, target, missing=missing) for each in predictions]
    truth = checked[0][1]
    metrics.refuse_constant(truth)
    constant = np.stack([metrics.constant_columns(each) for each in predictions])  # (seeds, K)
    members = None if groups is None else _numbered(groups, len(truth))
    count = None if members is None else max(members) + 1
    counts = _shares(truth.tobytes(), truth.shape, n, seed, members)  # (1 + B, N)
    if not np.isnan(truth).any():
        rho = _weighted(counts, truth, [values for values, _ in checked], constant).mean(axis=-1)
        return Rho(rho[:, 0], rho[:, 1:], count)
    columns = []
    for column, known in enumerate(~np.isnan(truth.T)):
        one, shares = slice(column, column + 1), counts[:, known]
        shares = shares / shares.sum(axis=1, keepdims=True)
        seeds = [values[known, one] for values, _ in checked]
        columns.append(_weighted(shares, truth[known, one], seeds, constant[:, one]))
    rho = np.concatenate(columns, axis=-1).mean(axis=-1)  # (seeds, 1 + B)
    return Rho(rho[:, 0], rho[:, 1:], count)


def _numbered(groups: Sequence, clips: int) -> tuple[int, ...]:
    """Whose clip each is, as numbers from 0."""
    if len(groups) != clips:
        raise ValueError(f"{len(groups)} groups for {clips} clips: say of each whose it is")
    members = tuple(np.unique(np.asarray(groups), return_inverse=True)[1].tolist())
    if max(members) == 0:
        raise ValueError("all clips are of one group: there are no others to draw")
    return members


def _weighted(
    counts: np.ndarray, truth: np.ndarray, seeds: Sequence[np.ndarray], constant: np.ndarray
) -> np.ndarray:
    """(seeds, 1 + B, K): r of each seed's predictions (N, K) under each row of shares, `counts`
    (1 + B, N)."""
    truth = truth - truth.mean(axis=0)  # so that sums of squares lose no digits to the mean
    mean_t, square_t = counts @ truth, counts @ truth**2  # (1 + B, K)
    spread_t = np.sqrt(square_t - mean_t**2)
    found = []
    for values, flat in zip(seeds, constant, strict=True):
        values = values - values.mean(axis=0)
        # scale-free, so one threshold fits all
        values /= np.where(flat, 1.0, np.abs(values).max(axis=0))
        mean_p = counts @ values
        variance = counts @ values**2 - mean_p**2
        varies = ~flat & (variance > 1e-14)
        covariance = counts @ (values * truth) - mean_p * mean_t
        r = np.where(
            varies, covariance / (np.sqrt(np.where(varies, variance, 1.0)) * spread_t), 0.0
        )
        found.append(r)
    return np.stack(found)


@lru_cache(maxsize=4)
def _shares(
    truth: bytes, shape: tuple[int, int], n: int, seed: int, groups: tuple[int, ...] | None
) -> np.ndarray:
    """(1 + B, N): each clip's share of the split (row 0) and of its resamples. All systems of a
    split ask for the same."""
    target = np.frombuffer(truth).reshape(shape)
    members = None if groups is None else np.array(groups)
    resamples = metrics.resamples(target, n, seed, members)
    drawn = [np.bincount(rows, minlength=shape[0]) for rows in resamples]
    shares = np.vstack([np.ones(shape[0]), np.stack(drawn)])
    # groups differ in size, and so do resamples of them
    shares = shares / shares.sum(axis=1, keepdims=True)
    shares.flags.writeable = False
    return shares


def compare(system: Rho, reference: Rho, level: float = 0.95) -> Comparison:
    """Mean rho of `system` minus `reference`: what to expect from new clips and new seeds, from one
    joint bootstrap.

    Each resample draws clips, the same for both systems, and seeds, separately for each.

    Clips are paired because a hard clip is hard for both: its effect cancels in the difference.
    Seeds are not: two systems with other parts share no more than the order of the batches, and two
    copies of one system that differ in their seeds have nothing to pair. Variants with the same
    parts do start from the same weights with the same seed (TAEMI with and without missing tokens,
    say). To draw their seeds separately ignores a positive covariance, so that interval is too
    wide, and a small difference may go undetected.

    Two corrections make the few seeds count rightly:
      - of K seeds, K - 1 are drawn. K draws would have a variance (K - 1) / K too small, a fifth at
        5 seeds.
      - seeds differ on the split partly because of its finite number of clips, and resampling the
        clips shows that part already. That part is subtracted (it is estimated from how seeds drift
        apart under resampling) and counts once; without this a planted null would be found nearly
        never, and real differences too seldom.
    Seeds are drawn independently of clips, so their share of the variance adds up and is computed
    exactly instead of with dice: the mean of K - 1 draws from K deviations has the variance of the
    deviations over K.

    The interval is delta -+ t * (standard deviation over the resamples), p-value from the same t:
    percentiles of so few seeds end at the seeds at hand and are too narrow, and p-values of a Holm
    family need tails that 2,000 resamples do not have. The degrees of freedom follow Welch and
    Satterthwaite.

    What it takes for granted: seed effects that are roughly normal (see the simulations in the
    tests, from two seeds on). A system that trains well or fails by luck of the seed is called
    different far too often: with five seeds and one training in five failing, in 20 to 30 of 100
    simulated nulls. Look at the seeds. With a single seed, a system's share is clips alone, which
    is far too narrow. "New clips" means clips of the same kind, with the same few voices and faces;
    where whole groups were drawn (`resampled_rho`), new voices: an error with one degree of freedom
    less than there are groups, since what one group adds is known from so few others.
    """
    if system.groups != reference.groups:
        raise ValueError("one of the two was resampled by other groups: score both alike")
    draws = system.resampled.shape[1]
    if draws != reference.resampled.shape[1]:
        raise ValueError(
            f"{draws} and {reference.resampled.shape[1]} resamples: "
            "score both systems with the same n"
        )
    delta = system.mean - reference.mean
    if abs(delta) < 1e-9 and np.allclose(
        system.resampled.mean(axis=0), reference.resampled.mean(axis=0), rtol=0, atol=1e-9
    ):
        # the same predictions twice, but for rounding
        return Comparison(0.0, 0.0, 0.0, 1.0, 0.0, float("inf"))
    # (B,) all seeds, resampled clips
    clips = system.resampled.mean(axis=0) - reference.resampled.mean(axis=0)
    freedom = np.inf if system.groups is None else system.groups - 1
    parts = [(clips.var(ddof=1) * _few(system.groups), freedom)]  # variance, degrees of freedom
    for rho in (system, reference):
        count = len(rho.seeds)
        if count > 1:
            parts.append((_seed_variance(rho) / count, count - 1))
    total = sum(variance for variance, _ in parts)
    error = float(np.sqrt(total))
    uncertain = sum(variance**2 / freedom for variance, freedom in parts)
    freedom = float(total**2 / uncertain) if uncertain > 0 else float("inf")
    p = float(2 * stats.t.sf(abs(delta) / error, freedom)) if error > 0 else 0.0
    return _with_interval(Comparison(delta, delta, delta, p, error, freedom), level)


def _few(groups: int | None) -> float:
    """G draws from G groups have a variance (G - 1) / G too small; of clips there are enough."""
    return 1.0 if groups is None else groups / (groups - 1)


def _seed_variance(rho: Rho) -> float:
    """How much seeds differ on all clips there could be: their variance on the split, less what
    comes from its finite number of clips."""
    deviation = rho.seeds - rho.seeds.mean()
    # How far the seeds' deviations move when the clips are drawn anew: clips x seeds, per seed.
    moved = rho.resampled - rho.resampled.mean(axis=0) - deviation[:, None]
    by_clips = _few(rho.groups) * moved.var(axis=1).sum() / (len(deviation) - 1)
    return max(0.0, float(deviation.var(ddof=1) - by_clips))


def _with_interval(comparison: Comparison, level: float) -> Comparison:
    reach = float(stats.t.ppf((1 + level) / 2, comparison.freedom)) * comparison.error
    return replace(comparison, low=comparison.delta - reach, high=comparison.delta + reach)


def holm(family: Mapping[Name, Comparison], level: float = 0.95) -> dict[Name, Comparison]:
    """The comparisons of one family with Holm's p-values, and intervals that exclude zero exactly
    where p_holm <= 1 - level.

    In order of p, comparison i of m is held against alpha / (m - i) (i from 0), until one fails;
    from there on nothing is detected. Its interval has that same level; all comparisons from the
    first failure on share its level, alpha / (number not detected). So each interval says what its
    own test says, and a wrong "better" or "worse" anywhere in the family has a chance of at most
    alpha. That is no promise that all intervals of the family hold their true differences together:
    alpha / m for each would be needed for that.
    """
    alpha, count = 1 - level, len(family)
    adjusted: dict[Name, Comparison] = {}
    highest, failed_at = 0.0, None
    for place, key in enumerate(sorted(family, key=lambda key: family[key].p)):
        comparison = family[key]
        highest = max(highest, min(1.0, (count - place) * comparison.p))
        if failed_at is None and highest > alpha:
            failed_at = place
        divisor = count - (place if failed_at is None else failed_at)
        adjusted[key] = replace(_with_interval(comparison, 1 - alpha / divisor), p_holm=highest)
    return {key: adjusted[key] for key in family}

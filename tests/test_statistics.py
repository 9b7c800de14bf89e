"""Comparisons that can say no: the bootstrap over clips and seeds, its error rates in simulation,
and Holm by hand."""

import numpy as np
import pytest
from scipy import stats

from taemi_lib.evaluation import comparing, metrics
from taemi_lib.evaluation.comparing import Comparison, compare, holm, resampled_rho


def draw(rng, seeds=5, clips=200, between_seeds=0.0, same_errors=True, gain=1.0):
    """Targets (N, 6) and the predictions of two systems: truth + what a system always gets wrong +
    what a seed gets wrong.

    between_seeds  how much better some seeds are than others
    same_errors    two copies of one system: what is hard for one is hard for the other
    gain           how much larger the second system's errors are
    """
    target = np.clip(rng.gamma(1.0, 0.3, (clips, 6)) - 0.1, 0, 1)
    target[target < 0.08] = (
        0  # nearly half of the labels are 0, as in the generated and the real ones
    )
    wrong = rng.standard_t(5, size=(2, clips, 6)) / np.sqrt(5 / 3)  # a few clips are very hard
    systems = []
    for number in range(2):
        sizes = np.exp(between_seeds * rng.normal(size=seeds)) * (gain if number else 1.0)
        errors = [
            0.6 * wrong[0 if same_errors else number] + 0.6 * rng.normal(size=(clips, 6))
            for _ in range(seeds)
        ]
        systems.append(
            [target / 0.3 + size * error for size, error in zip(sizes, errors, strict=True)]
        )
    return target, *systems


def compared(target, first, second, n=200, seed=0):
    return compare(resampled_rho(first, target, n, seed), resampled_rho(second, target, n, seed))


def simulate(count, **world):
    rng = np.random.default_rng(5)
    return [compared(*draw(rng, **world), seed=number) for number in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "world",
    [
        {"between_seeds": 0.03},
        {"between_seeds": 0.1},
        {"same_errors": False, "between_seeds": 0.03},
        {"between_seeds": 0.1, "seeds": 2},
        {"between_seeds": 0.1, "seeds": 3},
        {"between_seeds": 0.03, "seeds": 10},
    ],
    ids=[
        "clips matter most",
        "seeds matter most",
        "two systems, equally good",
        "two seeds",
        "three seeds",
        "ten seeds",
    ],
)
def test_a_planted_null_is_found_in_about_one_of_twenty(world):
    results = simulate(500, **world)
    false = np.mean([result.verdict != comparing.NO_DIFFERENCE for result in results])
    assert 0.02 <= false <= 0.08
    assert all(
        (result.p <= 0.05) == (result.verdict != comparing.NO_DIFFERENCE) for result in results
    )


@pytest.mark.slow
def test_the_interval_covers_a_true_difference_and_the_difference_is_found():
    results = simulate(400, between_seeds=0.1, gain=1.25)
    truth = np.mean([result.delta for result in results])
    assert 0.92 <= np.mean([result.low <= truth <= result.high for result in results]) <= 0.98
    assert (
        truth > 0.02 and np.mean([result.verdict == comparing.BETTER for result in results]) > 0.4
    )
    assert not any(result.verdict == comparing.WORSE for result in results)


def test_every_resample_is_scored_as_the_metric_scores_it():
    target, first, _ = draw(np.random.default_rng(0), seeds=2, clips=30)
    rho = resampled_rho(first, target, n=20, seed=3)
    assert rho.seeds == pytest.approx([metrics.mean_pearson(each, target) for each in first])
    for number, rows in enumerate(metrics.resamples(target, 20, 3)):
        expected = [metrics.mean_pearson(each[rows], target[rows]) for each in first]
        assert rho.resampled[:, number] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore::taemi_lib.evaluation.metrics.ConstantPrediction")
def test_a_constant_emotion_counts_as_zero_in_every_resample():
    target, first, _ = draw(np.random.default_rng(0), seeds=1, clips=30)
    flat = first[0].astype(np.float32)
    flat[:, 2] = 0.1
    rho = resampled_rho([flat], target, n=10)
    assert rho.seeds[0] == pytest.approx(metrics.mean_pearson(flat, target))
    others = [k for k in range(6) if k != 2]
    for number, rows in enumerate(metrics.resamples(target, 10, 0)):
        rest = [np.corrcoef(flat[rows, k], target[rows, k])[0, 1] for k in others]
        assert rho.resampled[0, number] == pytest.approx(sum(rest) / 6, abs=1e-6)


def test_the_error_is_that_of_drawing_clips_and_seeds_together():
    """With dice, where hardly any of the seeds' differences come from the clips, so that nothing is
    shrunk."""
    rng = np.random.default_rng(7)
    target, first, second = draw(rng, seeds=4, clips=400, between_seeds=0.3)
    a, b = resampled_rho(first, target, 3000), resampled_rho(second, target, 3000)
    drawn = []
    for clips in range(3000):
        seeds_a, seeds_b = rng.integers(4, size=(2, 3))  # 3 of 4
        drawn.append(a.resampled[seeds_a, clips].mean() - b.resampled[seeds_b, clips].mean())
    assert compare(a, b).error == pytest.approx(np.std(drawn), rel=0.05)


def test_pairing_by_clip_makes_the_interval_narrower():
    target, first, second = draw(np.random.default_rng(1), clips=300)
    a, b = resampled_rho(first, target, 500), resampled_rho(second, target, 500)
    shuffled = comparing.Rho(b.seeds, np.random.default_rng(0).permuted(b.resampled.T, axis=0).T)
    assert compare(a, b).error < 0.75 * compare(a, shuffled).error


def test_seeds_that_differ_widen_the_interval_and_the_sign_follows_the_order():
    target, first, second = draw(np.random.default_rng(2))
    same = [first[0]] * 5
    a, b = resampled_rho(first, target, 200), resampled_rho(second, target, 200)
    forth, back = compare(a, b), compare(b, a)
    assert forth.delta == pytest.approx(-back.delta)
    spread = comparing.Rho(a.seeds + np.array([-0.1, -0.05, 0, 0.05, 0.1]), a.resampled)
    assert compare(spread, b).error > 2 * forth.error
    assert compare(spread, b).freedom < 10
    assert (
        compare(resampled_rho(same, target, 200), b).freedom > 100
    )  # seeds that say the same add nothing


def test_a_system_is_not_different_from_itself():
    target, first, _ = draw(np.random.default_rng(3), seeds=1)
    result = compared(target, first, [2 * first[0] + 1])
    assert (
        result.delta == pytest.approx(0)
        and result.p == 1
        and result.verdict == comparing.NO_DIFFERENCE
    )


def test_a_difference_is_exact_where_every_resample_agrees():
    target = np.random.default_rng(0).random((40, 6))
    right, wrong = 2 * target + 1, -target  # rho is 1 and -1, whichever clips are drawn
    half = np.where(
        np.arange(6) < 3, target, -target
    )  # three emotions right, three upside down: mean rho 0
    for first, second, difference in (
        ([right], [wrong], 2),
        ([right, wrong], [right], -1),
        ([right], [half], 1),
    ):
        assert compared(target, first, second).delta == pytest.approx(difference)
    assert compared(target, [right], [wrong]).low == pytest.approx(2)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_predictions_but_for_rounding_are_the_same_system(seed):
    rng = np.random.default_rng(seed)
    target, first, _ = draw(rng, seeds=2)
    scale, shift = rng.uniform(0.1, 9), rng.normal()
    result = compared(target, first, [scale * each + shift for each in first])
    assert (result.delta, result.low, result.high, result.p, result.verdict) == (
        0,
        0,
        0,
        1,
        comparing.NO_DIFFERENCE,
    )


def test_what_seeds_differ_by_is_counted_without_what_the_clips_explain():
    # Deviations from the mean of the seeds: -2, 0, 2 on the split, variance 4. In the resamples
    # seed 0 is 1 lower or higher than that, and so the other way round for seed 2; variances 1, 0,
    # 1 over the resamples, their sum over K - 1 is 1.
    seeds = np.array([1.0, 3.0, 5.0])
    assert comparing._seed_variance(
        comparing.Rho(seeds, np.array([[0.0, 2], [3, 3], [6, 4]]))
    ) == pytest.approx(4 - 1)
    # Now they scatter more than they differ: nothing is left.
    assert (
        comparing._seed_variance(comparing.Rho(seeds, np.array([[-9.0, 11], [3, 3], [15, -5]])))
        == 0
    )


@pytest.mark.parametrize("shift, scale", [(0, 1), (1e3, 1), (0, 1e-6), (1e6, 1e3)])
def test_neither_level_nor_scale_of_a_prediction_changes_its_resampled_scores(shift, scale):
    target, first, _ = draw(np.random.default_rng(0), seeds=1, clips=40)
    rho = resampled_rho([shift + scale * first[0]], target + 100, n=10)
    for number, rows in enumerate(metrics.resamples(target + 100, 10, 0)):
        expected = [stats.pearsonr(first[0][rows, k], target[rows, k]).statistic for k in range(6)]
        assert rho.resampled[0, number] == pytest.approx(np.mean(expected), abs=1e-7)


def world_of_groups(rng, shared, groups=12, clips=240):
    """Two systems, three seeds each, and whose clip each is. `shared`: how much better a system
    hears some groups than others."""
    owner = rng.integers(groups, size=clips)
    target = rng.random((clips, 2))
    systems = []
    for _ in range(2):
        gain = 1 + shared * rng.normal(size=(groups, 1))[owner]
        systems.append([gain * target + 0.5 * rng.normal(size=(clips, 2)) for _ in range(3)])
    return target, *systems, owner


def grouped(target, first, second, owner, n=300):
    return compare(*(resampled_rho(each, target, n, groups=owner) for each in (first, second)))


def test_groups_that_differ_widen_the_interval_and_groups_of_one_clip_do_not():
    rng = np.random.default_rng(3)
    found = {"alike": [], "different": []}
    for _ in range(20):
        for key, shared in {"alike": 0.0, "different": 0.5}.items():
            target, first, second, owner = world_of_groups(rng, shared)
            by_clip = compared(target, first, second, n=300)
            by_group = grouped(target, first, second, owner)
            assert by_group.delta == by_clip.delta
            found[key].append(by_group.error / by_clip.error)
    assert np.median(found["alike"]) == pytest.approx(1, abs=0.15)
    assert np.median(found["different"]) > 1.4
    target, first, second, _ = world_of_groups(rng, 0.0)
    alone = grouped(target, first, second, np.arange(len(target)), n=2000)
    assert alone.error == pytest.approx(compared(target, first, second, n=2000).error, rel=0.05)


@pytest.mark.slow
def test_a_null_among_groups_is_seldom_found_by_groups_and_often_by_clips():
    """12 groups: in 17 of 200, more than the 10 of a perfect test; by clips in 92."""
    rng, wrong = np.random.default_rng(4), {"groups": 0, "clips": 0}
    for _ in range(200):
        target, first, second, owner = world_of_groups(rng, 0.5)
        wrong["groups"] += grouped(target, first, second, owner, n=200).p < 0.05
        wrong["clips"] += compared(target, first, second).p < 0.05
    assert wrong["groups"] <= 24 and wrong["clips"] > 60


def test_a_resample_of_groups_holds_all_clips_of_a_group_or_none():
    owner = np.array(list("aabbbcc"))
    target = np.arange(14.0).reshape(7, 2)
    for rows in metrics.resamples(target, 50, 0, owner):
        counts = np.bincount(rows, minlength=7)
        assert all(len(set(counts[owner == group])) == 1 for group in "abc")
        assert counts[[0, 2, 5]].sum() == 3


def test_one_group_is_refused_and_so_are_two_ways_of_drawing():
    target, first, second = draw(np.random.default_rng(0))
    with pytest.raises(ValueError, match="of one group"):
        resampled_rho(first, target, 50, groups=["a"] * len(target))
    with pytest.raises(ValueError, match=r"3 groups for 200 clips: say of each whose it is"):
        resampled_rho(first, target, 50, groups=["a", "b", "c"])
    by_group = resampled_rho(first, target, 50, groups=np.arange(len(target)) // 10)
    with pytest.raises(ValueError, match="score both alike"):
        compare(by_group, resampled_rho(second, target, 50))


def test_systems_resampled_differently_are_not_compared():
    target, first, second = draw(np.random.default_rng(5), clips=20, seeds=2)
    with pytest.raises(ValueError, match="20 and 30 resamples"):
        compare(resampled_rho(first, target, 20), resampled_rho(second, target, 30))
    with pytest.raises(ValueError, match="no predictions"):
        resampled_rho([], target)
    with pytest.raises(ValueError, match=r"\(19, 6\).*\(20, 6\)"):
        resampled_rho([first[0][1:]], target, 20)
    target[:, 5] = 0.0
    with pytest.raises(ValueError, match="'Joy'.*20 clips"):
        resampled_rho(first, target, 20)


def with_p(p, delta=1.0):
    """A comparison of this two-sided p-value with a normal error."""
    error = abs(delta) / stats.norm.isf(p / 2)
    return Comparison(delta, 0.0, 0.0, p, error, float("inf"))


def test_holm_by_hand():
    # sorted: .01 x 4 = .04, .02 x 3 = .06 (fails), .03 x 2 = .06, .5 x 1 = .5
    adjusted = holm({"c": with_p(0.03), "a": with_p(0.01), "d": with_p(0.5), "b": with_p(0.02)})
    assert list(adjusted) == ["c", "a", "d", "b"]
    assert {key: round(adjusted[key].p_holm, 10) for key in "abcd"} == {
        "a": 0.04,
        "b": 0.06,
        "c": 0.06,
        "d": 0.5,
    }
    verdicts = {key: adjusted[key].verdict for key in "abcd"}
    assert verdicts == {"a": comparing.BETTER} | dict.fromkeys("bcd", comparing.NO_DIFFERENCE)
    # a has level 1 - .05 / 4; b failed at .05 / 3, and c and d share its level
    reach = {
        key: (adjusted[key].high - adjusted[key].delta) / adjusted[key].error for key in "abcd"
    }
    assert reach["a"] == pytest.approx(2.4977, abs=1e-3)
    assert [reach[key] for key in "bcd"] == pytest.approx([2.3940] * 3, abs=1e-3)


def test_holm_intervals_exclude_zero_exactly_where_the_adjusted_p_is_below_five_percent():
    rng = np.random.default_rng(0)
    for _ in range(200):
        family = {
            k: with_p(float(rng.beta(0.4, 4)), delta=float(rng.choice([-1, 1]))) for k in range(6)
        }
        for key, result in holm(family).items():
            assert (result.verdict != comparing.NO_DIFFERENCE) == (result.p_holm <= 0.05)
            assert result.p_holm >= family[key].p
            side = comparing.BETTER if result.delta > 0 else comparing.WORSE
            assert result.verdict in (comparing.NO_DIFFERENCE, side)


def test_a_family_of_one_is_not_adjusted():
    (only,) = holm({"x": with_p(0.04)}).values()
    assert only.p_holm == 0.04 and only.verdict == comparing.BETTER


def test_systems_of_one_split_share_its_resamples_and_another_split_has_its_own():
    target, first, second = draw(np.random.default_rng(3), seeds=1, clips=30)
    comparing._shares.cache_clear()
    for predictions in (first, second):
        resampled_rho(predictions, target, n=20)
    assert (comparing._shares.cache_info().misses, comparing._shares.cache_info().hits) == (1, 1)
    other = target.copy()
    other[0, 0] += 0.5
    fresh = resampled_rho(first, other, n=20)
    comparing._shares.cache_clear()
    assert np.array_equal(fresh.resampled, resampled_rho(first, other, n=20).resampled)
    assert not np.array_equal(fresh.resampled, resampled_rho(first, target, n=20).resampled)

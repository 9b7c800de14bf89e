import warnings

import numpy as np
import pytest
import torch

from taemi_lib.evaluation import metrics
from taemi_lib.evaluation.scoring import Predictions, score
from taemi_lib.profiles import EMOTIONS


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    target = rng.random((60, 6))
    return target + rng.normal(0, [0.1, 0.3, 1, 3, 10, 30], (60, 6)), target


def test_pearson_by_hand():
    target = np.tile([[0.0], [1.0], [2.0]], 6)
    prediction = np.stack(
        [[0, 1, 2], [2, 1, 0], [0, 1, 0], [5, 7, 9], [0, 0, 1], [1, 0, 0]], axis=1
    )
    expected = [1, -1, 0, 1, np.sqrt(0.75), -np.sqrt(0.75)]
    assert np.allclose(metrics.pearson_per_emotion(prediction, target), expected)
    assert metrics.mean_pearson(prediction, target) == pytest.approx(1 / 6)


def test_pearson_is_numpys(split):
    expected = [np.corrcoef(p, t)[0, 1] for p, t in zip(split[0].T, split[1].T, strict=True)]
    assert np.allclose(metrics.pearson_per_emotion(*split), expected, atol=1e-12)


def test_pearson_is_scipys(split):
    from scipy import stats

    expected = [stats.pearsonr(p, t)[0] for p, t in zip(split[0].T, split[1].T, strict=True)]
    assert np.allclose(metrics.pearson_per_emotion(*split), expected, atol=1e-12)


def test_tensors_and_arrays_score_the_same(split):
    tensors = (torch.from_numpy(split[0]).requires_grad_(), torch.from_numpy(split[1]))
    assert metrics.mean_pearson(*tensors) == metrics.mean_pearson(*split)


def test_two_passes_in_float64_survive_a_large_offset_and_tiny_or_huge_scales(split):
    prediction, target = split
    exact = metrics.pearson_per_emotion(prediction, target)
    assert np.allclose(metrics.pearson_per_emotion(prediction + 1e8, target), exact, atol=1e-6)
    for scale in (1e-200, 1e200):
        assert np.allclose(
            metrics.pearson_per_emotion(prediction * scale, target), exact, atol=1e-9
        )


def test_a_constant_prediction_counts_as_zero_and_is_flagged(split):
    prediction, target = split
    rest = metrics.pearson_per_emotion(prediction, target)
    prediction[:, 2] = 0.1
    with pytest.warns(metrics.ConstantPrediction, match="Determination"):
        rho = metrics.pearson_per_emotion(prediction, target)
    assert rho[2] == 0 and np.array_equal(np.delete(rho, 2), np.delete(rest, 2))
    assert metrics.constant_emotions(prediction) == ("Determination",)


def test_a_prediction_that_varies_by_rounding_only_is_constant(split):
    prediction = np.full((60, 6), 0.3, dtype=np.float32)
    prediction[::2] = np.nextafter(np.float32(0.3), np.float32(1))
    with pytest.warns(metrics.ConstantPrediction):
        assert metrics.mean_pearson(prediction, split[1]) == 0


@pytest.mark.parametrize("score_of", [metrics.mean_pearson, metrics.ccc, metrics.bootstrap])
def test_a_constant_target_and_a_nan_are_errors(split, score_of):
    prediction, target = split
    broken = prediction.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="prediction.*row 3, 'Amusement'"):
        score_of(broken, target)
    target[:, 5] = 0.0
    with pytest.raises(ValueError, match="'Joy'.*60 clips"):
        score_of(prediction, target)


def test_shapes_that_do_not_fit_are_refused(split):
    with pytest.raises(ValueError, match=r"\(59, 6\).*\(60, 6\)"):
        metrics.mean_pearson(split[0][1:], split[1])
    with pytest.raises(ValueError, match="at least 2 clips"):
        metrics.mean_pearson(split[0][:1], split[1][:1])
    with pytest.raises(ValueError, match="at least 2 clips"):
        metrics.mean_pearson(split[0][:0], split[1][:0])


def test_rho_is_of_the_whole_split_not_a_mean_over_batches():
    target = np.tile(np.arange(4.0)[:, None], 6)
    prediction = np.tile(np.array([1.0, 2.0, 0.0, 1.0])[:, None], 6)
    halves = np.mean(
        [metrics.mean_pearson(prediction[i : i + 2], target[i : i + 2]) for i in (0, 2)]
    )
    assert halves == pytest.approx(1) and metrics.mean_pearson(prediction, target) < 0


def test_mse_and_concordance_by_hand():
    target, prediction = np.tile([[0.0], [2.0]], 6), np.tile([[1.0], [3.0]], 6)
    assert metrics.mse(prediction, target) == 1
    assert np.allclose(metrics.ccc(prediction, target), 2 * 1 / (1 + 1 + 1))


def test_the_bootstrap_covers_is_seeded_and_narrows_with_more_clips():
    rng = np.random.default_rng(0)
    truth, widths = 1 / np.sqrt(2), []
    for count in (100, 1000):
        target = rng.normal(size=(count, 6))
        prediction = target + rng.normal(size=(count, 6))
        interval = metrics.bootstrap(prediction, target, n=200)
        assert interval.low < truth < interval.high
        assert interval == metrics.bootstrap(prediction, target, n=200)
        widths.append(interval.high - interval.low)
    assert widths[1] < 0.5 * widths[0]


def test_the_bootstrap_redraws_where_sparse_labels_do_not_vary():
    rng = np.random.default_rng(0)
    target = np.zeros((12, 6))
    target[0] = 1.0  # a third of all resamples miss the only clip that varies
    assert all(np.isfinite(metrics.bootstrap(rng.random((12, 6)), target, n=100)))


def test_a_score_holds_what_belongs_beside_it(split):
    predictions = Predictions(
        [f"c{i}" for i in range(60)], split[0].astype(np.float32), split[1], np.zeros(60, bool)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = score(predictions, resamples=50)
    assert result.mean_rho == pytest.approx(np.mean(list(result.per_emotion.values())))
    assert result.interval.low < result.mean_rho < result.interval.high
    assert list(result.per_emotion) == list(EMOTIONS) and result.as_dict()["clips"] == 60
    table = result.table
    assert (
        list(table.columns) == ["clip_id", "emotion", "target", "prediction"] and len(table) == 360
    )
    assert table.query("clip_id == 'c7' and emotion == 'Joy'")["target"].item() == split[1][7, 5]


def test_a_split_without_labels_is_refused_by_its_clip(split):
    split[1][4] = np.nan
    predictions = Predictions([f"c{i}" for i in range(60)], split[0], split[1], np.zeros(60, bool))
    with pytest.raises(ValueError, match="'c4' has no labels"):
        score(predictions)

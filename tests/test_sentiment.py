"""The sentiment field's scores, by hand, with the ties that decide published digits."""

import numpy as np
import pytest
import torch

from taemi_lib.evaluation.metrics import ConstantPrediction
from taemi_lib.evaluation.sentiment import SENTIMENT, SIMS, sentiment, sims

# rounds (clipped to 3):  0    2    2    0     0   -3    3    1
PREDICTION = np.array([0.5, 1.5, 2.5, -0.5, 0.0, -3.4, 3.6, 1.2])
TARGET = np.array([0.0, 2.0, 3.0, -1.0, 0.0, -3.0, 2.5, 1.0])
# rounds:                0    2    3   -1     0   -3    2    1


def test_seven_five_and_three_classes_by_hand_with_halves_to_the_even_number():
    scores = sentiment(PREDICTION, TARGET)
    assert scores["acc_7"] == 5 / 8  # wrong: 2.5 (2, not 3), -0.5 (0), 3.6 (2.5 is 2)
    # to +-2: 0 2 2 0 0 -2 2 1 against 0 2 2 -1 0 -2 2 1
    assert scores["acc_5"] == 7 / 8
    # to +-1: 0 1 1 0 0 -1 1 1 against 0 1 1 -1 0 -1 1 1
    assert scores["acc_3"] == 7 / 8


@pytest.mark.parametrize(
    "value, rounded", [(0.5, 0), (-0.5, 0), (1.5, 2), (-1.5, -2), (2.5, 2), (-2.5, -2)]
)
def test_a_half_belongs_to_the_even_class(value, rounded):
    # a second clip, wrong in every class, so that the truth varies
    scores = sentiment([value, 3.0], [float(rounded), -3.0])
    assert scores["acc_7"] == 0.5
    assert sentiment([value, 3.0], [rounded + 1.0, -3.0])["acc_7"] == 0


def test_mae_and_corr_are_of_values_that_nobody_clipped():
    scores = sentiment([-9.0, 0.0, 9.0], [-3.0, 0.0, 3.0])
    assert scores["mae"] == 4.0 and scores["corr"] == pytest.approx(1)
    assert scores["acc_7"] == 1
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(0, 3, 50), rng.normal(0, 3, 50)
    expected = np.corrcoef(prediction, target)[0, 1]
    assert sentiment(prediction, target)["corr"] == pytest.approx(expected, abs=1e-12)


def test_two_classes_with_and_without_the_zeros_of_the_truth():
    prediction = np.array([0.0, -0.2, 0.7, 0.0, -1.0, 0.3])
    target = np.array([0.0, 0.0, 1.0, 2.0, -1.0, -2.0])
    scores = sentiment(prediction, target)
    # has0, >= 0:  1 0 1 1 0 1 against 1 1 1 1 0 0
    assert scores["acc_2_has0"] == pytest.approx(4 / 6)
    # positive: tp 3, fp 1, fn 1 -> 3/4; negative: tp 1, fp 1, fn 1 -> 1/2; 4 and 2 clips
    assert scores["f1_has0"] == pytest.approx((4 * 3 / 4 + 2 * 1 / 2) / 6)
    # non0, > 0, the last four clips: 1 0 0 1 against 1 1 0 0
    assert scores["acc_2_non0"] == pytest.approx(2 / 4)
    assert scores["f1_non0"] == pytest.approx(0.5)


def test_a_prediction_of_exactly_zero_is_positive_with_zeros_and_negative_without():
    zero = sentiment([0.0, -1.0], [1.0, -1.0])
    assert (zero["acc_2_has0"], zero["acc_2_non0"]) == (1.0, 0.5)


def test_f1_is_weighted_by_the_truth_not_by_the_prediction():
    # all said positive: three of four right. Positive: 2*3/(2*3+1) = 6/7; negative: 0
    scores = sentiment([1.0, 2.0, 1.0, 2.0], [1.0, 2.0, 1.0, -1.0])
    assert scores["f1_has0"] == pytest.approx(3 / 4 * 6 / 7) == scores["f1_non0"]


@pytest.mark.parametrize("score, scale", [(sentiment, 1.0), (sims, 0.3)], ids=["sentiment", "sims"])
def test_a_constant_prediction_correlates_with_nothing_and_is_flagged(score, scale):
    with pytest.warns(ConstantPrediction):
        scores = score(np.full(4, 0.5 * scale), scale * np.array([-1.0, 1.0, 2.0, 3.0]))
    assert scores["corr"] == 0 and np.isfinite(list(scores.values())).all()


def test_sims_is_constant_where_clipping_made_it_so():
    with pytest.warns(ConstantPrediction):
        assert sims([1.5, 2.0, 7.0], [0.2, 0.4, 0.6])["corr"] == 0


@pytest.mark.parametrize("score", [sentiment, sims])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_on_both_sides(score, bad):
    good, broken = [0.1, -0.2, 0.3], [0.1, bad, 0.3]
    with pytest.raises(ValueError, match="prediction.*row 1"):
        score(broken, good)
    with pytest.raises(ValueError, match="target.*row 1"):
        score(good, broken)


@pytest.mark.parametrize("score", [sentiment, sims])
@pytest.mark.parametrize("value", [0.0, 0.4])
def test_a_truth_without_differences_is_refused_so_non0_never_has_no_clips(score, value):
    with pytest.raises(ValueError, match="the same for all 3 clips"):
        score([0.1, -0.2, 0.3], [value] * 3)


@pytest.mark.parametrize("score", [sentiment, sims])
def test_shapes_that_do_not_fit_are_refused(score):
    for prediction, target in (
        (np.zeros((3, 1)), np.zeros((3, 1))),
        (np.zeros(3), np.zeros(2)),
        (0.0, 0.0),
    ):
        with pytest.raises(ValueError, match=r"both must be \(N,\)"):
            score(prediction, target)
    with pytest.raises(ValueError, match="at least 2 clips"):
        score([0.1], [0.2])


#                   5: 0     1     1     2    2    3    3    4
#                   3: 0     0     0     1    1    2    2    2
#                   2: 0     0     0     0    1    1    1    1
BORDERS = np.array([-0.7, -0.69, -0.1, 0.0, 0.1, 0.3, 0.7, 0.8])


def test_sims_bins_by_hand_a_border_belonging_below():
    # a step above every border, where it belongs to the next bin
    above = BORDERS + np.array([0.01, 0, 0.01, 0.01, 0.01, 0, 0.01, 0])
    scores = sims(BORDERS, above)
    assert scores["acc_5"] == 4 / 8  # moved: -0.7, -0.1, 0.1, 0.7
    assert scores["acc_3"] == 6 / 8  # moved: -0.1, 0.1
    assert scores["acc_2"] == 7 / 8  # moved: 0.0
    # of the truth 5 above 0, of the prediction 4: 8/9 positive; 2*3/(2*3+1) = 6/7 not
    assert scores["f1"] == pytest.approx((5 * 8 / 9 + 3 * 6 / 7) / 8)
    assert scores["mae"] == pytest.approx(0.05 / 8)
    same = sims(BORDERS, BORDERS)
    assert {name: same[name] for name in ("acc_5", "acc_3", "acc_2", "f1", "mae")} == {
        "acc_5": 1,
        "acc_3": 1,
        "acc_2": 1,
        "f1": 1,
        "mae": 0,
    }


def test_sims_clips_before_everything():
    scores = sims([-5.0, 0.5, 9.0], [-1.0, 0.5, 1.0])
    assert scores["mae"] == 0 and scores["corr"] == pytest.approx(1) and scores["acc_5"] == 1


def test_a_border_is_the_same_in_both_number_formats():
    """0.1 is larger in float32 than in float64: the number may have come through either."""
    narrow = BORDERS.astype(np.float32)
    for pair in ((narrow, BORDERS), (BORDERS, narrow), (narrow, narrow)):
        scores = sims(*pair)
        assert scores["acc_5"] == scores["acc_3"] == scores["acc_2"] == 1


def test_tensors_and_arrays_score_the_same_and_the_keys_are_the_listed_ones():
    tensors = (torch.from_numpy(PREDICTION).requires_grad_(), torch.from_numpy(TARGET))
    for score, keys in ((sentiment, SENTIMENT), (sims, SIMS)):
        scores = score(*tensors)
        assert scores == score(PREDICTION, TARGET)
        assert sorted(scores) == sorted(keys) and {type(v) for v in scores.values()} == {float}

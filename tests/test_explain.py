import numpy as np
import pandas as pd
import pytest
import torch
from toy import SIZES, dataset

from taemi_lib import models
from taemi_lib.evaluation.attention import (
    attention_over_decoy,
    attention_ratios,
    event_windows,
    mass,
)
from taemi_lib.evaluation.scoring import predict_dataset

TIMES = np.array([0.0, 0.1, 0.2, 0.3])
EARLY, LATE = np.array([0.0, 0.2]), np.array([0.2, 0.4])


@pytest.fixture
def truth():
    return pd.DataFrame(
        {
            "clip_id": ["a", "b", "c"],
            "event0_start": 0.0,
            "event0_end": 0.2,
            "event1_start": 0.2,
            "event1_end": 0.4,
            "counts/cue": [0, 1, -1],
        }
    )


def test_mass_is_the_share_inside_the_window_averaged_over_heads():
    weights = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.0, 0.0]])
    assert mass(weights, TIMES, EARLY) == pytest.approx((0.3 + 1.0) / 2)
    assert mass(weights, TIMES, LATE) == pytest.approx((0.7 + 0.0) / 2)


def test_the_ratio_is_of_mean_masses_by_hand():
    first, second = np.array([[0.3, 0.3, 0.2, 0.2]]), np.array([[0.5, 0.5, 0.0, 0.0]])
    windows = np.stack([EARLY, EARLY]), np.stack([LATE, LATE])
    assert attention_over_decoy([first, second], [TIMES, TIMES], *windows) == pytest.approx(
        (0.6 + 1.0) / (0.4 + 0.0)
    )


def test_even_attention_scores_one_and_absent_clips_are_left_out():
    even = np.full((2, 4), 0.25)
    windows = np.stack([EARLY, LATE]), np.stack([LATE, EARLY])
    assert attention_over_decoy([even, None], [TIMES, None], *windows) == pytest.approx(1)
    with pytest.raises(ValueError, match="nothing to compare"):
        attention_over_decoy([None, None], [None, None], *windows)
    assert attention_over_decoy(
        [np.array([[0.5, 0.5, 0, 0]])], [TIMES], EARLY[None], LATE[None]
    ) == float("inf")


def test_event_windows_follow_what_counts(truth):
    counts, decoy = event_windows(truth, "cue", ["b", "a", "c"])
    assert np.array_equal(counts[:2], [LATE, EARLY]) and np.array_equal(decoy[:2], [EARLY, LATE])
    assert np.isnan(counts[2]).all() and np.isnan(decoy[2]).all()  # both count: there is no decoy
    with pytest.raises(ValueError, match="counts/fixed"):
        event_windows(truth, "fixed", ["a"])
    with pytest.raises(ValueError, match="'z'"):
        event_windows(truth, "cue", ["z"])


def test_ratios_come_from_a_models_own_attention():
    torch.manual_seed(0)
    clips = dataset(20)
    predictions = predict_dataset(models.create("taemi", **SIZES), clips, attention=True)
    for name in ("audio", "vision"):
        for index, weights in enumerate(predictions.attention[name]):
            sequence = getattr(clips[index][0], name)
            if sequence is None:
                assert weights is None and predictions.times[name][index] is None
            else:
                assert weights.shape == (2, len(sequence.values)) and np.allclose(
                    weights.sum(1), 1, atol=1e-5
                )
                assert np.allclose(predictions.times[name][index], sequence.times)
    truth = pd.DataFrame(
        {
            "clip_id": clips.clip_ids,
            "counts/cue": 0,
            "event0_start": 0.0,
            "event0_end": 0.1,
            "event1_start": 0.0,
            "event1_end": 0.1,
        }
    )
    assert attention_ratios(predictions, truth, "cue") == pytest.approx(
        {"audio": 1.0, "vision": 1.0}
    )
    with pytest.raises(ValueError, match="attention=True"):
        attention_ratios(predict_dataset(models.create("text_only", **SIZES), clips), truth, "cue")

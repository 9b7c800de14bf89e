"""The rivals of a text anchor in runs: a run that was killed goes on to the same weights, running
numbers of a norm included."""

import pytest
from test_training import PRESET, Killed, _kill_at, numbers, run, weights

from taemi_lib.runs import load_run

RIVALS = [
    "almt2023",
    "almt2023_first_place",
    "almt2023_learned",
    "lf_dnn",
    "lnln2024",
    "mult_full",
    "tfn_wide",
]


@pytest.mark.slow
@pytest.mark.parametrize("system", RIVALS)
def test_a_rivals_killed_run_goes_on_to_the_same_weights(system, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", system, PRESET)
    assert len(whole.history) >= 3
    with monkeypatch.context() as patch:
        _kill_at("batch 2 of epoch 3", patch)
        with pytest.raises(Killed):
            run(tmp_path / "killed", system, PRESET)
    assert not load_run(tmp_path / "killed").finished
    resumed = run(tmp_path / "killed", system, PRESET)
    assert numbers(resumed) == numbers(whole)
    for which in ("best", "last"):
        assert weights(resumed, which) == weights(whole, which)

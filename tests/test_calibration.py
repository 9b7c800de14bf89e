"""Intervals: what they promise, what they hold, and what becomes of the file that keeps them."""

import json
import pickle
import shutil
from dataclasses import asdict, replace
from math import comb
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from toy import SIZES, dataset

from taemi_lib import models, profiles
from taemi_lib.batches import ClipDataset
from taemi_lib.errors import CheckpointError, RunError, StoreError
from taemi_lib.features import Store
from taemi_lib.prediction import Ensemble, calibration
from taemi_lib.prediction.calibration import FLOOR, calibrate, calibrated, coverage
from taemi_lib.prediction.checkpoint import _dropping
from taemi_lib.profiles import EMOTIONS, Model, Training
from taemi_lib.training import train
from taemi_lib.workspace import Workspace

CPU = torch.device("cpu")
MODEL = Model(width=8, heads=2, mlp_width=8, dropout=0.2, input_dropout=0.2)
PRESET = Training(learning_rate=1e-2, batch_size=16, epochs=2, clip_value=None, clip_norm=1.0)
TRAIN, HELD = dataset(40), dataset(60, seed=1, prefix="held")
TEST = dataset(80, seed=2, prefix="test")


def run(folder, seed=0, model=MODEL, **changes):
    settings = {"encoders": asdict(profiles.Encoders()), "device": "cpu", "progress": False}
    return train(
        "taemi",
        TRAIN,
        HELD,
        model=model,
        training=PRESET,
        run_folder=folder / f"seed{seed}",
        seed=seed,
        **settings | changes,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [run(folder, seed) for seed in (0, 1)]


@pytest.fixture
def single(runs, tmp_path):
    """One run, in a folder of its own: what a test writes there stays there."""
    return copied(runs[0], tmp_path)


def copied(found, folder):
    return Ensemble(shutil.copytree(found.folder, folder / found.folder.name), CPU)


# --- the quantile


def test_three_of_four_calibrations_hold_what_they_promise_whatever_the_errors_look_like():
    """Errors as labels have them: many exact zeros, a heavy tail, a spread that says something."""
    rng, held = np.random.default_rng(0), []
    for _ in range(300):
        spreads = rng.gamma(1.0, 0.1, (1120, 6))
        error = rng.standard_t(3, (1120, 6)) * (spreads + 0.05)
        targets = np.where(rng.random((1120, 6)) < 0.4, 0.0, (0.3 + error)).clip(0, 1)
        values = np.where(targets == 0.0, rng.choice([0.0, 0.1], (1120, 6)), 0.3)
        made = planted(calibration.scale(targets[:120], values[:120], spreads[:120]))
        low, high = made.bounds(values[120:], spreads[120:])
        held.append(((targets[120:] >= low) & (targets[120:] <= high)).mean(axis=0))
    share = np.array(held)
    assert 0.90 < share.mean() < 0.93
    assert np.mean(share >= 0.895) > 0.7


def planted(scale):
    return calibration.Calibration([], "dropout", scale, 0.9, 120, {}, SimpleNamespace())


def test_the_rank_is_the_smallest_that_the_beta_distribution_allows():
    """Worked out apart from scipy: the k-th score of n holds the level with the probability that at
    most k - 1 of n uniform numbers lie below it."""
    for clips in (14, 20, 60, 120):
        k = calibration.rank(clips)

        def sure(k, n=clips):
            return sum(comb(n, j) * 0.9**j * 0.1 ** (n - j) for j in range(k))

        assert sure(k) >= 0.75 and (sure(k - 1) < 0.75 or k - 1 < (clips + 1) * 0.9)
    assert calibration.rank(120) == 111


def test_too_few_clips_promise_nothing_and_say_so():
    assert calibration.rank(13) is None and calibration.rank(0) is None
    made = planted(calibration.scale(*np.zeros((3, 13, 6))))
    low, high = made.bounds(np.full(6, 0.5), np.zeros(6))
    assert (low == 0).all() and (high == 1).all() and "too few" in str(made)


def test_a_larger_spread_makes_a_wider_interval_and_none_leaves_zero_to_one():
    made = planted(dict.fromkeys(EMOTIONS, 2.0))
    low, high = made.bounds(np.full((2, 6), 0.5), np.array([[0.0] * 6, [0.1] * 6]))
    assert np.allclose(high[0] - low[0], 4 * FLOOR) and np.allclose(high[1] - low[1], 8 * FLOOR)
    low, high = made.bounds(np.array([0.0, 1.0] * 3), np.full(6, 9.0))
    assert (low == 0).all() and (high == 1).all()


# --- of runs


@pytest.mark.parametrize("count", [1, 2])
def test_the_intervals_of_runs_hold_their_own_selection_clips_and_test_clips_of_the_same_kind(
    runs, count
):
    ensemble = Ensemble(runs[:count], CPU)
    made = calibrate(ensemble, TRAIN, HELD, TEST)
    assert made.spread == ("dropout", "seeds")[count - 1]
    own = coverage(made, ensemble, HELD)
    held = {round(share * len(HELD)) for share in own.per_emotion.values()}
    rank = calibration.rank(len(HELD))
    assert held <= {rank - 1, rank}  # the quantile's own clip lies on the edge, give or take an ulp
    assert made.measured == coverage(made, ensemble, TEST) and made.measured.clips == len(TEST)
    assert 0.8 < made.measured.overall < 1
    assert f"{made.measured.overall:.1%}" in str(made) and "80 test clips" in str(made)
    assert made.lacking == {
        name: sum(name in HELD[i][0].absent for i in range(len(HELD)))
        for name in ("audio", "vision", "text")
    }


def test_dropout_draws_are_the_same_every_time_whatever_was_drawn_before_and_leave_no_trace(single):
    batch = HELD.batch([3])
    before = single.answers(batch)
    state = torch.random.get_rng_state()
    first = single.drawn(batch, 16)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(7)
    assert np.array_equal(first, single.drawn(batch, 16))
    assert (first.std(axis=0) > 0).all() and len(np.unique(first[:, 0])) > 8
    assert np.array_equal(before, single.answers(batch))
    assert not any(module.training for module in single.models[0].modules())


@pytest.mark.parametrize(
    "part",
    [
        torch.nn.Dropout(0.5),
        torch.nn.TransformerEncoderLayer(8, 2, 8, 0.5, batch_first=True),
        torch.nn.MultiheadAttention(8, 2, 0.5, batch_first=True),
        torch.nn.LSTM(8, 8, num_layers=2, dropout=0.5),
    ],
    ids=lambda part: type(part).__name__,
)
def test_each_part_of_torch_that_drops_does_so_in_a_model_in_evaluation_mode(part):
    model = torch.nn.Sequential(part).eval()
    values = torch.ones(3, 4, 8)
    arguments = [values] * (3 if isinstance(part, torch.nn.MultiheadAttention) else 1)

    def answer():
        found = part(*arguments)
        return found[0] if isinstance(found, tuple) else found

    with torch.inference_mode():
        assert torch.equal(answer(), answer())
        with _dropping(model):
            assert not torch.equal(answer(), answer())
        assert torch.equal(answer(), answer())


@pytest.mark.parametrize("system", ["misa", "hallmen2024", "mult", "tfn", "taemi"])
def test_every_kind_of_dropout_is_drawn_and_modality_dropout_is_not(system, single):
    """misa has torch's transformer layer, whose fast path forgets dropout; hallmen2024 an LSTM."""
    torch.manual_seed(0)
    single.models = [models.create(system, **SIZES | {"modality_dropout": 0.9}).eval()]
    drawn = single.drawn(HELD.batch([0]), 12)
    assert (drawn.std(axis=0) > 0).all()
    single.models = [
        models.create(
            system, **SIZES | {"modality_dropout": 0.9, "dropout": 0.0, "input_dropout": 0.0}
        ).eval()
    ]
    assert np.allclose(single.drawn(HELD.batch([0]), 12).std(axis=0), 0, atol=1e-6)


def test_other_clips_or_labels_than_the_runs_own_are_refused(single):
    other = dataset(60, seed=5, prefix="held")
    with pytest.raises(RunError, match="trained on other data.*selection.labels"):
        calibrate(single, TRAIN, other)


def test_coverage_without_labels_names_the_clip(single):
    made = calibrate(single, TRAIN, HELD)
    unlabelled = dataset(4, prefix="new")
    unlabelled.targets = np.full((4, 6), np.nan)
    with pytest.raises(ValueError, match="clip 'new000' has no labels"):
        coverage(made, single, unlabelled)
    assert "was not measured" in str(made)


def test_runs_that_read_clips_differently_cannot_answer_together(runs, tmp_path):
    other = copied(runs[1], tmp_path)
    path = other.checkpoints[0].run / "config.json"
    config = json.loads(path.read_text())
    config["training"]["audio_average"] = 7
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"cannot answer together: audio_average is 1 .* 7"):
        Ensemble([runs[0], path.parent], CPU)
    with pytest.raises(CheckpointError, match="no run was named"):
        Ensemble([], CPU)


# --- kept beside the run


def test_what_is_kept_is_what_was_made_and_is_valid_json_and_safetensors_only(single):
    made = calibrate(single, TRAIN, HELD, TEST)
    path = calibration.keep(made, single)
    found = calibration.kept(single)
    assert replace(found, world=made.world) == made
    assert found.world.threshold == made.world.threshold
    clip = TEST[0][0]
    assert found.world.place(clip) == made.world.place(clip)
    json.loads(path.read_text(), parse_constant=pytest.fail)
    assert {file.suffix for file in path.parent.glob("calibration*")} == {".json", ".safetensors"}
    before = path.read_bytes(), path.with_suffix(".safetensors").read_bytes()
    calibration.keep(calibrate(single, TRAIN, HELD, TEST), single)
    assert before == (path.read_bytes(), path.with_suffix(".safetensors").read_bytes())


def test_a_run_its_ensemble_and_its_last_epoch_keep_theirs_apart(runs, tmp_path):
    one, two = copied(runs[0], tmp_path), copied(runs[1], tmp_path)
    both = Ensemble([one.checkpoints[0].run, two.checkpoints[0].run], CPU)
    last = Ensemble(one.checkpoints[0].run / "last", CPU)
    assert len({calibration.place(ensemble) for ensemble in (one, both, last)}) == 3
    for ensemble in (one, both, last):
        calibration.keep(calibrate(ensemble, TRAIN, HELD), ensemble)
    assert calibration.kept(one).spread == "dropout" and calibration.kept(both).spread == "seeds"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def pickled(path):
    path.write_bytes(pickle.dumps({"audio.mean": np.zeros(5)}))


def edited(**changes):
    def edit(path):
        about = json.loads(path.read_text())
        path.write_text(json.dumps(about | changes))

    return edit


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("calibration.json", truncate, "is damaged"),
        ("calibration.json", lambda path: path.write_text("[]"), "is damaged"),
        ("calibration.json", edited(scale={"Joy": 1.0}), "is damaged"),
        ("calibration.json", edited(measured={"overall": "all"}), "is damaged"),
        ("calibration.json", edited(more="x" * 200_000), "is damaged (it has 20"),
        ("calibration.json", edited(version=0), "an earlier version"),
        ("calibration.json", edited(clouds=["audio", "smell"]), "is damaged"),
        ("calibration.safetensors", truncate, "is not the file it was made with"),
        ("calibration.safetensors", pickled, "is not the file it was made with"),
        ("calibration.safetensors", lambda path: path.unlink(), "is damaged"),
        ("calibration.safetensors", lambda path: path.write_bytes(bytes(200_000)), "is larger"),
    ],
)
def test_a_kept_file_that_is_damaged_says_so_and_is_not_used(single, name, harm, said):
    path = calibration.keep(calibrate(single, TRAIN, HELD), single)
    harm(path.with_name(name))
    found, why = calibrated(single)
    assert found is None and said in why


def test_a_calibration_of_other_weights_or_settings_is_not_used(runs, single):
    path = calibration.keep(calibrate(single, TRAIN, HELD), single)
    folder = path.parent
    best = (folder / "best" / "model.safetensors").read_bytes()
    other = (runs[1].folder / "best" / "model.safetensors").read_bytes()
    (folder / "best" / "model.safetensors").write_bytes(other)
    found, why = calibrated(Ensemble(folder, CPU))
    assert found is None and "other weights" in why
    (folder / "best" / "model.safetensors").write_bytes(best)
    assert calibrated(Ensemble(folder, CPU))[0] is not None
    config = json.loads((folder / "config.json").read_text())
    config["versions"]["torch"] = "another"  # this alone changes no number that was learnt
    (folder / "config.json").write_text(json.dumps(config))
    assert calibrated(Ensemble(folder, CPU))[0] is not None
    config["training"]["epochs"] = 77
    (folder / "config.json").write_text(json.dumps(config))
    assert calibrated(Ensemble(folder, CPU))[0] is None


def test_it_is_made_where_the_datasets_are_there_and_found_again(single):
    asked = []

    def stored():
        asked.append(1)
        return {"train": TRAIN, "selection": HELD, "test": TEST}

    made, why = calibrated(single, SimpleNamespace(stored=stored))
    assert why == "" and made.measured.clips == len(TEST)
    found, why = calibrated(single, SimpleNamespace(stored=stored))
    assert replace(found, world=made.world) == made and len(asked) == 1


def test_where_it_cannot_be_made_the_reason_is_told(single):
    def nothing():
        raise FileNotFoundError("no clips in data/")

    assert "not calibrated (calibration.json is not in" in calibrated(single)[1]
    assert "no clips in data/" in calibrated(single, SimpleNamespace(stored=nothing))[1]
    parts = {"train": TRAIN}
    assert "'selection'" in calibrated(single, SimpleNamespace(stored=lambda: parts))[1]
    parts = {"train": TRAIN, "selection": dataset(60, seed=5, prefix="held")}
    assert "other data" in calibrated(single, SimpleNamespace(stored=lambda: parts))[1]


def test_a_folder_that_cannot_be_written_to_is_calibrated_all_the_same(single, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calibration.files, "write_bytes", full)
    parts = {"train": TRAIN, "selection": HELD}
    made, why = calibrated(single, SimpleNamespace(stored=lambda: parts))
    assert made is not None and why == "" and not calibration.place(single).exists()


def test_what_a_workspace_has_stored_is_read_and_nothing_is_made_for_it(tmp_path):
    clips = [TRAIN[index][0] for index in range(6)]
    rows = pd.DataFrame(TRAIN.targets[:6].clip(0, 1), columns=list(EMOTIONS))
    names = [clip.clip_id for clip in clips]
    rows.insert(0, "clip_id", names)
    rows.insert(1, "split", ["train"] * 3 + ["selection"] * 2 + ["test"])
    rows.insert(2, "video", [f"{name}.mp4" for name in names])
    for name in names:
        (tmp_path / f"{name}.mp4").write_bytes(b"no film")
    rows.to_csv(tmp_path / "clips.csv", index=False)
    profile = profiles.PROFILES["own"].changed({"data.table": str(tmp_path / "clips.csv")})
    here = Workspace(profile, tmp_path, tmp_path / "runs", "cpu", False)
    with pytest.raises(StoreError, match="no feature store"):
        here.stored()
    store = Store(here.features_folder, {"audio": "toy"})
    for clip in clips[:-1]:
        store.write(clip)
    with pytest.raises(ValueError, match=f"1 of 1 clips have no features.*{names[-1]}"):
        here.stored()
    store.write(clips[-1])
    before = sorted(tmp_path.rglob("*"))
    parts = here.stored()
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 3,
        "selection": 2,
        "test": 1,
    }
    assert parts["test"].audio_average == profile.training.audio_average
    assert before == sorted(tmp_path.rglob("*"))


def test_a_target_with_too_few_labels_is_named():
    few = calibration.Calibration(
        runs=[{}],
        spread="dropout",
        scale={"Valence": 1.0, "Arousal": None},
        level=0.9,
        clips=14,
        lacking={},
        world=calibration.World({}, 1.0),
    )
    assert "too few for Arousal: there they are the whole range" in str(few)
    low, high = few.bounds(np.array([0.5, 0.5]), np.array([0.0, 0.0]))
    np.testing.assert_allclose(low, [0.4, 0.0])
    np.testing.assert_allclose(high, [0.6, 1.0])


def test_intervals_of_another_task_are_in_its_units_and_hold_as_much(tmp_path):
    """Labels of -3 to 3 instead of 0 to 1: the same intervals, six times as wide."""
    held, bounds = [], []
    for number, task in enumerate((profiles.Task(), profiles.Task(low=-3.0, high=3.0))):
        parts = [
            ClipDataset.from_clips(
                [part._features(name) for name in part.clip_ids], task.unscaled(part.targets), task
            )
            for part in (dataset(60), dataset(60, 1), dataset(40, 2))
        ]
        run = train(
            "taemi",
            *parts[:2],
            model=Model(width=8, heads=2, mlp_width=8),
            training=Training(epochs=3, learning_rate=1e-2),
            run_folder=tmp_path / str(number),
            encoders={"audio": "micro:audio"},
            progress=False,
        )
        ensemble = Ensemble(run, torch.device("cpu"))
        made = calibrate(ensemble, *parts)
        held.append(made.measured.overall)
        bounds.append(list(made.scale.values()))
    assert held[0] == pytest.approx(held[1], abs=0.02) and held[0] > 0.7
    np.testing.assert_allclose(bounds[0], bounds[1], rtol=0.02)

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import DIMS, MemoryStore, dataset

from taemi_lib import figures, models, training
from taemi_lib.errors import ChoiceError, RunError
from taemi_lib.evaluation import metrics
from taemi_lib.evaluation.scoring import evaluate, predict_dataset
from taemi_lib.profiles import Model, Training
from taemi_lib.runs import load_run
from taemi_lib.support import files
from taemi_lib.training import Schedule, train

MODEL = Model(width=8, heads=2, mlp_width=8, dropout=0.1, input_dropout=0.1)
PRESET = Training(
    learning_rate=1e-2, batch_size=8, epochs=4, patience=9, clip_value=None, clip_norm=1.0
)
# the only numbers that may differ between two runs
CHANGING = {"seconds", "cpu_seconds", "peak_memory_mb"}


def run(folder, system="taemi", preset=PRESET, **changes):
    arguments = {
        "model": MODEL,
        "training": preset,
        "run_folder": folder,
        "progress": False,
        "device": "cpu",
    } | changes
    return train(system, dataset(24), dataset(10, seed=1, prefix="held"), **arguments)


def numbers(run):
    """Everything a run says, but for how long it took."""
    history = [
        {key: value for key, value in entry.items() if key not in CHANGING} for entry in run.history
    ]
    return history, {key: value for key, value in run.metrics.items() if key not in CHANGING}


def weights(run, which="best"):
    return (run.folder / which / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "finished")


def test_training_learns(tmp_path):
    """The labels are a function of the text vector; 200 clips are enough to find it."""
    preset = replace(PRESET, epochs=20, batch_size=16)
    made = train(
        "text_only",
        dataset(200),
        dataset(50, seed=1),
        model=replace(MODEL, mlp_width=32, input_dropout=0.0),
        training=preset,
        run_folder=tmp_path,
        progress=False,
        device="cpu",
    )
    assert made.history[-1]["loss"] < 0.5 * made.history[0]["loss"]
    assert made.metrics["selection"]["mean_rho"] > 0.8


def test_a_run_folder_holds_what_the_design_says(finished):
    assert {path.name for path in finished.folder.iterdir()} == {
        ".lock",
        "config.json",
        "history.json",
        "metrics.json",
        "predictions.parquet",
        "best",
        "last",
    }
    assert {path.name for path in (finished.folder / "last").iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
        "optimizer.pt",
        "state.json",
    }
    assert finished.finished and len(finished.history) == 4
    assert (
        finished.config["sizes"]["audio_dim"] == DIMS["audio"]
        and "torch" in finished.config["versions"]
    )
    assert finished.metrics["best_epoch"] == finished.best_epoch
    assert set(finished.history[0]["dropped"]) == {"audio", "vision", "text"}
    table = finished.predictions()
    assert (
        list(table.columns) == ["clip_id", "emotion", "target", "prediction"] and len(table) == 60
    )
    torch.load(finished.folder / "last" / "optimizer.pt", weights_only=True)


def test_the_best_checkpoint_gives_the_reported_score(finished):
    rhos = [entry["selection_rho"] for entry in finished.history]
    assert finished.metrics["selection"]["mean_rho"] == max(rhos)
    again = evaluate(finished, dataset(10, seed=1, prefix="held"), device="cpu", resamples=20)
    assert again.mean_rho == max(rhos)
    table = finished.predictions()
    rho = metrics.mean_pearson(
        table["prediction"].to_numpy().reshape(-1, 6), table["target"].to_numpy().reshape(-1, 6)
    )
    assert rho == pytest.approx(max(rhos), abs=1e-6)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished, tmp_path):
    torch.manual_seed(99)  # what was drawn before does not matter
    again = run(tmp_path / "again")
    assert numbers(again) == numbers(finished) and weights(again) == weights(finished)
    assert weights(run(tmp_path / "other", seed=1)) != weights(finished)


@pytest.mark.parametrize("system", ["taemi", "yu2025"])
def test_trying_out_goes_as_training_does_and_leaves_nothing(system, tmp_path, monkeypatch):
    """yu2025 has two stages: the second starts from the best epoch of the first."""
    trained, seen = run(tmp_path / "run", system), []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    history = training.try_out(
        system,
        dataset(24),
        dataset(10, seed=1, prefix="held"),
        model=MODEL,
        training=PRESET,
        device="cpu",
        after_epoch=lambda entries: seen.append(len(entries)),
    )
    changing = {name: 0.0 for name in ("seconds", "cpu_seconds")}
    assert [entry | changing for entry in history] == [
        entry | changing for entry in trained.history
    ]
    assert seen == list(range(1, len(history) + 1))
    assert not list((tmp_path / "temporary").iterdir())


def test_training_leaves_the_callers_random_numbers_and_threads_alone(tmp_path):
    before = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path, preset=replace(PRESET, epochs=1))
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == before


def test_a_finished_run_is_returned_not_repeated(finished, monkeypatch):
    monkeypatch.setattr(training, "_train", None)
    monkeypatch.setattr(files, "locked", None)  # nothing is written: it may lie where nobody can
    assert numbers(run(finished.folder)) == numbers(finished)


def test_two_processes_that_train_one_run_make_it_once(finished, tmp_path):
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import test_training as t; "
        "note = lambda history: print(os.getpid(), file=open(sys.argv[3], 'a')); "
        "print('ready', flush=True); input(); t.run(sys.argv[2], after_epoch=note)"
    )
    folder, epochs = tmp_path / "run", tmp_path / "epochs"
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(folder), str(epochs)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in "ab"]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    trained = epochs.read_text().split()
    assert len(trained) == PRESET.epochs and len(set(trained)) == 1
    assert numbers(load_run(folder)) == numbers(finished)


def test_a_folder_of_another_configuration_is_refused_naming_the_difference(finished):
    with pytest.raises(ValueError, match="training.learning_rate is 0.01 there, 0.5 now"):
        run(finished.folder, preset=replace(PRESET, learning_rate=0.5))
    with pytest.raises(ValueError, match="system is 'taemi' there, 'text_only' now"):
        run(finished.folder, "text_only")
    other = dataset(10, seed=1, prefix="held")
    other.targets[0, 0] = 0.123
    with pytest.raises(ValueError, match="encoders.audio"):
        run(finished.folder, encoders={"audio": "another"})
    with pytest.raises(ValueError, match="data.selection.labels"):
        train(
            "taemi",
            dataset(24),
            other,
            model=MODEL,
            training=PRESET,
            run_folder=finished.folder,
            device="cpu",
        )


def test_clips_that_were_encoded_again_refuse_the_run_and_it_says_what_to_do(finished, monkeypatch):
    monkeypatch.setattr(MemoryStore, "fingerprint", lambda self, clip_ids: "encoded again")
    expected = "data.train.features is .* there, 'encoded again' now.*delete this one"
    with pytest.raises(RunError, match=expected):
        run(finished.folder)


def test_a_store_without_fingerprints_is_not_trained_on_in_silence(tmp_path, monkeypatch):
    monkeypatch.delattr(MemoryStore, "fingerprint")
    with pytest.raises(AttributeError, match="fingerprint"):
        run(tmp_path)


@pytest.mark.parametrize("given", ["a run", "its folder", "its folder as text", "its checkpoint"])
def test_a_run_is_evaluated_as_itself_or_by_its_folder(finished, given):
    folder = finished.folder
    system = {"a run": finished, "its folder": folder, "its folder as text": str(folder)}.get(
        given, folder / "best"
    )
    held = dataset(10, seed=1, prefix="held")
    scores = evaluate(system, held, device="cpu", resamples=0)
    assert scores.mean_rho == finished.metrics["selection"]["mean_rho"]


def test_a_folder_without_a_run_cannot_be_evaluated(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        evaluate(tmp_path, dataset(10, seed=1), device="cpu")


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def die():
    raise Killed


@pytest.mark.parametrize(
    "moment",
    [
        "batch 2 of epoch 1",
        "batch 2 of epoch 3",
        "best moved aside",
        "last moved aside",
        "before last",
        "before metrics",
    ],
)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_numbers(
    finished, tmp_path, monkeypatch, moment
):
    with monkeypatch.context() as patch:
        _kill_at(moment, patch)
        with pytest.raises(Killed):
            run(tmp_path)
    assert not load_run(tmp_path).finished
    resumed = run(tmp_path)
    assert numbers(resumed) == numbers(finished)
    assert weights(resumed) == weights(finished) and weights(resumed, "last") == weights(
        finished, "last"
    )
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("*.old"))


def _kill_at(moment, patch):
    """Die at this moment of a training of 3 batches an epoch."""
    calls = {"batches": 0, "lasts": 0}
    loss, rename, save, write = training.System.loss, os.rename, torch.save, files.write_json
    if moment.startswith("batch"):
        dies_at = 2 if moment.endswith("1") else 8

        def counted(self, output, batch):
            calls["batches"] += 1
            if calls["batches"] == dies_at:
                die()
            return loss(self, output, batch)

        patch.setattr(training.System, "loss", counted)
    elif moment.endswith("aside"):
        name = moment.split()[0]

        def half_way(source, target):
            rename(source, target)
            if Path(target).name == f"{name}.old":
                die()

        patch.setattr(os, "rename", half_way)
    elif moment == "between the stages":
        stage = training._train_stage

        def first_only(work, name, *arguments):
            if name == "fit":
                die()
            stage(work, name, *arguments)

        patch.setattr(training, "_train_stage", first_only)
    elif moment == "before last":

        def third(*arguments):
            calls["lasts"] += 1
            if calls["lasts"] == 3:
                die()
            save(*arguments)

        patch.setattr(torch, "save", third)
    else:

        def never_metrics(path, content):
            if Path(path).name == "metrics.json":
                die()
            write(path, content)

        patch.setattr(files, "write_json", never_metrics)


def two_stages(folder, **changes):
    return run(folder, "yu2025", **changes)


@pytest.fixture(scope="module")
def finished_in_two_stages(tmp_path_factory):
    return two_stages(tmp_path_factory.mktemp("runs") / "two stages")


def test_each_stage_has_its_own_schedule_and_only_the_last_is_selected_by_rho(
    finished_in_two_stages,
):
    made = finished_in_two_stages
    first, last = (
        [entry for entry in made.history if entry["stage"] == stage] for stage in ("align", "fit")
    )
    assert made.history == first + last and [entry["epoch"] for entry in made.history] == list(
        range(1, 9)
    )
    assert [entry["learning_rate"] for entry in first] == [entry["learning_rate"] for entry in last]
    assert not any("selection_rho" in entry for entry in first) and not any(
        "selection_loss" in entry for entry in last
    )
    assert made.metrics["best_epoch"] == made.best_epoch > 4 and made.metrics["epochs"] == 8
    assert made.metrics["selection"]["mean_rho"] == max(entry["selection_rho"] for entry in last)
    align = min(first, key=lambda entry: entry["selection_loss"])["epoch"]
    assert f"epoch {align}, align loss" in (made.folder / "best_align" / "README.md").read_text()
    assert figures.training_curves({"yu2025": made.history}).axes


def test_a_stage_starts_from_the_best_epoch_of_the_one_before(
    tmp_path, finished_in_two_stages, monkeypatch
):
    one_epoch, started = training._one_epoch, {}

    def noted(accelerator, network, *rest):
        plain = accelerator.unwrap_model(network)
        started.setdefault(
            plain.stage, {key: value.clone() for key, value in plain.state_dict().items()}
        )
        return one_epoch(accelerator, network, *rest)

    monkeypatch.setattr(training, "_one_epoch", noted)
    again = two_stages(tmp_path)
    assert numbers(again) == numbers(finished_in_two_stages)
    best = models.load(tmp_path / "best_align").state_dict()
    assert all(torch.equal(value, started["fit"][key]) for key, value in best.items())
    assert any(not torch.equal(value, started["align"][key]) for key, value in best.items())


def test_an_earlier_stage_stops_by_its_own_loss(tmp_path, monkeypatch):
    losses = iter([0.5, 0.3, 0.4, 0.35, 0.1])
    monkeypatch.setattr(
        training, "_selection_loss", lambda network, selection: {"selection_loss": next(losses)}
    )
    made = two_stages(tmp_path, preset=replace(PRESET, epochs=5, patience=2))
    assert [entry["selection_loss"] for entry in made.history if entry["stage"] == "align"] == [
        0.5,
        0.3,
        0.4,
        0.35,
    ]
    assert "epoch 2" in (tmp_path / "best_align" / "README.md").read_text()


@pytest.mark.parametrize(
    "moment",
    [
        "best_align moved aside",
        "last moved aside",
        "before last",
        "between the stages",
        "batch 2 of epoch 1",
        "batch 2 of epoch 3",
        "best moved aside",
        "before metrics",
    ],
)
def test_a_run_of_two_stages_killed_at_any_moment_goes_on_to_the_same_numbers(
    finished_in_two_stages, tmp_path, monkeypatch, moment
):
    """Batches are counted in the last stage; the moves come in the first."""
    with monkeypatch.context() as patch:
        _kill_at(moment, patch)
        with pytest.raises(Killed):
            two_stages(tmp_path)
    resumed = two_stages(tmp_path)
    assert numbers(resumed) == numbers(finished_in_two_stages)
    for which in ("best_align", "best", "last"):
        assert weights(resumed, which) == weights(finished_in_two_stages, which)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("*.old"))


def test_a_calibrated_system_brings_its_settings_and_resumes_exactly(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", "savchenko2025")
    assert (
        whole.config["training"]["batch_size"] == 128
        and whole.config["training"]["weight_decay"] == 0.0
    )
    kept = whole.model()
    assert torch.allclose(kept.weights.sum(dim=0), torch.ones(6)) and not torch.equal(
        kept.weights, torch.full((3, 6), 1 / 3)
    )
    again = evaluate(whole, dataset(10, seed=1, prefix="held"), device="cpu", resamples=0)
    assert (
        again.mean_rho
        == whole.metrics["selection"]["mean_rho"]
        == max(entry["selection_rho"] for entry in whole.history)
    )
    with monkeypatch.context() as patch:
        _kill_at("before last", patch)
        with pytest.raises(Killed):
            run(tmp_path / "killed", "savchenko2025")
    resumed = run(tmp_path / "killed", "savchenko2025")
    assert (
        numbers(resumed) == numbers(whole)
        and weights(resumed) == weights(whole)
        and weights(resumed, "last") == weights(whole, "last")
    )


def test_calibration_is_before_every_score_and_sees_the_whole_selection_split_without_gradients(
    tmp_path, monkeypatch
):
    seen = []

    def noted(self, batches):
        assert not self.training and not torch.is_grad_enabled()
        seen.append([clip for batch in batches for clip in batch.clip_id])

    monkeypatch.setattr(training.System, "calibrate", noted)
    made = run(tmp_path, "text_only")
    assert seen == [dataset(10, seed=1, prefix="held").clip_ids] * len(made.history)


def killed_in_another_process(folder, system, moment):
    """Train in a process that kills itself with SIGKILL at this moment, wherever it then is: no
    exception, no `finally`, no buffer is flushed."""
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import test_training as t; "
        "t.die = lambda: os.kill(os.getpid(), signal.SIGKILL); "
        "t._kill_at(sys.argv[4], t.pytest.MonkeyPatch()); t.run(sys.argv[2], sys.argv[3])"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", script, str(here), str(folder), system, moment]
    assert subprocess.run(command).returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    "system, moment", [("taemi", "batch 2 of epoch 3"), ("yu2025", "last moved aside")]
)
def test_kill_minus_nine_in_another_process_changes_nothing(
    tmp_path, system, moment, finished, finished_in_two_stages
):
    whole = finished if system == "taemi" else finished_in_two_stages
    killed_in_another_process(tmp_path, system, moment)
    assert not load_run(tmp_path).finished
    resumed = run(tmp_path, system)
    assert numbers(resumed) == numbers(whole) and weights(resumed) == weights(whole)


def test_early_stopping_waits_for_patience_and_keeps_the_best_epoch(tmp_path, monkeypatch):
    rhos = iter([0.1, 0.3, 0.2, 0.25, 0.3, 0.9])
    real = training.score

    def planned(predictions, resamples):
        result = real(predictions, resamples)
        result.mean_rho = next(rhos, 0.3)
        return result

    monkeypatch.setattr(training, "score", planned)
    made = run(tmp_path, preset=replace(PRESET, epochs=9, patience=3))
    assert [entry["selection_rho"] for entry in made.history] == [0.1, 0.3, 0.2, 0.25, 0.3]
    assert made.best_epoch == 2 and "epoch 2" in (tmp_path / "best" / "README.md").read_text()


def test_the_learning_rate_warms_up_over_one_epoch_then_follows_a_cosine_per_step():
    schedule = Schedule(Training(learning_rate=1.0, epochs=3, warmup_epochs=1), updates_per_epoch=4)
    rates = [schedule(update) for update in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[8] == pytest.approx(0.5)
    assert all(a > b for a, b in zip(rates[4:], rates[5:], strict=False)) and 0 < rates[11] < 0.1
    assert Schedule(Training(learning_rate=1.0, epochs=1, warmup_epochs=0), 2)(0) == 1.0


def test_accumulation_steps_once_for_several_batches_and_once_for_what_is_left(
    tmp_path, monkeypatch
):
    steps = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a, **k: (steps.append(1), real(self, *a, **k))[1]
    )
    made = run(tmp_path, preset=replace(PRESET, batch_size=4, accumulation=4, epochs=2))
    assert len(steps) == 2 * 2  # two epochs of 6 batches: 4, then the 2 that are left
    assert made.history[0]["learning_rate"] == PRESET.learning_rate


def test_selection_uses_every_clip_in_float32_and_training_mode_comes_back(finished):
    model, clips = finished.model(), dataset(10, seed=1, prefix="held")
    model.train()
    one_by_one, together = (predict_dataset(model, clips, batch_size=size) for size in (1, 7))
    assert model.training and one_by_one.clip_ids == clips.clip_ids
    assert np.allclose(one_by_one.prediction, together.prediction, atol=1e-5)
    assert not together.absent.any()


def test_a_clip_without_any_modality_is_predicted_from_the_tokens_and_flagged(finished):
    clips = dataset(10, seed=1)
    reasons = dict.fromkeys(("audio", "vision", "text"), "empty file")
    nothing = replace(
        clips[3][0], audio=None, vision=None, tokens=None, pooled=None, absent=reasons
    )
    clips.store.clips[nothing.clip_id] = nothing
    clips._kept.clear()
    result = predict_dataset(finished.model(), clips)
    assert (
        result.absent.tolist() == [index == 3 for index in range(10)]
        and np.isfinite(result.prediction).all()
    )


def test_bad_data_is_refused_before_the_first_epoch(tmp_path):
    unlabelled, flat, average = dataset(24), dataset(10, seed=1), dataset(24, audio_average=5)
    unlabelled.targets[3] = np.nan
    flat.targets[:, 1] = 0.0
    common = {
        "model": MODEL,
        "training": PRESET,
        "run_folder": tmp_path / "run",
        "progress": False,
        "device": "cpu",
    }
    with pytest.raises(ValueError, match="1 training clips have no labels.*'clip003'"):
        train("taemi", unlabelled, dataset(10, seed=1), **common)
    with pytest.raises(ValueError, match="'Amusement'"):
        train("taemi", dataset(24), flat, **common)
    with pytest.raises(ValueError, match="averages 5 audio steps.*says 1"):
        train("taemi", average, dataset(10, seed=1), **common)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_diverging_loss_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="epoch 1.*learning_rate"):
        broken = dataset(24)
        broken[0][0].vision.values[:] = np.inf
        train(
            "taemi",
            broken,
            dataset(10, seed=1),
            model=MODEL,
            training=PRESET,
            run_folder=tmp_path,
            progress=False,
            device="cpu",
        )


def test_a_run_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_run(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "system", ["taemi", "yu2025", "savchenko2025", "mult", "misa", "hallmen2025"]
)
def test_mixed_precision_with_gradient_scaling_on_cuda(system, tmp_path):
    made = run(tmp_path, system=system, device="cuda", preset=replace(PRESET, epochs=2))
    state = torch.load(tmp_path / "last" / "optimizer.pt", weights_only=True)
    assert state["scaler"]["scale"] > 0 and made.metrics["device"] == "cuda"


# --- accelerate's environment

LAUNCHED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_USE_CPU": "false",
}


def test_variables_of_accelerate_change_nothing_and_stay(monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    found = training._accelerator(torch.device("cpu"), PRESET)
    assert found.gradient_accumulation_steps == PRESET.accumulation == 1
    assert found.mixed_precision == "no" and found.device == torch.device("cpu")
    assert {name: os.environ[name] for name in LAUNCHED} == LAUNCHED


def test_a_run_is_the_same_under_accelerates_variables(finished, tmp_path, monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    launched = run(tmp_path / "launched")
    assert numbers(launched) == numbers(finished) and launched.config == finished.config


@pytest.mark.parametrize("name", training._NOT_SUPPORTED)
def test_what_accelerate_is_told_to_use_and_is_not_supported_is_refused(name, monkeypatch):
    monkeypatch.setenv(name, "true")
    with pytest.raises(ChoiceError, match=f"{name}=true, which is not supported"):
        training._accelerator(torch.device("cpu"), PRESET)
    assert os.environ[name] == "true"

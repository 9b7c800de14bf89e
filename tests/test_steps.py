"""The whole flow on a few clips: clips -> features -> runs -> scores -> prediction. Found the
second time, equal when redone, refused when something else is asked for, unimpressed by broken
files, and by kill -9 at any moment.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from taemi_lib import EMOTIONS, evaluate, predict, steps
from taemi_lib.data import ManifestError
from taemi_lib.data.synthmimic import truth
from taemi_lib.features import StoreError
from taemi_lib.profiles import ROOT, ChoiceError, Data, profile
from taemi_lib.training import RunError

SMOKE = profile("smoke")
# few clips, of a seed with which every emotion varies in every split; many short epochs, so that a
# kill falls between two
TINY = replace(
    SMOKE,
    name="tiny",
    data=Data(clips=28, seed=8),
    training=replace(SMOKE.training, batch_size=4, epochs=30, patience=99),
)
SYSTEMS = ("taemi", "constant_query")
TIMES = ("seconds", "cpu_seconds", "peak_memory_mb")  # what no two runs have in common


def roots(folder):
    return {"data_root": folder / "data", "runs_root": folder / "runs"}


def run(folder, settings=TINY, systems=SYSTEMS):
    return steps.runs(settings, systems, **roots(folder), device="cpu", progress=False)


def parts(folder, settings=TINY):
    return steps.datasets(settings, **roots(folder), device="cpu", progress=False)


def results(folder):
    """Everything that must not depend on how it came about."""
    runs = folder / "runs" / TINY.name
    found = {str(path.relative_to(runs)): path.read_bytes() for path in runs.rglob("*.safetensors")}
    for path in runs.rglob("metrics.json"):
        found[str(path.relative_to(runs))] = {
            k: v for k, v in json.loads(path.read_text()).items() if k not in TIMES
        }
    return found | {"truth": (folder / "data" / TINY.name / "truth.parquet").read_bytes()}


def stamps(folder):
    """When each file was written; the files that say who works on a folder do not count."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which everything was made in one go."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


@pytest.mark.slow
def test_the_second_time_everything_is_found(whole):
    before = stamps(whole)
    first = run(whole)
    _, report = steps.features(TINY, **roots(whole), device="cpu", progress=False)
    assert (report.done, report.found) == (0, 28)
    assert set(first) == {(system, 0) for system in SYSTEMS} and all(
        one.finished for one in first.values()
    )
    assert stamps(whole) == before


@pytest.mark.slow
def test_redone_after_deleting_it_all_the_results_are_the_same_to_the_last_digit(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    expected = evaluate(run(tmp_path / "copy")["taemi", 0], parts(whole)["test"]).as_dict()
    for name in ("data", "runs"):
        shutil.rmtree(tmp_path / "copy" / name)
    again = run(tmp_path / "copy")["taemi", 0]
    assert results(tmp_path / "copy") == results(whole)
    assert evaluate(again, parts(tmp_path / "copy")["test"]).as_dict() == expected


@pytest.mark.slow
def test_one_clip_alone_is_predicted_as_in_its_split(whole):
    trained, test = run(whole)["taemi", 0], parts(whole)["test"]
    scored = evaluate(trained, test).predictions
    for row in (0, 5):
        clip = whole / "data" / TINY.name / "raw" / f"{scored.clip_ids[row]}.mp4"
        alone = predict(clip, trained.folder, device="cpu")
        together = scored.prediction[row].clip(
            0, 1
        )  # from features that were stored in half precision
        np.testing.assert_allclose(
            [alone.values[emotion] for emotion in EMOTIONS], together, atol=2e-3
        )
        assert alone.transcript == test[row][0].transcript


@pytest.mark.slow
def test_another_configuration_is_refused_with_its_difference_before_anything_is_trained(whole):
    before = stamps(whole)
    for changed, error, message in [
        (
            {"training": replace(TINY.training, learning_rate=1e-3)},
            RunError,
            r"training\.learning_rate is 0\.002 there, 0\.001 now",
        ),
        ({"model": replace(TINY.model, width=32)}, RunError, r"sizes\.width is 64 there, 32 now"),
        (
            {"encoders": replace(TINY.encoders, frame_choice="uniform")},
            StoreError,
            r"first 400 frames, asked for .*uniform 400 frames",
        ),
        ({"data": replace(TINY.data, seed=9)}, ManifestError, r"seed is 8, asked for 9"),
        (
            {"data": replace(TINY.data, regime="sideways")},
            ChoiceError,
            r"'sideways'; the regimes are: cue, fixed",
        ),
    ]:
        with pytest.raises(error, match=message):
            run(whole, replace(TINY, **changed), systems=(*SYSTEMS, "text_only"))
    with pytest.raises(ChoiceError, match="'tame'.*constant_query"):
        run(whole, systems=("tame",))
    with pytest.raises(ChoiceError, match="'tpu'.*cuda"):
        steps.runs(TINY, SYSTEMS, **roots(whole), device="tpu", progress=False)
    assert stamps(whole) == before


@pytest.mark.slow
def test_broken_files_in_every_split_are_reported_flagged_and_never_stop_the_course(
    whole, tmp_path
):
    shutil.copytree(whole / "data", tmp_path / "data")
    raw, split = tmp_path / "data" / TINY.name / "raw", truth(whole / "data" / TINY.name)["split"]
    complete = truth(whole / "data" / TINY.name)["missing"].isin([None, ""]).to_numpy()
    ids = {
        name: split.index[(split == name).to_numpy() & complete]
        for name in ("train", "selection", "test")
    }
    reasons = {}  # of clips of which nothing is left
    for clip_id in (ids["train"][0], ids["selection"][0], ids["test"][0]):
        (raw / f"{clip_id}.mp4").write_text("this was never a film\n" * 50)
        reasons[clip_id] = "not a media file"
    for clip_id in (ids["train"][1], ids["test"][1]):
        (raw / f"{clip_id}.mp4").write_bytes(b"")
        reasons[clip_id] = "empty file"
    cut = ids["train"][2]
    content = (raw / f"{cut}.mp4").read_bytes()
    (raw / f"{cut}.mp4").write_bytes(content[: len(content) * 2 // 3])

    settings = replace(TINY, training=replace(TINY.training, epochs=2))
    _, report = steps.features(settings, **roots(tmp_path), device="cpu", progress=False)
    told = report.absent.set_index(["clip_id", "modality"])["reason"]
    for clip_id, reason in reasons.items():
        assert told[clip_id, "audio"] == told[clip_id, "vision"] == reason
        assert told[clip_id, "text"] == f"no transcript: {reason}"
    assert report.damaged.set_index("clip_id")["reason"][[cut]].str.startswith("truncated").all()
    trained = run(tmp_path, settings)
    assert [len(one.history) for one in trained.values()] == [2, 2]

    test = parts(tmp_path, settings)["test"]
    found = evaluate(trained["taemi", 0], test).predictions
    flagged = found.absent
    assert {clip for clip, absent in zip(found.clip_ids, flagged) if absent} == {
        ids["test"][0],
        ids["test"][1],
    }
    assert np.isfinite(found.prediction).all()
    np.testing.assert_allclose(
        *found.prediction[flagged], atol=1e-6
    )  # both from the missing tokens alone
    alone = predict(raw / f"{ids['test'][0]}.mp4", trained["taemi", 0].folder, device="cpu")
    assert alone.all_absent and "missing tokens alone" in str(alone)
    np.testing.assert_allclose(
        list(alone.values.values()), found.prediction[flagged][0].clip(0, 1), atol=1e-5
    )


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["run", "--profile", "dmo"], ["'dmo'", "demo, smoke, paper"]),
        (["run", "--device", "tpu"], ["'tpu'", "auto, cpu, cuda"]),
        (["run", "-p", "regime", "sideways"], ["'regime'", "data_root", "seed"]),
        (["run", "-p", "system", "tame"], ["'system'", "data_root", "seed"]),
        (["run", "--from", "99"], ["'99'", "00_start_here"]),
        (["train"], ["'train'", "run", "predict"]),
    ],
)
def test_an_unknown_name_on_the_command_line_is_one_line_with_the_valid_ones(arguments, parts):
    done = command_line(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("taemi: ") and done.stderr.count("\n") == 1
    assert all(part in done.stderr for part in parts), done.stderr


@pytest.mark.slow
def test_what_a_notebook_refuses_the_command_line_says_without_a_traceback(tmp_path):
    (tmp_path / "data" / "smoke").mkdir(parents=True)
    (tmp_path / "data" / "smoke" / "generator.json").write_text(
        '{"version": 1, "clips": 5, "seed": 7, "label_noise": 0.08}'
    )
    done = command_line(
        "run",
        "--profile",
        "smoke",
        "--from",
        "02",
        "--data-root",
        tmp_path / "data",
        "--runs-root",
        tmp_path / "runs",
    )
    assert done.returncode == 1
    assert "02_feature_extraction" in done.stderr and "clips is 5, asked for 48" in done.stderr
    assert "Traceback" not in done.stderr and "File " not in done.stderr


def command_line(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "taemi_lib", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env=os.environ | {"TQDM_DISABLE": "1"},
    )


# --- kill -9, five times on the way through


COURSE = "import sys; sys.path.insert(0, sys.argv[1]); import test_steps, pathlib; test_steps.run(pathlib.Path(sys.argv[2]))"


def histories(folder):
    """{path: epochs} of every run; the pattern keeps out of the checkpoint folders, which come and
    go while runs are watched."""
    return {
        path: json.loads(path.read_text())
        for path in (folder / "runs" / TINY.name).glob("systems/*/*/seed*/history.json")
    }


def progress(folder):
    """(clips made, clips encoded, epochs trained) so far."""
    data, runs = folder / "data" / TINY.name, folder / "runs" / TINY.name
    made = (
        TINY.data.clips
        if (data / "truth.parquet").exists()
        else len(list(data.glob("rows/*.json")))
    )
    epochs = map(len, histories(folder).values())
    return made, len(list(runs.glob("features/clips/*.safetensors"))), max(epochs, default=0)


def finished(folder):
    """What may never be made again: clips and features by the time of their file, epochs by the
    seconds they took."""
    data, runs = folder / "data" / TINY.name, folder / "runs" / TINY.name
    made = (
        data.glob("raw/?????.mp4")
        if (data / "truth.parquet").exists()
        else (data / "raw" / f"{row.stem}.mp4" for row in data.glob("rows/*.json"))
    )
    found = {
        path: path.stat().st_mtime_ns
        for path in [*made, *runs.glob("features/clips/*.safetensors")]
    }
    for path, epochs in histories(folder).items():
        found |= {(path, number): epoch["seconds"] for number, epoch in enumerate(epochs)}
    return found


@pytest.mark.slow
def test_five_kills_on_the_way_lose_nothing_and_end_in_the_same_results(whole, tmp_path):
    """Each kill comes when so many clips are made, encoded, or epochs trained; every other one hits
    the parent alone, as when a notebook's kernel is restarted: its workers must go too.
    """
    draw = random.Random(5)
    moments = [
        (0, draw.randint(1, 9)),
        (0, draw.randint(12, 24)),
        (1, draw.randint(1, 9)),
        (1, draw.randint(12, 24)),
        (2, draw.randint(2, 20)),
    ]
    command = [sys.executable, "-c", COURSE, str(Path(__file__).parent), str(tmp_path)]
    options = {
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    kept = {}
    for number, (step, enough) in enumerate(moments):
        process = subprocess.Popen(command, start_new_session=True, **options)
        try:
            deadline = time.monotonic() + 120
            while progress(tmp_path)[step] < enough:
                assert process.poll() is None and time.monotonic() < deadline, (
                    process.communicate()[0]
                )
                time.sleep(0.005)
        finally:
            (os.kill if number % 2 else os.killpg)(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)  # the pipe closes when the last of its processes is gone
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
        now = finished(tmp_path)
        assert {key: now.get(key) for key in kept} == kept, "something was made a second time"
        kept = now
    done = subprocess.run(command, timeout=120, **options)
    assert done.returncode == 0, done.stdout
    assert {key: value for key, value in finished(tmp_path).items() if key in kept} == kept
    assert results(tmp_path) == results(whole)

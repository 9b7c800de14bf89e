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
from pathlib import Path

import numpy as np
import pytest

from taemi_lib import EMOTIONS, evaluate, predict
from taemi_lib.data.synthmimic import truth
from taemi_lib.errors import ChoiceError, ManifestError, RunError
from taemi_lib.profiles import PROFILES, ROOT
from taemi_lib.workspace import Workspace

# few clips, of a seed with which every emotion varies in every split; many short epochs, so that a
# kill falls between two
TINY = PROFILES["smoke"].changed(
    {
        "data.clips": 28,
        "data.seed": 8,
        "training.batch_size": 4,
        "training.epochs": 30,
        "training.patience": 99,
    }
)
SYSTEMS = ("taemi", "constant_query")
TIMES = ("seconds", "cpu_seconds", "peak_memory_mb")  # what no two runs have in common


def workspace(folder, profile=TINY, **options):
    options = {"device": "cpu", "progress": False} | options
    return Workspace(profile, folder / "data", folder / "runs", **options)


def run(folder, profile=TINY, systems=SYSTEMS):
    return workspace(folder, profile).runs(systems)


def results(folder):
    """Everything that must not depend on how it came about."""
    runs = folder / "runs"
    found = {str(path.relative_to(runs)): path.read_bytes() for path in runs.rglob("*.safetensors")}
    for path in runs.rglob("metrics.json"):
        found[str(path.relative_to(runs))] = {
            k: v for k, v in json.loads(path.read_text()).items() if k not in TIMES
        }
    return found | {"truth": (workspace(folder).clips_folder / "truth.parquet").read_bytes()}


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
    _, report = workspace(whole).features()
    assert (report.done, report.found) == (0, 28)
    assert set(first) == {(system, 0) for system in SYSTEMS} and all(
        one.finished for one in first.values()
    )
    assert stamps(whole) == before


@pytest.mark.slow
def test_redone_after_deleting_it_all_the_results_are_the_same_to_the_last_digit(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    expected = evaluate(
        run(tmp_path / "copy")["taemi", 0], workspace(whole).datasets()["test"]
    ).as_dict()
    for name in ("data", "runs"):
        shutil.rmtree(tmp_path / "copy" / name)
    again = run(tmp_path / "copy")["taemi", 0]
    assert results(tmp_path / "copy") == results(whole)
    assert evaluate(again, workspace(tmp_path / "copy").datasets()["test"]).as_dict() == expected


@pytest.mark.slow
def test_one_clip_alone_is_predicted_as_in_its_split(whole):
    trained, test = run(whole)["taemi", 0], workspace(whole).datasets()["test"]
    scored = evaluate(trained, test).predictions
    for row in (0, 5):
        clip = workspace(whole).clips_folder / "raw" / f"{scored.clip_ids[row]}.mp4"
        alone = predict(clip, trained.folder, device="cpu")
        together = scored.prediction[row].clip(
            0, 1
        )  # from features that were stored in half precision
        np.testing.assert_allclose(
            [alone.values[emotion] for emotion in EMOTIONS], together, atol=2e-3
        )
        assert alone.transcript == test[row][0].transcript


@pytest.mark.slow
def test_each_setting_makes_anew_what_depends_on_it_and_nothing_else(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    before = stamps(tmp_path / "copy")
    here = workspace(tmp_path / "copy")
    other = here.changed({"training.batch_size": 8, "training.epochs": 1})
    assert other.features_folder == here.features_folder
    (trained,) = other.runs(["taemi"]).values()
    assert trained.config["training"]["batch_size"] == 8
    assert "training.batch_size=8" in str(trained.folder)
    labels = here.changed({"data.regime": "fixed", "training.epochs": 1})
    assert (labels.clips_folder, labels.features_folder) == (
        here.clips_folder,
        here.features_folder,
    )
    (fixed,) = labels.runs(["taemi"]).values()
    assert fixed.folder.parts[-3:] == ("fixed", "taemi", "seed0")
    now = stamps(tmp_path / "copy")
    assert {path: now[path] for path in before} == before  # nothing was made again
    assert not any(
        "features" in path.parts or "data" in path.parts for path in set(now) - set(before)
    )
    run(tmp_path / "copy")  # going back finds the old runs
    assert stamps(tmp_path / "copy") == now


def test_a_folder_says_which_settings_it_belongs_to(tmp_path):
    def label(settings, name="demo"):
        return Workspace(PROFILES[name].changed(settings), tmp_path, tmp_path).label

    assert label({}) == "demo" and label({"name": "other"}) == "demo"
    assert label({"training.batch_size": 8}) == "demo+training.batch_size=8"
    assert label({"data.clips": 48, "training.epochs": 2, "seeds": [0]}) == "smoke"
    found = label({"encoders.text": "models/mini lm"})
    assert found.startswith("demo+encoders.text=mini_lm-") and "/" not in found
    assert found != label({"encoders.text": "elsewhere/mini lm"})
    everything = {
        f"training.{name}": 3 for name in ("epochs", "patience", "batch_size", "accumulation")
    }
    shortened = label({**everything, "model.width": 32, "training.audio_average": 2})
    assert len(shortened) <= 100 and "+more-" in shortened
    assert shortened != label({**everything, "model.width": 36, "training.audio_average": 2})


def test_folders_are_keyed_by_what_makes_their_contents(tmp_path):
    here = Workspace("demo", tmp_path / "data", tmp_path / "runs")
    names = ("clips_folder", "features_folder", "settings_folder", "folder")
    changes = {
        "seeds": ([7], {"folder"}),
        "data.regime": ("fixed", {"folder"}),
        "data.label_noise": (0.2, {"folder", "settings_folder"}),
        "data.train_clips": (100, {"folder", "settings_folder"}),
        "model.width": (32, {"folder", "settings_folder"}),
        "training.epochs": (3, {"folder", "settings_folder"}),
        "encoders.max_frames": (50, {"folder", "settings_folder", "features_folder"}),
        "data.clips": (30, set(names)),
        "data.seed": (3, set(names)),
        "name": ("other", set()),
    }
    for setting, (value, expected) in changes.items():
        other = here.changed({setting: value})
        assert {n for n in names if getattr(other, n) != getattr(here, n)} == expected, setting


def test_tables_and_roots_that_lie_elsewhere_never_share_a_folder(tmp_path):
    def own(path):
        path.parent.mkdir()
        path.touch()
        return Workspace(PROFILES["own"].changed({"data.table": str(path)}), runs_root=tmp_path)

    one, two = own(tmp_path / "a" / "clips.csv"), own(tmp_path / "b" / "clips.csv")
    assert one.clips_folder == tmp_path / "a"
    assert one.features_folder != two.features_folder and one.folder != two.folder
    assert one.settings_folder != two.settings_folder
    assert one.features_folder.parent.name.startswith("clips-")
    official = [Workspace("paper", tmp_path / name, tmp_path) for name in "ab"]
    assert official[0].folder != official[1].folder
    assert official[0].features_folder != official[1].features_folder


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("own", r"--set data\.table=clips\.csv"),
        ("paper", r"no folder raw/: give --data-root"),
    ],
)
def test_a_profile_without_a_place_to_read_from_says_how_to_name_one(profile, said, tmp_path):
    with pytest.raises(ChoiceError, match=said):
        Workspace(profile, tmp_path / "data", tmp_path / "runs").clips()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_configuration_is_refused_with_its_difference_before_anything_is_trained(
    whole, tmp_path
):
    shutil.copytree(whole, tmp_path / "copy")
    here = workspace(tmp_path / "copy")
    other = here.changed({"model.width": 32})
    shutil.copytree(here.run_folder("taemi", 0), other.run_folder("taemi", 0))
    before = stamps(tmp_path / "copy")
    with pytest.raises(RunError, match=r"sizes\.width is 64 there, 32 now"):
        other.runs((*SYSTEMS, "text_only"))
    for systems, device, message in [
        (["tame"], "cpu", "'tame'.*constant_query"),
        (SYSTEMS, "tpu", "'tpu'.*cuda"),
    ]:
        with pytest.raises(ChoiceError, match=message):
            workspace(tmp_path / "copy", device=device).runs(systems)
    assert stamps(tmp_path / "copy") == before


@pytest.mark.slow
def test_a_clip_that_was_replaced_is_encoded_again_and_its_runs_are_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    here = workspace(tmp_path / "copy")
    train = here.datasets()["train"].clip_ids
    raw = here.clips_folder / "raw"
    shutil.copyfile(raw / f"{train[1]}.mp4", raw / f"{train[0]}.mp4")
    _, report = here.features()
    assert list(report.changed) == [train[0]]
    with pytest.raises(RunError, match=r"features is .* there, .* now.*delete"):
        here.runs(SYSTEMS)


def test_a_split_that_no_correlation_is_defined_on_is_named_before_anything_is_encoded(tmp_path):
    rows = ["clip_id,video,split," + ",".join(EMOTIONS)]
    for number in range(12):
        (tmp_path / f"{number}.mp4").write_bytes(b"")
        split, joy = ("test", 0) if number < 3 else ("train", number / 12)
        rows.append(f"{number},{number}.mp4,{split}" + f",{number / 12}" * 5 + f",{joy}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    settings = {"data.table": str(tmp_path / "clips.csv"), "data.selection_share": 0.3}
    here = Workspace(PROFILES["own"].changed(settings), runs_root=tmp_path / "runs")
    with pytest.raises(ManifestError, match="Joy: the same in all 3 clips of the split 'test'"):
        here.require_clips("train", "selection", "test")
    assert len(here.require_clips("train", "selection")) == 12


def test_a_split_without_clips_is_named_before_anything_is_encoded(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "clips.csv").write_text("clip_id,video\na,a.mp4\n")
    profile = PROFILES["own"].changed({"data.table": str(tmp_path / "clips.csv")})
    with pytest.raises(ManifestError, match="no clips in the split 'train': it has predict"):
        Workspace(profile, runs_root=tmp_path / "runs").runs(["taemi"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_broken_files_in_every_split_are_reported_flagged_and_never_stop_the_course(
    whole, tmp_path
):
    shutil.copytree(whole / "data", tmp_path / "data")
    planted = truth(workspace(whole).clips_folder)
    raw, split = workspace(tmp_path).clips_folder / "raw", planted["split"]
    complete = planted["missing"].isin([None, ""]).to_numpy()
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

    short = TINY.changed({"training.epochs": 2})
    _, report = workspace(tmp_path, short).features()
    told = report.absent.set_index(["clip_id", "modality"])["reason"]
    for clip_id, reason in reasons.items():
        assert told[clip_id, "audio"] == told[clip_id, "vision"] == reason
        assert told[clip_id, "text"] == f"no transcript: {reason}"
    assert report.damaged.set_index("clip_id")["reason"][[cut]].str.startswith("truncated").all()
    trained = run(tmp_path, short)
    assert [len(one.history) for one in trained.values()] == [2, 2]

    test = workspace(tmp_path, short).datasets()["test"]
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


# --- kill -9, five times on the way through


COURSE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import test_workspace as t, pathlib; "
    "t.run(pathlib.Path(sys.argv[2]))"
)


def histories(folder):
    """{path: epochs} of every run; the pattern keeps out of the checkpoint folders, which come and
    go while runs are watched."""
    return {
        path: json.loads(path.read_text())
        for path in workspace(folder).settings_folder.glob("systems/*/*/seed*/history.json")
    }


def progress(folder):
    """(clips made, clips encoded, epochs trained) so far."""
    data, features = workspace(folder).clips_folder, workspace(folder).features_folder
    made = (
        TINY.data.clips
        if (data / "truth.parquet").exists()
        else len(list(data.glob("rows/*.json")))
    )
    epochs = map(len, histories(folder).values())
    return made, len(list(features.glob("clips/*.safetensors"))), max(epochs, default=0)


def finished(folder):
    """What may never be made again: clips and features by the time of their file, epochs by the
    seconds they took."""
    data, features = workspace(folder).clips_folder, workspace(folder).features_folder
    made = (
        data.glob("raw/?????.mp4")
        if (data / "truth.parquet").exists()
        else (data / "raw" / f"{row.stem}.mp4" for row in data.glob("rows/*.json"))
    )
    found = {
        path: path.stat().st_mtime_ns for path in [*made, *features.glob("clips/*.safetensors")]
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

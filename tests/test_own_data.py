"""Sixty clips that the generator made, brought like a stranger's: as a table of own clips, and in
the official layout; with encoders in local folders, through the commands and the notebooks."""

import json
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest

from taemi_lib import cli, course, data, profiles
from taemi_lib.data import synthmimic
from taemi_lib.errors import CourseError
from taemi_lib.profiles import EMOTIONS, ROOT

CLIPS = 60
# what makes sixty clips quick, and encoders that somebody has in a folder of their own
SMALL = {
    "encoders.vision_pooling": "mean",
    "encoders.max_frames": 100,
    "model.width": 16,
    "model.heads": 2,
    "model.mlp_width": 16,
    "training.epochs": 2,
    "training.batch_size": 8,
    "training.audio_average": 5,
    "data.selection_share": 0.3,  # of so few clips a tenth has emotions that never vary
    "seeds": [0],
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """(clip table, folder) of generated clips and their first labels."""
    folder = tmp_path_factory.mktemp("generated")
    settings = profiles.Data(clips=CLIPS, seed=8)
    synthmimic.generate(folder / "clips", settings, progress=False)
    return data.load(settings, folder / "clips").table, folder / "clips"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """The embedded encoders, copied to folders elsewhere: {setting: folder}"""
    folder = tmp_path_factory.mktemp("encoders")
    for role in ("audio", "vision", "speech", "text"):
        shutil.copytree(profiles.MICRO / role, folder / f"my {role}")
    return {
        f"encoders.{role}": str(folder / f"my {role}")
        for role in ("audio", "vision", "speech", "text")
    }


@pytest.fixture(scope="module")
def own_table(generated, tmp_path_factory):
    """A CSV with labels and speakers, without splits; its clips lie in a folder beside it."""
    table, folder = generated
    place = tmp_path_factory.mktemp("own")
    (place / "films").mkdir()
    rows = []
    for number, (clip_id, row) in enumerate(table.iterrows()):
        shutil.copyfile(folder / "raw" / f"{clip_id}.mp4", place / "films" / f"take {clip_id}.mp4")
        labels = {emotion: row[emotion] for emotion in EMOTIONS} if number < CLIPS - 5 else {}
        rows.append(
            {
                "clip_id": f"take {clip_id}",
                "video": f"films/take {clip_id}.mp4",
                "group": f"speaker {number // 2}",
                **labels,
            }
        )
    pd.DataFrame(rows).to_csv(place / "clips.csv", index=False)
    return place / "clips.csv"


@pytest.fixture(scope="module")
def runs_root(tmp_path_factory):
    """One for both sources: they never share a folder, and what stands in is generated once."""
    return tmp_path_factory.mktemp("runs")


def options(settings):
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


@pytest.mark.slow
def test_own_clips_from_a_table_to_predictions_without_a_line_of_python(
    own_table, encoders, runs_root, tmp_path, capsys
):
    given = ["--profile", "own", "--set", f"data.table={own_table}"]
    given += [*options(SMALL | encoders), "--runs-root", str(runs_root), "--device", "cpu"]

    assert cli.main(["extract", *given]) == 0
    said = capsys.readouterr().out
    assert f"{CLIPS} clips" in said
    assert cli.main(["extract", *given]) == 0  # found, not made again

    assert cli.main(["train", "taemi", *given]) == 0
    (run,) = runs_root.glob("*/systems/csv/taemi/seed0")
    assert "mean rho" in capsys.readouterr().out
    assert cli.main(["evaluate", str(run), *given, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert -1 <= scores["mean_rho"] <= 1 and set(scores["per_emotion"]) == set(EMOTIONS)

    film = own_table.parent / "films" / "take 00000.mp4"
    assert cli.main(["predict", str(film), "--checkpoint", str(run), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert set(alone["values"]) == set(EMOTIONS)

    submission = tmp_path / "submission.csv"
    told = ["predict", "--split", "predict", "--output", str(submission), *given]
    assert cli.main(told) == 0
    table = pd.read_csv(submission)
    assert list(table) == ["Filename", *EMOTIONS] and len(table) == 5
    assert table["Filename"].str.startswith("take ").all()
    assert np.isfinite(table[list(EMOTIONS)].to_numpy()).all()

    settings = SMALL | encoders | {"data.table": str(own_table)}
    run_notebooks("own", settings, tmp_path, "000102030405", runs_root)
    evaluation = runs_root.glob("own*/evaluation.json")
    assert json.loads(next(evaluation).read_text())["clips"] > 0


@pytest.fixture(scope="module")
def official(generated, tmp_path_factory):
    """The official layout with two files missing, clips without words, and unlabelled ids."""
    table, folder = generated
    place = tmp_path_factory.mktemp("official")
    (place / "raw").mkdir()
    parts = {"train_split.csv": table.iloc[:36], "valid_split.csv": table.iloc[36:52]}
    for name, rows in parts.items():
        labels = rows[list(EMOTIONS)].reset_index(names="Filename")
        labels.to_csv(place / name, index=False)
    for clip_id in table.index:
        shutil.copyfile(folder / "raw" / f"{clip_id}.mp4", place / "raw" / f"{clip_id}.mp4")
    for clip_id in (table.index[3], table.index[40]):
        (place / "raw" / f"{clip_id}.mp4").unlink()
    return place


@pytest.mark.slow
def test_the_official_layout_goes_through_the_notebooks(official, encoders, runs_root, tmp_path):
    settings = SMALL | encoders
    with pytest.raises(CourseError, match="data.missing_files"):
        run_notebooks("paper", settings, tmp_path, "01", runs_root, data_root=str(official))
    settings |= {"data.missing_files": "skip"}
    said = run_notebooks(
        "paper", settings, tmp_path, "00010203040507", runs_root, data_root=str(official)
    )
    assert "missing" in said["01"] or "skipped" in said["01"]
    for notebook in ("06", "07"):
        if notebook in said:
            assert "OF THE DEMO" in said[notebook]


def run_notebooks(profile, settings, folder, which, runs_root, data_root="data"):
    """{number: all text output} of these notebooks, executed as `taemi run` does."""
    said = {}
    for path in course.notebooks_in(ROOT / "notebooks"):
        number = path.stem[:2]
        if number in [which[at : at + 2] for at in range(0, len(which), 2)]:
            parameters = {
                "profile": profile,
                "settings": settings,
                "data_root": data_root,
                "runs_root": str(runs_root),
                "device": "cpu",
            }
            output = folder / "notebooks" / path.name
            course.execute(path, output, parameters)
            said[number] = "".join(
                part.get("text", "")
                for cell in nbformat.read(output, 4).cells
                for part in cell.get("outputs", [])
            )
    return said

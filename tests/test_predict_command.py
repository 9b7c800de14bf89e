"""`taemi predict PATH...`: what is found, what is written, and what is never let through."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from inputs import write_clip

from taemi_lib import cli
from taemi_lib.errors import ChoiceError, ManifestError
from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.features.store import Store
from taemi_lib.prediction import inputs, tables
from taemi_lib.prediction.answer import Distance, Outside, Prediction
from taemi_lib.prediction.inputs import find, predict_all
from taemi_lib.profiles import EMOTIONS, Encoders, Limits

HOSTILE = '=HYPERLINK("http://x";"y") <script>alert(1)</script>, \'so\' "glad"'


def prediction(clip="a.mp4", **changes):
    values = dict(zip(EMOTIONS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)))
    given = {"values": values, "transcript": "so glad"} | changes
    return Prediction(clip, **given)


# --- what is found


def test_folders_are_searched_all_through_and_what_is_no_clip_is_told(tmp_path):
    for name in ("b.mp4", "sub/a.WAV", "sub/deep/c.webm", "notes.txt", ".hidden", "z.mp4.part"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find([tmp_path])
    assert [found.names[clip.clip_id] for clip in found.clips] == ["b.mp4", "a.WAV", "c.webm"]
    assert all(clip.video.is_absolute() and clip.split == "predict" for clip in found.clips)
    assert sorted(path.name for path in found.skipped) == [".hidden", "notes.txt", "z.mp4.part"]
    named = find([tmp_path / "notes.txt"])  # who names a file means it
    assert list(named.names.values()) == ["notes.txt"]


def test_clips_of_one_name_stay_apart_and_a_clip_is_predicted_once(tmp_path):
    for name in ("one/a.mp4", "two/a.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    found = find([tmp_path / "one", tmp_path / "two/a.mp4", tmp_path / "one/a.mp4", tmp_path])
    assert len(found.clips) == 2 and list(found.names.values()) == ["a.mp4", "a.mp4"]
    assert len({clip.clip_id for clip in found.clips}) == 2


def test_a_table_brings_its_words_and_ids(tmp_path):
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "clips.csv"
    table.write_text("clip_id,video,transcript\nfirst,a.mp4,so glad\nsecond,a.mp4,\n")
    first, second = find([table]).clips
    assert (first.transcript, second.transcript) == ("so glad", "")
    assert list(find([table]).names.values()) == ["first", "second"]
    table.write_text("clip_id,video\nfirst,gone.mp4\n")
    with pytest.raises(ManifestError, match="row 2, column video"):
        find([table])


def test_what_is_not_there_or_empty_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such clip: .*gone.mp4"):
        find([tmp_path / "gone.mp4"])
    with pytest.raises(FileNotFoundError, match="no such table"):
        find([tmp_path / "gone.csv"])
    with pytest.raises(ChoiceError, match="no clips in"):
        find([tmp_path])


@pytest.mark.parametrize("name", ["=1+1.mp4", "日本語 のファイル.mp4", "..mp4", "a" * 240 + ".mp4"])
def test_every_file_name_gets_an_id_that_a_store_can_hold(tmp_path, name):
    (tmp_path / name).touch()
    (clip,) = find([tmp_path / name]).clips
    store = Store(tmp_path / "store", {})
    store.write(ClipFeatures(clip.clip_id, absent=dict.fromkeys(["audio", "vision", "text"], "-")))
    assert store.clip_ids() == [clip.clip_id]


# --- many clips, each encoded once


class Reader:
    """A predictor that tells the length of the sound."""

    settings, device = Encoders(), "cpu"

    def predict_features(self, clip):
        length = 0 if clip.audio is None else len(clip.audio)
        return prediction(clip.clip_id, values={"Joy": float(length)}, absent=clip.absent)


@pytest.mark.slow
def test_every_clip_is_encoded_once_and_a_bad_one_is_a_row_with_its_reason(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", 1.0)
    write_clip(tmp_path / "b.mp4", 2.0)
    (tmp_path / "c.mp4").write_text("no film")
    reports, extract = [], inputs.extract
    monkeypatch.setattr(
        inputs, "extract", lambda *a, **k: reports.append(extract(*a, **k, processes=0))
    )
    limits = Limits(clip_seconds=60)
    for _ in range(2):
        found = find([tmp_path])
        made = list(predict_all(Reader(), found, tmp_path / "features", limits, progress=False))
    assert [one.clip for one in made] == ["a.mp4", "b.mp4", "c.mp4"]
    assert [round(one.values["Joy"] / 50) for one in made] == [1, 2, 0]
    assert made[2].absent["vision"] == "not a media file"
    assert [(report.done, report.found) for report in reports] == [(3, 0), (0, 3)]


# --- what is written


def test_cells_that_a_spreadsheet_would_compute_stay_text(tmp_path):
    for begin in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1"):
        assert tables.as_text(begin) == f"'{begin}"
    assert tables.as_text("so glad - really") == "so glad - really"
    hostile = prediction(HOSTILE, transcript=HOSTILE, damaged={"audio": HOSTILE})
    tables.write_table([hostile, prediction()], tmp_path / "t.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert rows[0]["clip"] == rows[0]["transcript"] == f"'{HOSTILE}"
    assert len(rows) == 2 and rows[1]["clip"] == "a.mp4"
    for row in rows:
        assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in row.values())


def test_the_table_has_bounds_and_no_values_of_nothing():
    bounds = dict.fromkeys(EMOTIONS, 0.0), dict.fromkeys(EMOTIONS, 0.9)
    nothing = dict.fromkeys(["audio", "vision", "text"], "not a media file")
    made = tables.table(
        [
            prediction(low=bounds[0], high=bounds[1], outside=Outside({"audio": Distance(2, 1)})),
            prediction(absent=nothing, all_absent=True),
        ]
    )
    assert made.loc[0, "Joy"] == 0.6 and made.loc[0, "Joy high"] == 0.9
    assert made.loc[0, "outside"] == "audio"
    assert np.isnan(made.loc[1, "Joy"]) and pd.isna(made.loc[1, "Joy low"])


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command without encoders and runs; what it is told to predict is in `.made`."""
    from taemi_lib.cli import predict as module
    from taemi_lib.prediction import predictor

    class Command:
        made = [prediction()]

        def __call__(self, *arguments):
            places = ["--runs-root", str(tmp_path / "runs"), "--data-root", str(tmp_path / "data")]
            return cli.main(["predict", *map(str, arguments), *places])

    command = Command()
    monkeypatch.setattr(module, "_run_folder", lambda *which: tmp_path)
    monkeypatch.setattr(predictor, "Predictor", lambda *which, **options: None)
    monkeypatch.setattr(inputs, "predict_all", lambda *which, **options: iter(command.made))
    return command


def strict(text):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_one_object_for_a_clip_and_a_list_for_more(command, tmp_path, capsys):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    command.made = [prediction(values={"Joy": float("nan")}, outside=Outside())]
    assert command(tmp_path / "a.mp4", "--json") == 0
    assert strict(capsys.readouterr().out)["values"] == {"Joy": None}
    command.made = [prediction(), prediction("b.mp4")]
    assert command(tmp_path, "--json") == 0
    assert [one["clip"] for one in strict(capsys.readouterr().out)] == ["a.mp4", "b.mp4"]


def test_several_clips_are_lines_of_a_table(command, tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    absent = {"audio": "no audio track"}
    beyond = Outside({"vision": Distance(3.0, 1.5)})
    command.made = [prediction(), prediction("b.mp4", absent=absent, outside=beyond)]
    assert command(tmp_path, "--csv", tmp_path / "out" / "t.csv") == 0
    said = capsys.readouterr().out
    assert "a.mp4" in said and "no audio (no audio track); outside its world: vision" in said
    assert len(pd.read_csv(tmp_path / "out" / "t.csv")) == 2


def test_when_nothing_could_be_used_the_command_fails_after_saying_why(command, tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    command.made = [prediction(absent={"audio": "empty file"}, all_absent=True)]
    assert command(tmp_path / "a.mp4") == 1
    said = capsys.readouterr()
    assert "empty file" in said.out and "nothing could be used" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.mp4", "--split", "predict"], "--split and clips"),
        (["--split", "predict", "--csv", "t.csv"], "--split and --csv"),
        (["--split", "predict", "--json"], "--split and --json"),
        (["--split", "predict", "--ensemble"], "--split and --ensemble"),
        (["a.mp4", "--output", "x.csv"], "--output belongs to --split"),
        (["a.mp4", "--ensemble", "--checkpoint", "run"], "--ensemble and --checkpoint"),
    ],
)
def test_options_that_contradict_each_other_are_refused(command, arguments, said, capsys):
    assert command(*arguments) == 2
    assert said in capsys.readouterr().err

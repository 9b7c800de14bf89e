"""The command line, as a stranger types it: each mistake is one line with the right form, and help
is there at once."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from taemi_lib import cli
from taemi_lib.errors import RunError
from taemi_lib.profiles import PROFILES, ROOT, load
from taemi_lib.workspace import Workspace

COMMANDS = (
    "run extract import train evaluate predict search compare grid robustness "
    "profiles fetch notebooks render"
).split()


def command_line(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "taemi_lib", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env=os.environ | {"TQDM_DISABLE": "1"},
    )


def test_help_lists_the_commands_in_the_order_of_the_work(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    found = [line.split() for line in lines if line.strip()]
    assert [words[0] for words in found] == COMMANDS
    assert all(len(words) > 4 for words in found)  # each says in a line what it does


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_explains_itself(command, capsys):
    assert cli.main([command, "--help"]) == 0
    said = capsys.readouterr().out
    for name, parameter in ((p.name, p) for p in cli.taemi.commands[command].params):
        if parameter.param_type_name == "option":
            assert parameter.help, f"{command} {name}"
    if command in COMMANDS[:9] and command != "import":  # which needs no clips and makes no runs
        assert "--profile" in said and "--set NAME=VALUE" in said and "--runs-root" in said


def test_the_command_alone_shows_the_commands(capsys):
    assert cli.main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") > len(COMMANDS)
    assert [line.split()[0] for line in said.err.splitlines()[-len(COMMANDS) :]] == COMMANDS


def test_help_and_profiles_load_nothing_heavy():
    code = (
        "import sys; from taemi_lib.cli import main; main(['--help']); main(['profiles', 'demo']); "
        "print(sorted({'torch', 'pandas', 'transformers', 'papermill'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]"


def test_profiles_are_listed_and_printed_whole(capsys, tmp_path):
    assert cli.main(["profiles"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PROFILES)
    assert cli.main(["profiles", "demo", "--set", "training.batch_size=8"]) == 0
    (tmp_path / "my.toml").write_text(capsys.readouterr().out)
    assert load(tmp_path / "my.toml") == PROFILES["demo"].changed({"training.batch_size": 8})


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["run", "--profile", "dmo"], ["'dmo'", "demo, smoke, paper, own, real"]),
        (["run", "--device", "tpu"], ["'tpu'", "auto, cpu, cuda"]),
        (["run", "-p", "regime", "sideways"], ["'regime'", "data_root", "seed"]),
        (["run", "-p", "system", "tame"], ["'system'", "data_root", "seed"]),
        (["run", "-p", "training.batch_size", "8"], ["--set training.batch_size=8"]),
        (["run", "-p", "settings", "{}"], ["--set NAME=VALUE"]),
        (["run", "--from", "99"], ["'99'", "00_start_here"]),
        (["run", "--set", "training.batchsize=8"], ["--set", "training.batch_size"]),
        (["run", "--set", "training.batch_size"], ["--set training.batch_size=8"]),
        (["run", "--set", "training.batch_size=many"], ["--set: training.batch_size = 'many'"]),
        (["run", "--profile", "nowhere.toml"], ["nowhere.toml", "cannot be read"]),
        (["run", "--profile", "paper"], ["raw/", "--data-root"]),
        (["run", "-p", "seed"], ["'-p'", "write -p NAME VALUE (taemi run --help)"]),
        (["run", "-p", "seed=3", "--from", "04"], ["write -p NAME VALUE, as in -p seed 3"]),
        (["run", "--set"], ["write --set NAME=VALUE (taemi run --help)"]),
        (["run", "--set", "training.batch_size", "8"], ["--set training.batch_size=8"]),
        (["run", "--profile"], ["write --profile NAME"]),
        (["run", "--form", "03"], ["'--form'", "'--from'"]),
        (["profiles", "--set", "model.width=32"], ["taemi profiles demo --set"]),
        (["extract", "--profile", "own"], ["--set data.table=clips.csv"]),
        (["tune"], ["'tune'", "run, extract, import, train"]),
        (["train"], ["SYSTEM"]),
        (["train", "tame"], ["'tame'", "taemi", "--import"]),
        (["train", "taemi", "--import", "gone.py"], ["gone.py", "no such file"]),
        (["train", "taemi", "--seeds", "3", "--seed", "1"], ["0, 1 and 2", "not both"]),
        (["evaluate", "tame"], ["'tame'", "a run's folder", "taemi, "]),
        (["predict", "clip.mp4", "--checkpoint", "run", "--import", "gone.py"], ["gone.py"]),
        (["predict"], ["taemi predict clip.mp4", "--split predict"]),
        (["predict", "clip.mp4", "--seed", "x"], ["--seed", "'x'"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_the_right_form(arguments, parts, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("taemi: ") and said.err.count("\n") == 1
    assert all(part in said.err for part in parts), said.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "taemi: stopped; the same command continues from here"),
        (RuntimeError("out of memory"), 1, "taemi: out of memory"),
        (OSError("disk full"), 1, "taemi: disk full"),
        (RunError("training taemi, seed 0 failed"), 1, "taemi: training taemi, seed 0 failed"),
    ],
)
def test_what_stops_a_training_is_one_message_with_its_exit_code(
    error, code, said, monkeypatch, capsys, tmp_path
):
    def runs(*_):
        raise error

    monkeypatch.setattr(Workspace, "runs", runs)
    assert cli.main(["train", "taemi", "--data-root", str(tmp_path)]) == code
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.strip() == said


@pytest.mark.parametrize("what", [["clip.mp4"], ["--split", "predict"]])
def test_a_run_that_is_not_finished_predicts_nothing(what, tmp_path, capsys):
    run = Workspace("smoke", tmp_path / "data", tmp_path / "runs").run_folder("concat", 3)
    (run / "best").mkdir(parents=True)
    places = ["--data-root", str(tmp_path / "data"), "--runs-root", str(tmp_path / "runs")]
    asked = ["--profile", "smoke", "--system", "concat", "--seed", "3", *places]
    assert cli.main(["predict", *what, *asked]) == 1
    message = capsys.readouterr().err
    assert "no finished run" in message and "taemi train concat --seed 3" in message
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_clean_deletes_only_what_it_named_and_was_told_to(tmp_path):
    def clean(*arguments):
        command = ["make", "clean", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL
        )

    shutil.copy(ROOT / "Makefile", tmp_path)
    assert clean().returncode == 0  # nothing there
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "holiday.mp4").write_bytes(b"mine")
    refused = clean()
    assert refused.returncode != 0 and "YES=1" in refused.stdout
    assert "\tdata\n" in refused.stdout and "\truns\n" not in refused.stdout
    assert (tmp_path / "data" / "holiday.mp4").exists()
    assert clean("YES=1").returncode == 0 and not (tmp_path / "data").exists()


def test_a_generated_profile_writes_nothing_into_a_folder_of_somebody_else(tmp_path, capsys):
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    for command in (["run"], ["extract"], ["train", "taemi"]):
        assert cli.main([*command, "--data-root", str(tmp_path)]) == 2
        message = capsys.readouterr().err
        assert "holiday.mp4" in message and "--profile own" in message
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_an_encoder_folder_that_is_not_there_is_named_before_anything_is_encoded(tmp_path, capsys):
    table = tmp_path / "clips.csv"
    (tmp_path / "a.mp4").write_bytes(b"")
    table.write_text("clip_id,video\na,a.mp4\n")
    given = ["--profile", "own", "--set", f"data.table={table}", "--runs-root", str(tmp_path / "r")]
    for role in ("audio", "vision", "text"):
        given += ["--set", f"encoders.{role}={tmp_path / 'gone' / role}"]
    assert cli.main(["extract", *given]) == 2
    message = capsys.readouterr().err
    for role in ("audio", "vision", "text"):
        assert f"--set: encoders.{role} = " in message and "no such folder" in message
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip_id;video\na;a.mp4\n", "separated by semicolons"),
        ("clip_id,film\na,a.mp4\n", "column video: missing column; the table has: clip_id, film"),
        ("clip_id,video\na,b.mp4\n", "'b.mp4' does not exist"),
    ],
)
@pytest.mark.parametrize("command", ["run", "extract"])
def test_a_table_that_breaks_rules_is_refused_before_anything_runs(
    command, text, said, tmp_path, capsys
):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "clips.csv").write_text(text)
    table = f"data.table={tmp_path / 'clips.csv'}"
    places = ["--set", table, "--runs-root", str(tmp_path / "runs"), "--profile", "own"]
    assert cli.main([command, *places]) == 2
    message = capsys.readouterr().err
    assert said in message and "clips.csv" in message and not (tmp_path / "runs").exists()


def test_evaluating_a_run_that_is_not_there_says_how_to_get_it(tmp_path, capsys):
    places = ["--data-root", str(tmp_path / "data"), "--runs-root", str(tmp_path / "runs")]
    assert cli.main(["evaluate", "concat", "--seed", "3", *places]) == 1
    message = capsys.readouterr().err
    assert "no finished run in" in message and "taemi train concat --seed 3" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, seeds",
    [([], None), (["--seeds", "3"], (0, 1, 2)), (["--seed", "4"], (4,))],
)
def test_seeds_are_the_profiles_or_so_many_or_those_that_are_named(
    options, seeds, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(Workspace, "runs", lambda self, systems, seeds: asked.append(seeds) or {})
    assert cli.main(["train", "taemi", "--data-root", str(tmp_path), *options]) == 0
    assert [found and tuple(found) for found in asked] == [seeds]


def test_make_lab_serves_the_whole_repository():
    assert "--ServerApp.root_dir='$(CURDIR)'" in (ROOT / "Makefile").read_text()


def test_the_module_is_the_command():
    done = command_line("run", "--profile", "dmo")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("taemi: ")


@pytest.mark.slow
def test_what_a_notebook_refuses_the_command_line_says_without_a_traceback(tmp_path):
    folder = tmp_path / "data" / "synthmimic-48-seed7"
    folder.mkdir(parents=True)
    about = {"version": 2, "clips": 5, "seed": 7}
    (folder / "generator.json").write_text(json.dumps(about))
    places = ["--data-root", tmp_path / "data", "--runs-root", tmp_path / "runs"]
    done = command_line("run", "--profile", "smoke", "--from", "02", *places)
    assert done.returncode == 1
    assert "02_feature_extraction" in done.stderr and "clips is 5 there, 48 now" in done.stderr
    assert "Traceback" not in done.stderr and "File " not in done.stderr

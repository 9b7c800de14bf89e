"""The course runner and the command line, on notebooks small enough to write here."""

import json
import os
import platform
import signal
import subprocess
import sys
import time

import jupyter_client.manager
import nbformat
import pytest

from taemi_lib import cli, course, profiles
from taemi_lib.errors import ChoiceError, CourseError

PARAMETERS = (
    'profile = "demo"\nsettings = {}\ndata_root = "data"\nruns_root = "runs"\n'
    'device = "auto"\nseed = 0'
)
SCORES = {"mean_rho": {"taemi": 0.5}, "attention_over_decoy": {"audio": 2.0}, "clips": 12}
WRITES_SCORES = f"""\
import json, pathlib
folder = pathlib.Path(runs_root, profile)
(folder / "evaluation.json").write_text(json.dumps({SCORES!r}))"""


def write_notebook(path, *cells, parameters=PARAMETERS):
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (parameters, *cells)]
    notebook.cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def outputs(path):
    return "".join(
        o.get("text", "") for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])
    )


@pytest.fixture
def small_course(tmp_path):
    """Three notebooks; returns a function that runs them with options."""
    folder = tmp_path / "notebooks"
    show = "print(sys.executable, os.path.basename(os.getcwd()), seed)"
    write_notebook(folder / "03_first.ipynb", "import os, sys", show)
    write_notebook(folder / "05_evaluation.ipynb", WRITES_SCORES)
    write_notebook(
        folder / "appendix" / "A1_last.ipynb",
        "print(retrain)",
        parameters=f"{PARAMETERS}\nretrain = False",
    )

    def run(profile="smoke", **options):
        places = {"data_root": str(tmp_path / "data"), "runs_root": str(tmp_path / "runs")}
        return course.run(profile, **{**places, "notebooks": folder} | options)

    run.folder, run.results, run.data = folder, tmp_path / "runs" / "smoke", tmp_path / "data"
    return run


@pytest.mark.slow
def test_a_run_executes_all_notebooks_in_order_with_this_python_and_sums_up(small_course):
    summary = small_course(parameters={"seed": 3, "retrain": True})
    assert list(summary["seconds"]) == ["03_first", "05_evaluation", "A1_last"]
    assert {key: summary[key] for key in SCORES} == SCORES
    assert json.loads((small_course.results / "summary.json").read_text()) == summary
    assert outputs(small_course.results / "notebooks/03_first.ipynb").split() == [
        sys.executable,
        "notebooks",
        "3",
    ]
    assert outputs(small_course.results / "notebooks/A1_last.ipynb").split() == ["True"]
    assert (
        outputs(small_course.folder / "03_first.ipynb") == ""
    )  # the notebook itself stays as it was
    table = course.summary_table(summary)
    assert "taemi" in table and "0.500" in table and "2.00 : 1" in table


@pytest.mark.slow
def test_metadata_of_a_finished_notebook_holds_no_path(small_course, tmp_path):
    small_course()
    for path in (small_course.results / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        metadata = json.dumps([notebook.metadata, *(cell.metadata for cell in notebook.cells)])
        assert "/" not in metadata.replace("text/x-python", "") and "papermill" not in metadata


@pytest.mark.slow
def test_starting_later_keeps_the_earlier_seconds_and_scores(small_course):
    (small_course.results).mkdir(parents=True)
    (small_course.results / "summary.json").write_text(
        '{"seconds": {"03_first": 41.0, "A1_last": 42.0}}'
    )
    (small_course.results / "evaluation.json").write_text(json.dumps(SCORES))
    summary = small_course(first="A1")
    assert summary["seconds"]["03_first"] == 41.0 and summary["seconds"]["A1_last"] < 42.0
    assert summary["mean_rho"] == SCORES["mean_rho"]
    assert not (small_course.results / "notebooks/03_first.ipynb").exists()


@pytest.mark.slow
def test_a_failure_stops_the_course_and_shows_cell_and_traceback(small_course, capsys, monkeypatch):
    write_notebook(small_course.folder / "03_first.ipynb", "x = 1", "values = {}\nvalues['gone']")
    (small_course.results).mkdir(parents=True)
    (small_course.results / "evaluation.json").write_text(json.dumps(SCORES))
    monkeypatch.setattr(
        course.run, "__kwdefaults__", course.run.__kwdefaults__ | {"notebooks": small_course.folder}
    )
    places = [
        "--runs-root",
        str(small_course.results.parent),
        "--data-root",
        str(small_course.data),
    ]
    code = cli.main(["run", "--profile", "smoke", *places])
    message = capsys.readouterr().err
    assert code == 1
    for part in (
        "03_first stopped in cell [",
        "values['gone']",
        "KeyError: 'gone'",
        "notebooks/03_first.ipynb",
    ):
        assert part in message
    assert "papermill" not in message and "\x1b" not in message
    assert (small_course.results / "notebooks/03_first.ipynb").exists()
    assert not (small_course.results / "notebooks/05_evaluation.ipynb").exists()
    assert not (
        small_course.results / "evaluation.json"
    ).exists()  # scores of an earlier run would be misleading


@pytest.mark.slow
def test_an_evaluation_that_leaves_no_scores_is_a_failure(small_course):
    write_notebook(small_course.folder / "05_evaluation.ipynb", "pass")
    with pytest.raises(CourseError, match=r"did not write .*evaluation\.json"):
        small_course(first="05")


def test_unknown_names_are_refused_before_anything_runs(small_course):
    for options, parts in [
        ({"parameters": {"sede": 1}}, ["'sede'", "seed", "retrain"]),
        ({"parameters": {"seed": "one"}}, ["'seed'", "int", "'one'"]),
        ({"parameters": {"seed": True}}, ["'seed'", "int"]),
        ({"parameters": {"device": "cpu"}}, ["--device"]),
        ({"first": "07"}, ["'07'", "03_first", "A1_last"]),
        ({"device": "tpu"}, ["'tpu'", "cuda"]),
        ({"profile": "dmo"}, ["'dmo'", "demo", "smoke", "paper"]),
        ({"profile": "features"}, ["reads clips", "A2", "train", "compare", "evaluate"]),
    ]:
        with pytest.raises(ChoiceError) as caught:
            small_course(**options)
        assert all(part in str(caught.value) for part in parts), caught.value
    assert not small_course.results.parent.exists()


def test_a_notebook_without_the_common_parameters_is_refused(small_course):
    write_notebook(small_course.folder / "03_first.ipynb", parameters='profile = "demo"')
    with pytest.raises(
        CourseError, match=r"03_first\.ipynb.*settings, data_root, runs_root, device, seed"
    ):
        small_course()


def test_wrong_choices_on_the_command_line_are_one_line_and_exit_code_two(capsys):
    for arguments in (
        ["run", "--profile", "dmo"],
        ["run", "--device", "tpu"],
        ["run", "-p", "profile", "x"],
    ):
        assert cli.main(arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("taemi: ") and message.count("\n") == 1
    for arguments in (["rnu"], ["run", "--form", "03"], ["train"], ["run", "-p", "seed"]):
        assert cli.main(arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("taemi: ") and message.count("\n") == 1


def test_predicting_without_a_checkpoint_says_how_to_get_one(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    assert cli.main(["predict", "clip.mp4", "--data-root", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "taemi run" in message and "--checkpoint" in message and message.count("\n") == 1


def test_values_from_the_command_line_become_what_they_look_like():
    texts = ["3", "0.5", "true", "False", "null", "cue", "data/my clips", "[1, 2]"]
    assert [course.literal(text) for text in texts] == [
        3,
        0.5,
        True,
        False,
        None,
        "cue",
        "data/my clips",
        [1, 2],
    ]


@pytest.mark.slow
def test_settings_reach_the_notebooks_and_a_folder_of_their_own(small_course, tmp_path):
    show = "print(settings, pathlib.Path(runs_root).name)"
    write_notebook(small_course.folder / "03_first.ipynb", "import pathlib", show)
    writes = WRITES_SCORES.replace("runs_root, profile", "runs_root, 'smoke+training.epochs=1'")
    write_notebook(small_course.folder / "05_evaluation.ipynb", writes)
    summary = small_course(settings={"training.epochs": 1})
    folder = tmp_path / "runs" / "smoke+training.epochs=1"
    assert summary["profile"] == folder.name
    assert "{'training.epochs': 1} runs" in outputs(folder / "notebooks" / "03_first.ipynb")


@pytest.mark.slow
def test_a_kernel_that_has_done_its_work_ends_without_a_word(tmp_path, capfd):
    write_notebook(tmp_path / "one.ipynb", "print(seed)")
    for number in range(4):
        course.execute(tmp_path / "one.ipynb", tmp_path / f"{number}.ipynb", {"seed": number})
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_what_a_kernel_writes_past_its_notebook_is_heard_until_its_work_is_done(tmp_path, capfd):
    write_notebook(
        tmp_path / "one.ipynb",
        "import atexit, os",
        'atexit.register(os.write, 2, b"on its way out\\n")',
        'os.write(2, b"at work\\n");',
    )
    course.execute(tmp_path / "one.ipynb", tmp_path / "done.ipynb", {})
    assert capfd.readouterr().err == "at work\n"
    write_notebook(tmp_path / "two.ipynb", 'import os; os.write(2, b"dying\\n"); os._exit(1)')
    with pytest.raises(CourseError, match="its kernel died"):
        course.execute(tmp_path / "two.ipynb", tmp_path / "dead.ipynb", {})
    assert "dying\n" in capfd.readouterr().err


@pytest.mark.slow
def test_a_kernel_is_asked_to_end_and_never_interrupted(tmp_path, monkeypatch):
    """The usual manager interrupts it first; what is then printed now and then depends on timing,
    the signal does not."""
    sent, usual = [], jupyter_client.manager.KernelManager._async_signal_kernel

    async def spy(self, number):
        sent.append(number)
        await usual(self, number)

    monkeypatch.setattr(jupyter_client.manager.KernelManager, "_async_signal_kernel", spy)
    write_notebook(tmp_path / "one.ipynb", "print(seed)")
    course.execute(tmp_path / "one.ipynb", tmp_path / "ours.ipynb", {})
    assert signal.SIGINT not in sent
    monkeypatch.setattr(course, "KernelManager", jupyter_client.manager.AsyncKernelManager)
    course.execute(tmp_path / "one.ipynb", tmp_path / "usual.ipynb", {})
    assert signal.SIGINT in sent  # the spy sees it where it is sent


def test_a_profile_file_reaches_the_notebooks_as_a_path_that_exists(
    small_course, tmp_path, monkeypatch
):
    given = []
    monkeypatch.setattr(course, "execute", lambda path, output, own: given.append(own) or 0.0)
    for folder in ("here", "repository"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.toml").write_text('profile = "smoke"\n')
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(profiles, "ROOT", tmp_path / "repository")
    for folder in ("here", "repository"):
        small_course(f"{folder}.toml", first="A1")
        assert given[-1]["profile"] == str(tmp_path / folder / f"{folder}.toml")


def test_tidying_keeps_what_outputs_say_about_themselves(tmp_path):
    image = nbformat.v4.new_output(
        "display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": "a curve"}}
    )
    cell = nbformat.v4.new_code_cell("draw()", outputs=[image])
    cell.metadata |= {"papermill": {"duration": 1.0}, "execution": {}, "tags": []}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "one.ipynb")
    course.tidy(tmp_path / "one.ipynb")
    (tidied,) = nbformat.read(tmp_path / "one.ipynb", 4).cells
    assert tidied.outputs[0].metadata == {"image/png": {"alt": "a curve"}}
    assert tidied.metadata == {}


@pytest.mark.slow
def test_ctrl_c_ends_the_kernel_too_and_says_in_one_line_how_to_continue(tmp_path):
    sleeps = "import os, pathlib, time\npathlib.Path('at_work').write_text(str(os.getpid()))"
    write_notebook(tmp_path / "03_first.ipynb", f"{sleeps}\ntime.sleep(3600)")
    code = (
        # what a shell starts in the background ignores Ctrl-C, and so does all that it starts
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from pathlib import Path; from taemi_lib import cli, course; "
        "course.run.__kwdefaults__['notebooks'] = Path(sys.argv[1]); "
        "sys.exit(cli.main(['run', '--data-root', sys.argv[2], '--runs-root', sys.argv[2]]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "runs")]
    with subprocess.Popen(command, cwd=profiles.ROOT, stderr=subprocess.PIPE, text=True) as started:
        marker = tmp_path / "at_work"
        while not (marker.exists() and marker.read_text()):
            assert started.poll() is None, started.stderr.read()
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        said = started.communicate(timeout=120)[1]
    assert started.returncode == 130
    assert said.strip() == "taemi: stopped; the same command continues from here"
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


@pytest.mark.slow
def test_a_finished_notebook_has_the_language_info_that_jupyterlab_stores(small_course):
    small_course()
    for path in (small_course.results / "notebooks").glob("*.ipynb"):
        stored = nbformat.read(path, 4).metadata["language_info"]
        assert {"name", "version", "mimetype", "file_extension", "pygments_lexer"} <= set(stored)
        assert {"codemirror_mode", "nbconvert_exporter"} <= set(stored)
        assert stored["version"] == platform.python_version()


@pytest.mark.slow
def test_rendering_stores_outputs_in_place_but_never_those_of_a_failure(
    small_course, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    course.render("03", only=True, notebooks=small_course.folder)
    assert "notebooks 0" in outputs(small_course.folder / "03_first.ipynb")
    write_notebook(small_course.folder / "03_first.ipynb", "1 / 0")
    before = (small_course.folder / "03_first.ipynb").read_bytes()
    with pytest.raises(CourseError, match="ZeroDivisionError"):
        course.render("03", only=True, notebooks=small_course.folder)
    assert (small_course.folder / "03_first.ipynb").read_bytes() == before

"""What notebooks share: parameters that become a workspace, or the notebook stops there; whose
tables it shows; how it prints."""

import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from taemi_lib import notebook
from taemi_lib.errors import ChoiceError
from taemi_lib.notebook import find_tables, from_notebook
from taemi_lib.profiles import ROOT

DEFAULTS = """\
profile = "smoke"
settings = {}
data_root = "data"
runs_root = "runs"
device = "cpu"
seed = 0
resamples = 200"""


def variables(injected="", defaults=DEFAULTS):
    """A kernel's variables after the parameters' cells, as IPython keeps them."""
    found = {"In": ["", defaults]}
    exec(defaults, found)
    if injected:
        found["In"].append(f"# Parameters\n{injected}")
        exec(injected, found)
    return found


def test_parameters_become_a_workspace():
    given = 'settings = {"training.batch_size": 8}\nruns_root = "elsewhere"\nresamples = 50'
    workspace = from_notebook(variables(given), own=("resamples",))
    assert workspace.profile.training.batch_size == 8 and workspace.profile.data.clips == 48
    assert workspace.runs_root == ROOT / "elsewhere" and workspace.device == "cpu"


@pytest.mark.parametrize(
    ("injected", "said"),
    [
        ("profil = 'demo'", "no parameter 'profil'; nearest: profile; .*resamples"),
        ("regime = 'cue'", "no parameter 'regime'.*its parameters are: profile, settings"),
        ("profile = 'dmo'", "unknown profile 'dmo'; the profiles are: demo"),
        ("settings = {'training.batchsize': 8}", "nearest: training.batch_size"),
        (
            "settings = {'training.batch_size': 'x'}",
            "settings: training.batch_size = 'x'",
        ),
        ("settings = 'training.batch_size=8'", "settings = .*must be of the type dict"),
        ("seed = 'one'", "seed = 'one': it must be of the type int, such as 0"),
        ("resamples = True", "resamples = True: it must be of the type int"),
        ("resamples = '9'", "resamples = '9'.*such as 200"),
        ("device = 'tpu'", "'tpu'"),
        ("profile = 'own'", "--set data.table"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_allowed(injected, said):
    with pytest.raises(ChoiceError, match=said):
        from_notebook(variables(injected), own=("resamples",))


def test_outside_of_ipython_nothing_needs_to_be_known_about_cells():
    found = variables()
    del found["In"]
    assert from_notebook(found, own=("resamples",)).label == "smoke"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "profil", "smoke"], "nearest: profile"),
        (["-y", "settings: {training.batchsize: 8}"], "nearest: training.batch_size"),
    ],
)
def test_bare_papermill_stops_in_the_first_cells_of_a_notebook(arguments, said, tmp_path):
    path = ROOT / "notebooks" / "04_training.ipynb"
    command = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "out.ipynb")]
    done = subprocess.run(
        [*command, *arguments, "-p", "runs_root", str(tmp_path / "runs"), "--no-progress-bar"],
        capture_output=True,
        text=True,
        cwd=path.parent,
        timeout=300,
    )
    assert done.returncode != 0 and "ChoiceError" in done.stderr and said in done.stderr
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    assert max(cell.get("execution_count") or 0 for cell in cells) <= 4
    assert not (tmp_path / "runs").exists()


def tables(given, own, needed=("runs", "search")):
    """The tables that a notebook with these parameters shows; `own`: where its data's own lie."""
    defaults = DEFAULTS.replace("resamples = 200", 'results_root = "results"\nrecompute = False')
    found = variables(given, defaults)
    workspace = from_notebook(found, own=("results_root", "recompute"))
    return find_tables(found, workspace, own, needed, "taemi grid", "inside")


def with_tables(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.csv").touch()
    return folder


def test_the_demo_shows_the_committed_tables(tmp_path, capsys):
    own = with_tables(tmp_path / "own", "runs", "search")
    found = tables("profile = 'demo'\nsettings = {'seeds': [3]}", own)
    assert found.folder == ROOT / "results" / "inside"
    assert found.committed and not found.borrowed
    assert "made with these settings" in capsys.readouterr().out
    found.warn()
    assert capsys.readouterr().out == ""


def test_other_data_shows_the_demos_tables_and_says_so_until_it_has_its_own(tmp_path, capsys):
    given = "settings = {'training.batch_size': 8, 'encoders.text': 'a folder'}"
    partly = with_tables(tmp_path / "partly", "runs")
    found = tables(given, partly)
    assert found.folder == ROOT / "results" / "inside" and found.borrowed and found.committed
    said = " ".join(capsys.readouterr().out.split())
    assert "OF THE DEMO" in said and f"not computed yet: `{found.computed_by}`" in said
    assert found.computed_by == (
        "taemi grid --profile smoke --data-root data --runs-root runs"
        " --set training.batch_size=8 --set 'encoders.text=a folder'"
    )
    found.warn()
    assert capsys.readouterr().out == "(OF THE DEMO, not of this data)\n"

    own = with_tables(tmp_path / "own", "runs", "search")
    found = tables(given, own)
    assert found.folder == own and not found.borrowed and not found.committed
    assert "DEMO" not in capsys.readouterr().out


def test_tables_that_are_asked_for_or_just_made_are_shown_whatever_else_is_there(tmp_path, capsys):
    own = with_tables(tmp_path / "own", "runs", "search")
    asked = f"profile = 'demo'\nresults_root = {str(tmp_path / 'asked')!r}"
    found = tables(asked, own)
    assert found.folder == tmp_path / "asked" / "inside"
    assert not found.borrowed and not found.committed
    assert "asked" in capsys.readouterr().out
    for profile in ("demo", "smoke"):
        found = tables(f"profile = {profile!r}\nrecompute = True", own)
        assert found.folder == own and not found.borrowed and not found.committed


def test_lines_are_broken_between_words_but_not_at_no_break_spaces(capsys):
    notebook.say("left: " + " ".join(["word\u00a0pair"] * 15))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 110
    assert lines[1].startswith("    word pair") and all(line.endswith("pair") for line in lines)


def test_a_table_has_its_caption_above_and_no_row_for_the_name_of_its_index(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    frame = pd.DataFrame({"rho": [0.5, None]}, index=pd.Index(["a", "b"], name="system"))
    notebook.show_table(frame, "means < 1")
    html = shown[0].data
    assert html.index("means &lt; 1") < html.index("<thead>") and "<td>-</td>" in html
    assert html.count("<tr") == 3 and "<th>system</th>" in html

"""The first cell of a notebook: its parameters become a workspace, or the notebook stops there."""

import subprocess
import sys

import nbformat
import pytest

from taemi_lib.errors import ChoiceError
from taemi_lib.notebook import from_notebook
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

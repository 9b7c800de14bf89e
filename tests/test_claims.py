"""The claims of README and course, held against the demo's runs (found where nbval or the course
left them, else made there)."""

import re
import shlex
import subprocess
import sys

import nbformat
import numpy as np
import pytest

from taemi_lib import cli, evaluate, profiles
from taemi_lib.data import synthmimic
from taemi_lib.evaluation import metrics
from taemi_lib.evaluation.attention import attention_ratios
from taemi_lib.profiles import PROFILES, ROOT
from taemi_lib.workspace import SYSTEMS, Workspace

DEMO = PROFILES["demo"]


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs_as_it_stands():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Admiration" in done.stdout, done.stderr


def commands() -> list[list[str]]:
    """The lines of the README that call `taemi`, without comments and shell redirections."""
    blocks = "\n".join(re.findall(r"```\n(.*?)```", README, re.DOTALL))
    lines = [line for line in blocks.splitlines() if line.startswith("taemi ")]
    return [shlex.split(line.partition(">")[0], comments=True)[1:] for line in lines]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_of_the_readme_has_the_options_that_it_names(arguments):
    command = cli.taemi.commands[arguments[0]]
    command.make_context(arguments[0], arguments[1:], resilient_parsing=False)


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_setting_of_the_readme_exists(arguments):
    given = [value for name, value in zip(arguments, arguments[1:]) if name == "--set"]
    assert set(profiles.parse_settings(given)) <= set(profiles.names())


def test_the_readme_and_notebook_00_say_the_same_minutes():
    start = ROOT / "notebooks" / "00_start_here.ipynb"
    cells = nbformat.read(start, as_version=4).cells
    maps = [README, "\n".join(cell.source for cell in cells)]
    name = r"(0\d|A\d) [A-Z][^|]*?"  # "00 Start here"; in a link or not
    rows = re.compile(rf"^\| \[?{name}(?:\]\([^)]+\))? \|.*?\| ((?:under )?[\d½]+)[^|]*\|$", re.M)
    readme, notebook = (dict(rows.findall(text)) for text in maps)
    assert readme == notebook and len(readme) == 12
    assert all("about 9 minutes on two CPU cores" in " ".join(text.split()) for text in maps)


@pytest.fixture(scope="module")
def demo():
    """Median over seeds on the test split: {system: mean rho}, {system: {modality: attention over
    decoy}}, best achievable."""
    workspace = Workspace(DEMO, progress=False)
    runs, test, truth = workspace.runs(), workspace.datasets()["test"], workspace.truth()
    scores = {
        job: evaluate(run, test, resamples=10, attention=job[0] in ("taemi", "constant_query"))
        for job, run in runs.items()
    }
    rho = {
        system: np.median([scores[system, seed].mean_rho for seed in DEMO.seeds])
        for system in SYSTEMS
    }
    ratios = {}
    for system in ("taemi", "constant_query"):
        per_seed = [
            attention_ratios(scores[system, seed].predictions, truth, DEMO.data.regime)
            for seed in DEMO.seeds
        ]
        ratios[system] = {
            name: np.median([ratio[name] for ratio in per_seed]) for name in ("audio", "vision")
        }
    noiseless = (
        synthmimic.regime_table(truth, DEMO.data.regime, "noiseless").loc[test.clip_ids].to_numpy()
    )
    return rho, ratios, metrics.mean_pearson(noiseless, test.targets)


@pytest.mark.slow
def test_text_anchored_attention_beats_its_controls_where_words_select_the_moment(demo):
    rho, _, _ = demo
    assert rho["taemi"] >= 0.50
    assert rho["taemi"] >= rho["constant_query"] + 0.05
    assert rho["taemi"] >= rho["text_only"] + 0.08


@pytest.mark.slow
def test_attention_looks_at_the_event_that_counts_and_a_constant_query_cannot(demo):
    _, ratios, _ = demo
    assert max(ratios["taemi"].values()) >= 2
    assert all(0.5 <= ratio <= 2 for ratio in ratios["constant_query"].values())


@pytest.mark.slow
def test_nothing_scores_above_what_the_noise_allows(demo):
    rho, _, best = demo
    assert max(rho.values()) < best < 1

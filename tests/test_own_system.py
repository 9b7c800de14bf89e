"""A system of one's own: one file outside the package, or one class in a notebook, is found,
trained, saved, loaded and evaluated like the package's own."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from toy import SIZES, dataset

from taemi_lib import cli, models, profiles
from taemi_lib import workspace as workspaces
from taemi_lib.errors import ChoiceError, RunError
from taemi_lib.evaluation import comparing
from taemi_lib.evaluation.scoring import evaluate
from taemi_lib.models import Output, System
from taemi_lib.models.base import REGISTERED
from taemi_lib.profiles import Model, Training
from taemi_lib.runs import load_run
from taemi_lib.training import train
from taemi_lib.workspace import Workspace

PACKAGE = models.names()
FILE = """
from torch import nn
from taemi_lib.models import Output, System


class Toy(System):
    name = "toy"

    def build(self, sizes):
        self.linear = nn.Linear(sizes.text_dim, 6)

    def forward(self, batch):
        self.check(batch)
        return Output(self.linear(batch.pooled * batch.present["text"][:, None]))
"""


@pytest.fixture
def file(tmp_path):
    """A Python file outside the package that defines the system "toy", without a docstring."""
    path = tmp_path / "own" / "toy_fusion.py"
    path.parent.mkdir()
    path.write_text(FILE)
    return path


def held():
    return dataset(10, seed=1, prefix="held")


def trained(system, folder, **changes):
    settings = {
        "model": Model(width=8, heads=2, mlp_width=8),
        "training": Training(learning_rate=1e-2, batch_size=8, epochs=2),
        "run_folder": folder,
        "progress": False,
        "device": "cpu",
    }
    return train(system, dataset(24), held(), **settings | changes)


def in_a_cell(text="text", words="A system of a notebook's cell.", module=__name__):
    """What a notebook's cell defines, each time it is run."""

    class InACell(System):
        __doc__, __module__ = words, module
        name = "in_a_cell"

        def build(self, sizes):
            self.linear = nn.Linear(getattr(sizes, f"{text}_dim"), 6)

        def forward(self, batch):
            return Output(self.linear(batch.pooled * batch.present[text][:, None]))

    return InACell


def test_a_file_makes_its_systems_known_behind_those_of_the_package(file):
    assert models.import_systems(file) == ["toy"]
    assert models.names() == [*PACKAGE, "toy"]
    found = models.find("toy")
    assert found.__module__ == "taemi_user_toy_fusion" and models.find(found) is found
    assert isinstance(models.create("toy", **SIZES), found)


def test_a_file_is_run_once_however_it_is_named(file, monkeypatch):
    models.import_systems(file)
    first = models.find("toy")
    monkeypatch.chdir(file.parent)
    assert models.import_systems("toy_fusion.py") == models.import_systems(str(file)) == ["toy"]
    assert models.find("toy") is first


def test_what_another_test_defined_is_forgotten():
    """Every test begins with the package's own systems: see conftest."""
    assert models.names() == PACKAGE


def test_it_is_trained_saved_loaded_and_evaluated_by_name_and_as_a_class(file, tmp_path):
    models.import_systems(file)
    run = trained("toy", tmp_path / "run")
    assert run.finished and run.metrics["system"] == run.config["system"] == "toy"
    again = evaluate(run.folder, held(), device="cpu", resamples=0)
    assert again.mean_rho == run.metrics["selection"]["mean_rho"]
    as_class = trained(models.find("toy"), tmp_path / "as a class")
    assert [entry["loss"] for entry in as_class.history] == [entry["loss"] for entry in run.history]
    assert trained(models.find("toy"), run.folder).metrics == run.metrics  # the same run, found
    with pytest.raises(RunError, match="system is 'toy' there, 'taemi' now"):
        trained("taemi", run.folder)


def test_its_checkpoint_says_what_it_is_though_the_class_has_no_docstring(file, tmp_path):
    models.import_systems(file)
    made = models.create("toy", **SIZES)
    made.save_pretrained(tmp_path / "saved")
    loaded = models.load(tmp_path / "saved")
    assert type(loaded) is type(made) and loaded.sizes == made.sizes
    assert torch.equal(loaded.linear.weight, made.linear.weight)
    assert (tmp_path / "saved" / "README.md").read_text().count("toy") >= 2


def test_a_run_of_a_file_that_is_not_imported_says_how_to_import_it(file, tmp_path):
    models.import_systems(file)
    folder = trained("toy", tmp_path / "run").folder
    del REGISTERED["toy"]
    for use in (lambda: load_run(folder).model(), lambda: evaluate(folder, held(), device="cpu")):
        with pytest.raises(ChoiceError, match="holds a 'toy'.*--import FILE.*import_systems"):
            use()


def test_a_class_of_a_notebook_trains_without_a_file(tmp_path):
    run = trained(in_a_cell(), tmp_path)
    scores = evaluate(run, held(), device="cpu", resamples=0)
    assert np.isfinite(scores.predictions.prediction).all()


def test_a_cell_that_is_run_twice_replaces_its_class():
    first = in_a_cell()
    place = models.names().index("in_a_cell")
    second = in_a_cell(words="Changed.")
    assert models.find("in_a_cell") is second is not first
    assert models.names().index("in_a_cell") == place and len(models.names()) == len(PACKAGE) + 1


@pytest.mark.parametrize("name", ["taemi", "mult", "toy"])
def test_a_name_that_another_class_has_is_refused_naming_both(file, name):
    models.import_systems(file)
    there = models.find(name)
    with pytest.raises(ChoiceError) as error:
        type("Mine", (System,), {"name": name, "__module__": "notebook"})
    for part in (repr(name), "notebook.Mine", f"{there.__module__}.{there.__qualname__}"):
        assert part in str(error.value)
    assert models.find(name) is there


def test_a_subclass_without_a_name_is_not_a_system_of_its_own(file):
    models.import_systems(file)

    class Base(models.find("toy")):
        pass

    assert models.names() == [*PACKAGE, "toy"]
    with pytest.raises(ChoiceError, match='Base has no name: give the class `name = "..."`'):
        models.find(Base)


@pytest.mark.parametrize(
    "text, expected",
    [
        (None, "no such file"),
        ("x = 1\n", "defines no system"),
        (FILE + "\n1 / 0\n", "ZeroDivisionError"),
        ("def broken(:\n", "SyntaxError"),
        ("import a_package_that_is_not_there\n", "a_package_that_is_not_there"),
        (FILE.replace('"toy"', '"taemi"'), "named 'taemi' is there already"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_leaves_nothing_behind(tmp_path, text, expected):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ChoiceError, match=expected) as error:
        models.import_systems(path)
    assert str(path) in str(error.value) and models.names() == PACKAGE
    path.write_text(FILE)  # repaired, in the same session
    assert models.import_systems(path) == ["toy"]


def test_a_folder_and_a_file_of_another_kind_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text(FILE)
    for path, expected in ((tmp_path, "no such file"), (tmp_path / "notes.txt", "end in .py")):
        with pytest.raises(ChoiceError, match=expected):
            models.import_systems(path)


def test_two_files_of_the_same_name_are_not_mixed_up(file, tmp_path):
    models.import_systems(file)
    other = tmp_path / file.name
    other.write_text(FILE)
    with pytest.raises(ChoiceError, match="rename one of them") as error:
        models.import_systems(other)
    assert str(file) in str(error.value) and str(other) in str(error.value)


def test_sizes_that_are_not_allowed_are_named_in_one_line():
    for change, expected in (
        ({"width": 7}, "width = 7 is not a multiple of model.heads = 2"),
        ({"dropout": 2.0}, "dropout = 2.0: .*less than 1"),
        ({"text_dim": "six"}, "text_dim = 'six': .*integer"),
        ({"widht": 8}, "taemi has no size widht; its sizes are: audio_dim"),
    ):
        with pytest.raises(ChoiceError, match=expected) as error:
            models.create("taemi", **SIZES | change)
        assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------------------
# with the commands, on a small generated data set; trainings run in processes of their own


# few clips, of a seed with which every emotion varies in every split
TINY = profiles.PROFILES["smoke"].changed(
    {"data.clips": 28, "data.seed": 8, "training.batch_size": 8, "model.width": 16}
)


def workspace(folder, **options):
    return Workspace(TINY, folder / "data", folder / "runs", "cpu", progress=False, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with clips, features and the profile as a file."""
    folder = tmp_path_factory.mktemp("own_system")
    (folder / "tiny.toml").write_text(profiles.to_toml(TINY))
    workspace(folder).features()
    return folder


def forget():
    """As in a new session: the file has not been imported."""
    REGISTERED.pop("toy", None)
    sys.modules.pop(f"{models.USER}toy_fusion", None)


def taemi(world, command, *arguments):
    """The exit code of a command that is given in a new session."""
    forget()
    places = {"profile": "tiny.toml", "data-root": "data", "runs-root": "runs"}
    given = [text for name, at in places.items() for text in (f"--{name}", str(world / at))]
    return cli.main([command, *map(str, arguments), *given, "--device", "cpu"])


@pytest.mark.slow
def test_the_commands_train_and_evaluate_it_with_import(world, file, capsys):
    assert taemi(world, "train", "toy", "--import", file, "--seeds", 2, "--processes", 2) == 0
    printed = capsys.readouterr().out
    folders = [workspace(world).run_folder("toy", seed) for seed in (0, 1)]
    assert all(load_run(folder).finished and str(folder) in printed for folder in folders)
    assert taemi(world, "evaluate", "toy", "--import", file) == 0
    by_name = capsys.readouterr().out
    assert taemi(world, "evaluate", folders[0], "--import", file) == 0
    assert capsys.readouterr().out == by_name and "mean rho" in by_name
    assert taemi(world, "evaluate", folders[0]) == 2  # not imported
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "'toy'" in message and "--import FILE" in message


@pytest.mark.slow
def test_compare_says_whether_it_differs_from_taemi(world, file, capsys):
    command = ["compare", "toy", "--seeds", 2, "--trials", 2, "--results", world / "tables"]
    assert taemi(world, *command) == 2  # before anything is trained
    assert "'toy'" in capsys.readouterr().err and not (world / "tables").exists()
    assert taemi(world, *command, "--import", file) == 0
    (row,) = [
        line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("toy")
    ]
    assert any(verdict in row for verdict in comparing.VERDICTS)
    table = pd.read_csv(world / "tables" / "comparisons.csv")
    assert table[["table", "system", "reference"]].values.tolist() == [["others", "toy", "taemi"]]
    scores = pd.read_csv(world / "tables" / "runs.csv")
    assert set(scores["system"]) == {"toy", "taemi"} and set(scores["seed"]) == {0, 1}


@pytest.mark.slow
def test_a_workspace_takes_a_class_wherever_it_takes_a_name(world, file):
    models.import_systems(file)
    found, here = models.find("toy"), workspace(world, processes=2)
    run = here.train(found, seed=3)
    assert run.folder == here.run_folder("toy", 3) == here.run_folder(found, 3)
    both = here.runs([found], seeds=(3, 4))  # one is there, a worker imports the file for the other
    assert list(both) == [("toy", 3), ("toy", 4)] and both["toy", 3].metrics == run.metrics
    forget()
    with pytest.raises(ChoiceError, match=r"unknown system 'toy'.*--import FILE"):
        here.train("toy", seed=3)


@pytest.mark.slow
def test_a_class_of_the_main_module_trains_where_it_is_defined_beside_others(world):
    mine = in_a_cell(module="__main__")  # no other process can see it
    found = workspace(world, processes=2).runs([mine, "text_only"], seeds=(0,))
    assert list(found) == [("in_a_cell", 0), ("text_only", 0)]
    assert all(run.finished for run in found.values())


def test_a_class_that_no_other_process_can_import_is_trained_in_this_one():
    class OnlyHere(models.find("text_only")):
        name = "only_here"

    assert workspaces._only_here(OnlyHere)
    assert not workspaces._only_here(models.find("taemi"))

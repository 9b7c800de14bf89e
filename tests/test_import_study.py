"""From a feature file to a comparison, on the command line: every format, and a file whose true
answer is known."""

import made_features as made
import pandas as pd
import pytest

from taemi_lib import cli
from taemi_lib.runs import load_run

pytestmark = pytest.mark.slow
TINY = {"training.epochs": 1, "model.width": 8, "model.heads": 2, "model.mlp_width": 8}


def asked(tmp_path, *command, **settings):
    """The command's exit code, on features in tmp_path / "store"."""
    places = ["--data-root", str(tmp_path / "data"), "--runs-root", str(tmp_path / "runs")]
    given = {"data.features": str(tmp_path / "store")} | TINY | settings
    for name, value in given.items():
        places += ["--set", f"{name}={value}"]
    return cli.main([*command, "--profile", "features", *places])


# the other two are of the reader "mmsa", too
@pytest.mark.parametrize("name", sorted(set(made.FORMATS) - {"mmsa_aligned", "sims"}))
def test_every_format_goes_from_import_to_a_comparison(name, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    _, source = made.FORMATS[name](tmp_path / "source")
    assert cli.main(["import", str(source), "--to", str(tmp_path / "store")]) == 0
    system = "audio_only"
    assert asked(tmp_path, "train", system, "--seeds", "1") == 0
    assert asked(tmp_path, "evaluate", system) == 0
    capsys.readouterr()
    results = ["--results", str(tmp_path / "results"), "--processes", "1"]
    assert asked(tmp_path, "compare", system, "--seeds", "2", *results) == 0
    assert f"  {system} " in capsys.readouterr().out
    runs = pd.read_csv(tmp_path / "results" / "runs.csv")
    assert set(runs["system"]) == {"taemi", system} and runs["mean_rho"].notna().all()


def best(folder):
    run = load_run(folder)
    return run.history[run.best_epoch - 1]["selection_rho"]


@pytest.mark.parametrize("system", ["audio_only", "concat", "taemi", "mult"])
def test_a_system_that_hears_finds_labels_that_only_the_sound_knows(system, tmp_path):
    counts = {"train": 96, "valid": 24, "test": 24}
    made.mmsa(tmp_path / "mosi.pkl", counts=counts)
    assert cli.main(["import", str(tmp_path / "mosi.pkl"), "--to", str(tmp_path / "store")]) == 0
    learning = {"training.epochs": 40, "training.learning_rate": 0.01, "model.width": 16}
    assert asked(tmp_path, "train", system, "--seed", "0", **learning) == 0
    (folder,) = (tmp_path / "runs").glob(f"*/systems/*/{system}/seed0")
    assert best(folder) > 0.9
    if system == "audio_only":  # and one that does not hear does not
        assert asked(tmp_path, "train", "text_only", "--seed", "0", **learning) == 0
        (folder,) = (tmp_path / "runs").glob("*/systems/*/text_only/seed0")
        assert best(folder) < 0.7

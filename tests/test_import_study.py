"""From a feature file to a comparison, on the command line: every format, and a file whose true
answer is known."""

import made_features as made
import pandas as pd
import pytest

from taemi_lib import cli, models
from taemi_lib.profiles import Model, Training, load
from taemi_lib.training import train
from taemi_lib.workspace import Workspace

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
    assert asked(tmp_path, "compare", system, "--seeds", "2", "--trials", "2", *results) == 0
    assert f"  {system} " in capsys.readouterr().out
    runs = pd.read_csv(tmp_path / "results" / "runs.csv")
    assert set(runs["system"]) == {"taemi", system} and runs["mean_rho"].notna().all()


# These are not shown the sound, or say nothing else than that they are not.
DEAF = ("text_only", "vision_only", "vit_baseline")
# Its pseudo-labels stand still in the first epoch, and its layers are many.
SLOW = {"tetfn2023": Training(epochs=24, patience=24, learning_rate=0.01, batch_size=16)}
QUICK = Training(epochs=12, patience=12, learning_rate=0.02, batch_size=16)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """Imported features whose labels are a function of the sound alone."""
    folder = tmp_path_factory.mktemp("heard")
    made.mmsa(folder / "mosi.pkl", counts={"train": 64, "valid": 32, "test": 8})
    assert cli.main(["import", str(folder / "mosi.pkl"), "--to", str(folder / "store")]) == 0
    return Workspace(load("features", {"data.features": str(folder / "store")}), progress=False)


@pytest.mark.parametrize("name", models.names())
def test_a_system_finds_labels_that_only_the_sound_knows_if_it_hears(name, heard, tmp_path):
    parts = heard.datasets()
    run = train(
        name,
        parts["train"],
        parts["selection"],
        model=Model(width=16, heads=2, mlp_width=16, dropout=0.0, standardise=True),
        training=SLOW.get(name, QUICK),
        run_folder=tmp_path,
        progress=False,
    )
    found = run.metrics["selection"]["mean_rho"]
    assert found < 0.5 if name in DEAF else found > 0.8

"""The made-up feature file of notebook A2, and the published tables beside it."""

import pickle

import numpy as np
import pytest

from taemi_lib.data.readers import example
from taemi_lib.evaluation import published, sentiment
from taemi_lib.features.importing import import_features
from taemi_lib.features.store import Store

COUNTS = {"train": 200, "valid": 40, "test": 60}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "new" / "made-up.pkl"
    known = example.write_example(path, 3, COUNTS)
    return path, known, pickle.loads(path.read_bytes())


def labels(whole):
    return np.concatenate([part["regression_labels"] for part in whole.values()])


def test_the_same_seed_makes_the_same_file_and_another_seed_another(made, tmp_path):
    for seed in (3, 4):
        example.write_example(tmp_path / f"{seed}.pkl", seed, COUNTS)
    assert (tmp_path / "3.pkl").read_bytes() == made[0].read_bytes()
    assert (tmp_path / "4.pkl").read_bytes() != made[0].read_bytes()


def test_it_is_imported_as_a_file_of_mmsa_and_every_step_comes_back(made, tmp_path):
    path, _, whole = made
    imported = import_features(path, tmp_path / "store", progress=False)
    assert imported.format == "mmsa" and imported.metrics == "sentiment"
    assert imported.splits == {"train": 200, "selection": 40, "test": 60}
    assert imported.widths == example.WIDTHS
    store, part = Store(tmp_path / "store"), whole["test"]
    for row in range(COUNTS["test"]):
        clip = store.read(f"synthetic_test_{row // 4:03d}__{row % 4}")
        for name in ("audio", "vision"):
            steps, found = part[f"{name}_lengths"][row], getattr(clip, name)
            expected = np.where(np.isinf(part[name][row, :steps]), 0, part[name][row, :steps])
            assert (found is None) == (steps == 0)
            assert steps == 0 or np.array_equal(found.values, expected)


def test_it_has_what_makes_real_files_hard(made):
    part = made[2]["train"]
    assert np.isneginf(part["audio"]).any() and not np.isnan(part["audio"]).any()
    for name in ("audio", "vision"):
        steps = np.array(part[f"{name}_lengths"])
        assert 0 < (steps == 0).mean() < 0.15 and len(set(steps)) > 5
        behind = np.arange(part[name].shape[1]) >= steps[:, None]
        assert not part[name][behind].any()
    assert set(np.unique(labels(made[2]) % 0.25)) == {0.0}  # four raters
    assert (labels(made[2]) == 0).any() and (labels(made[2]) % 1 == 0.5).any()
    assert np.abs(labels(made[2])).max() <= 3


def test_only_the_moment_that_the_words_name_decides_the_label(made):
    _, known, whole = made
    felt, late = known["feelings"], known["late"].astype(int)
    rows = np.arange(len(felt))
    names = [part["raw_text"] for part in whole.values()]
    said = [
        any(w in text.split() for w in example.MOMENTS["late"]) for part in names for text in part
    ]
    assert np.array_equal(said, known["late"])
    assert np.corrcoef(labels(whole), felt[rows, late])[0, 1] > 0.8
    assert abs(np.corrcoef(labels(whole), felt[rows, 1 - late])[0, 1]) < 0.2


def test_published_scores_belong_to_a_data_set_and_have_our_names_and_units():
    name, table = published.mmsa(1284)
    assert name == "MOSI" and len(table) == 9
    assert table.loc["lf_dnn", "mae"] == 0.9548 and table.loc["self_mm", "acc_2_non0"] == 0.8482
    name, table = published.mmsa(16326)
    assert name == "MOSEI" and table.loc["mult", "corr"] == 0.7331
    assert set(table.columns) < set(sentiment.SENTIMENT)
    assert published.mmsa(400) is None

"""The committed results: complete, consistent with each other, quoted rightly by the README, and
what the issue of the claim demands."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from taemi_lib import experiments, models
from taemi_lib.data.synthmimic.world import REGIMES
from taemi_lib.evaluation import comparing
from taemi_lib.evaluation.comparing import Comparison
from taemi_lib.experiments import (
    EVERYWHERE,
    MASKED,
    NULL_SYSTEMS,
    PRIMARY,
    REFERENCE,
    SIZE_SYSTEMS,
    SIZES,
    TABLES,
    space,
)
from taemi_lib.experiments import search as searching
from taemi_lib.experiments.tables import table_bytes
from taemi_lib.profiles import EMOTIONS, PROFILES, ROOT

RESULTS = ROOT / "results"
SEEDS = list(range(5))
TABLED = {REFERENCE, *(system for table in TABLES.values() for system in table)}


def read(name):
    return pd.read_csv(RESULTS / f"{name}.csv")


def verdict(regime, table, system):
    rows = read("comparisons").set_index(["regime", "table", "system"])
    return rows.loc[(regime, table, system)]


def scored(regime):
    """The systems that the committed results hold in a regime."""
    runs = read("runs")
    return set(runs.loc[runs["regime"] == regime, "system"])


def test_every_system_of_the_tables_exists():
    """A new system is in none of them: it is compared as one of the others, and may be missing from
    results/ until somebody runs the grid."""
    assert set(models.names()) >= TABLED


def test_the_committed_results_hold_every_system_that_something_rests_on():
    """The paper's, and those of the claim and of the tables beside the grid. Another one may be
    missing, but then from all tables."""
    held = scored(REGIMES[0])
    assert held >= {*read("paper")["system"], *PRIMARY[1:], *MASKED, *SIZE_SYSTEMS, *NULL_SYSTEMS}
    assert set(read("search")["system"]) == held
    for name in ("comparisons", "attention", "training_size", "reference_rate"):
        assert set(read(name)["system"]) <= held, name
    compared = read("comparisons")
    compared = compared[compared["regime"] == REGIMES[0]]
    assert set(compared["system"]) | {REFERENCE} == held
    keys = ["regime", "system", "seed", "split"]
    assert read("ccc")[keys].equals(read("runs")[keys])


@pytest.mark.parametrize("regime", REGIMES)
def test_every_system_has_all_its_runs(regime):
    runs = read("runs")
    expected = scored(REGIMES[0]) & (TABLED if regime == REGIMES[0] else set(EVERYWHERE))
    for split, systems in (
        ("test", expected),
        ("selection_official_style", expected),
        ("test_masked", set(MASKED)),
    ):
        seeds = (
            runs[(runs["regime"] == regime) & (runs["split"] == split)]
            .groupby("system")["seed"]
            .apply(sorted)
        )
        assert set(models.names()) >= set(seeds.index) >= systems
        assert all(found == SEEDS for found in seeds)


def test_comparisons_are_differences_of_the_runs():
    runs, compared = read("runs"), read("comparisons")
    mean = runs.groupby(["regime", "system", "split"])["mean_rho"].mean()
    for row in compared.itertuples():
        split = "test_masked" if row.table == "table3_masked" else "test"
        difference = mean[row.regime, row.system, split] - mean[row.regime, row.reference, split]
        assert row.delta == pytest.approx(difference, abs=2e-4), row
        assert row.low <= row.delta <= row.high
        clear = Comparison(row.delta, row.low, row.high, 0, 0, 0).verdict
        assert row.verdict == clear and (row.p_holm <= 0.05) == (
            clear != comparing.NO_DIFFERENCE
        ), row
    np.testing.assert_allclose(runs[list(EMOTIONS)].mean(axis=1), runs["mean_rho"], atol=1e-4)


def test_the_rate_of_each_system_is_the_best_of_three_on_the_selection_split():
    runs, search = read("runs"), read("search")
    for system, tried in search.groupby("system"):
        assert len(tried) == 3 and tried["chosen"].sum() == 1
        best = tried[tried["chosen"]].iloc[0]
        assert best["selection_rho"] == tried["selection_rho"].max()
        assert set(runs[runs["system"] == system]["learning_rate"]) == {best["learning_rate"]}


def test_systems_with_another_rate_than_the_reference_were_tried_with_it_elsewhere():
    runs, tried = read("runs"), read("reference_rate")
    rates = runs.groupby("system")["learning_rate"].first()
    own = runs.groupby("regime")["system"].unique()
    expected = {
        (regime, system)
        for regime in REGIMES[1:]
        for system in own[regime]
        if rates[system] != rates[REFERENCE]
    }
    assert set(zip(tried["regime"], tried["system"])) == expected and len(expected) > 4
    clear = (tried["low"] > 0) | (tried["high"] < 0)
    assert (clear == (tried["verdict"] != comparing.NO_DIFFERENCE)).all()
    both = tried.merge(read("comparisons"), on=["regime", "table", "system", "reference"])
    both = both[both["table"] != "table3_masked"]
    assert (both["verdict_x"] != both["verdict_y"]).sum() == 6
    assert "six of the verdicts on other systems depend on the learning rate" in " ".join(
        (ROOT / "README.md").read_text().split()
    )


def test_the_mechanism_works_where_words_say_what_counts():
    """Regime cue, intervals adjusted for the whole table."""
    regime, system, control = PRIMARY
    primary = verdict(regime, "primary", system)
    assert primary["reference"] == control and primary["low"] > 0
    for table, rival in (
        ("controls", "constant_query"),
        ("table3", "concat"),
        ("controls", "shuffled_query"),
        ("controls", "shuffled_text"),
        ("controls", "text_only"),
        ("controls", "audio_only"),
        ("controls", "vision_only"),
    ):
        assert verdict(regime, table, rival)["high"] < 0, rival
    ratios = read("attention")
    ratios = ratios[ratios["regime"] == regime].groupby("system")[["audio", "vision"]].median()
    assert ratios.loc["taemi"].min() > 2 and (ratios.loc["constant_query"] - 1).abs().max() < 0.3


def test_a_system_is_not_told_from_itself():
    null = read("planted_null")
    assert set(null["system"]) == set(NULL_SYSTEMS) and (null["system"] == null["reference"]).all()
    assert (null["verdict"] == comparing.NO_DIFFERENCE).all()


def test_the_sweep_has_all_sizes():
    sizes = read("training_size")
    counts = sizes.groupby(["system", "train_clips"]).size()
    assert set(sizes["system"]) == set(SIZE_SYSTEMS) and (counts == len(SEEDS)).all()
    assert sorted(set(sizes["train_clips"]))[:-1] == list(SIZES)


def scores_in_cue(runs):
    """Of each system on the test split: mean and SD of rho over seeds."""
    rows = runs[(runs["regime"] == "cue") & (runs["split"] == "test")]
    return rows.groupby("system")["mean_rho"].agg(["mean", "std"])


def test_the_readme_quotes_the_results():
    """Rows of its table: | name | rho +- SD, preset | rho +- SD, searched, or - | difference [low,
    high] of the searched ones | verdict |. What was not searched has no verdict."""
    preset, searched = scores_in_cue(read("runs")), scores_in_cue(fair("runs"))
    compared = fair("comparisons")
    compared = compared[(compared["regime"] == "cue") & (compared["reference"] == REFERENCE)]
    compared = compared[compared["table"] != "table3_masked"].set_index("system")
    number = r"([+-]?\.\d+)"
    score = rf"\**{number} ± {number}\**"
    row = re.compile(
        rf"^\| \**(\w+)\**[^|]*\| {score} \| (?:{score}|-) \| "
        rf"(?:{number} \[{number}, {number}\])? ?\| ([a-z ]*)\|$",
        re.M,
    )
    rows = row.findall((ROOT / "README.md").read_text())
    found = {name: (numbers, said.strip()) for name, *numbers, said in rows}
    assert REFERENCE in found and len(found) >= 12
    for system, (numbers, said) in found.items():
        expected = list(preset.loc[system])
        if system in searched.index:
            expected += list(searched.loc[system])
            if system != REFERENCE:
                expected += list(compared.loc[system, ["delta", "low", "high"]])
                assert said == compared.loc[system, "verdict"]
        quoted = [float(each) for each in numbers if each]
        assert quoted == pytest.approx(expected, abs=0.00051), system
    assert {*searched.index} <= {*found}  # all that were searched
    ratios = read("attention")
    ratios = (
        ratios[ratios["regime"] == "cue"]
        .groupby("system")[["audio", "vision"]]
        .median()
        .dropna()
        .round()
        .astype(int)
    )
    sentence = (
        "is {audio} : 1 (sound) and {vision} : 1 (face) for taemi, "
        "1 : 1 for the constant query".format(**ratios.loc["taemi"])
    )
    assert sentence in " ".join((ROOT / "README.md").read_text().split())
    assert (ratios.loc["constant_query"] == 1).all()


def test_the_readme_quotes_the_check_with_another_text_encoder():
    def scores(name):
        rows = read(name)
        rows = rows[(rows["regime"] == "cue") & (rows["split"] == "test")]
        return {
            system: f"{rho:.3f}".lstrip("0")
            for system, rho in rows.groupby("system")["mean_rho"].mean().items()
        }

    mean, real = scores("runs"), scores("minilm/runs")
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"(`text_gated`) reaches {mean['text_gated']}" in readme
    quoted = f"taemi comes to {real['taemi']}, that control to {real['text_gated']} and "
    assert f"{quoted}`constant_query` to {real['constant_query']}" in readme
    primary = read("minilm/comparisons").set_index("table").loc["primary"]
    assert primary["low"] > 0 and sorted(set(read("minilm/runs")["seed"])) == SEEDS


def test_the_readme_says_where_the_claim_ends():
    """In which label sets TAEMI is better than a constant query, and in which nothing is found."""
    words = {regime: verdict(regime, "controls", "constant_query")["verdict"] for regime in REGIMES}
    better = [f"`{regime}`" for regime, word in words.items() if word == comparing.WORSE]
    none = [f"`{regime}`" for regime, word in words.items() if word == comparing.NO_DIFFERENCE]
    assert len(better) + len(none) == len(REGIMES)
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"taemi is better in {' and '.join(better)}" in readme
    found = f"in {', '.join(none[:-1])} and {none[-1]} no difference could be detected"
    assert found in readme


# --- results/fair: each system with the settings that its own search chose


AFTER = 6  # settings that a system was given in the other regimes


def fair(name):
    return pd.read_csv(RESULTS / "fair" / f"{name}.csv")


def test_every_searched_system_had_the_same_settings_to_choose_from():
    tried = experiments.read_table(RESULTS / "fair" / "search.csv")
    demo = PROFILES["demo"]
    for (regime, name), rows in tried.groupby(["regime", "system"]):
        drawn = rows[rows["drawn"]]
        count = searching.TRIALS if regime == REGIMES[0] else AFTER
        assert len(drawn) == count and list(drawn["trial"]) == list(range(count))
        if regime == REGIMES[0]:
            asked = space.drawn(demo, models.find(name), count)
        else:  # what did best in the first one
            asked = experiments.best_of(tried, REGIMES[0], name, count)
        for row, settings in zip(drawn.to_dict("records"), asked, strict=True):
            assert row[space.OWN].split() == settings.pop(space.OWN, []), (regime, name)
            assert {key: row[key] for key in settings} == settings, (regime, name)
        best = rows[rows["chosen"]]
        assert len(best) == 1 and best["score"].iloc[0] == rows["score"].max()
        assert (rows[rows["ended"] == "whole"][["seed_0", "seed_1"]].notna()).all(axis=None)
        # nothing was chosen at the edge of its range without the value beyond having been tried
        chosen = experiments.chosen(rows)[regime, name]
        among_drawn = rows[rows["drawn"]]
        best_drawn = among_drawn.loc[among_drawn["score"].idxmax()]
        settings = experiments.chosen(
            among_drawn.assign(chosen=among_drawn.index == best_drawn.name)
        )
        further = list(space.wider(demo, models.find(name), settings[regime, name]))
        assert len(rows) == count + len(further)
        assert chosen in [settings[regime, name], *further]


def test_the_fair_comparison_is_of_the_chosen_settings_and_of_all_seeds():
    runs, tried = fair("runs"), experiments.read_table(RESULTS / "fair" / "search.csv")
    chosen = experiments.chosen(tried)
    test = runs[runs["split"] == "test"]
    assert {*PRIMARY[1:], "text_gated"} <= set(test["system"])
    for (regime, name), rows in test.groupby(["regime", "system"]):
        assert sorted(rows["seed"]) == SEEDS
        assert set(rows["learning_rate"]) == {chosen[regime, name]["training.learning_rate"]}
    mean = test.groupby(["regime", "system"])["mean_rho"].mean()
    compared = fair("comparisons")
    for row in compared[compared["table"] != "table3_masked"].itertuples():
        difference = mean[row.regime, row.system] - mean[row.regime, row.reference]
        assert row.delta == pytest.approx(difference, abs=2e-4), row


def test_the_readme_says_what_the_fair_search_changed():
    readme = " ".join((ROOT / "README.md").read_text().split())
    searched, preset = (
        table[table["table"] == "primary"].iloc[0]
        for table in (fair("comparisons"), read("comparisons"))
    )
    assert searched["verdict"] == preset["verdict"] == comparing.BETTER
    for row in (searched, preset):
        said = f"{row['delta']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]".replace("0.", ".")
        assert said in readme
    assert 1 - searched["delta"] / preset["delta"] == pytest.approx(4 / 5, abs=0.02)
    count = len(scores_in_cue(fair("runs")))
    assert f"so far for {count} systems in `cue`" in readme


def test_anybody_can_compute_the_fair_intervals_again_without_training():
    stored, committed = experiments.read_predictions(RESULTS / "fair"), fair("comparisons")
    again = pd.read_csv(io.BytesIO(table_bytes(stored.comparisons)))
    named = ["regime", "table", "system", "reference", "verdict"]
    assert again[named].equals(committed[named])
    numbers = ["delta", "low", "high"]
    assert again[numbers].to_numpy() == pytest.approx(committed[numbers].to_numpy(), abs=2e-4)


def test_the_fair_verdict_stands_with_whole_voices_drawn_and_a_planted_null_is_not_found():
    stored = experiments.read_predictions(RESULTS / "fair")
    primary = stored.compare(*PRIMARY, by_group=True)
    assert primary.verdict == fair("comparisons").set_index("table").loc["primary", "verdict"]
    null = fair("planted_null")
    assert set(null["system"]) == set(NULL_SYSTEMS) and (null["system"] == null["reference"]).all()
    assert (null["verdict"] == comparing.NO_DIFFERENCE).all()

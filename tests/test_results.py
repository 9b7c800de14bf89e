"""The committed results: complete, consistent with each other, quoted rightly by the README, and
what the issue of the claim demands."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from taemi_lib import experiments, models
from taemi_lib.data.noise import NOISES
from taemi_lib.data.synthmimic.world import REGIMES
from taemi_lib.evaluation import comparing
from taemi_lib.evaluation.comparing import Comparison
from taemi_lib.experiments import (
    MASKED,
    NULL_SYSTEMS,
    PRIMARY,
    REFERENCE,
    SIZE_SYSTEMS,
    SIZES,
    TABLES,
    robustness,
    space,
)
from taemi_lib.experiments import search as searching
from taemi_lib.experiments.tables import table_bytes
from taemi_lib.profiles import EMOTIONS, PROFILES, ROOT

RESULTS = ROOT / "results"
SEEDS = list(range(5))
AFTER = searching.further(searching.TRIALS)  # settings given in the other regimes
# in the other regimes, whatever else the tables hold there
SEARCHED_ELSEWHERE = {
    *(REFERENCE, "self_attention_only", "concat"),
    *("constant_query", "text_gated", "text_only"),
}
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
    """All of the paper's tables, and those of the claim and of the tables beside the grid. Another
    one may be missing, but then from all tables."""
    held = scored(REGIMES[0])
    assert held >= TABLED
    assert held >= {*PRIMARY[1:], *MASKED, *SIZE_SYSTEMS, *NULL_SYSTEMS}
    search = experiments.read_table(RESULTS / "search.csv")
    for regime in REGIMES:
        assert set(search.loc[search["regime"] == regime, "system"]) == scored(regime), regime
    for name in ("comparisons", "attention", "training_size"):
        assert set(read(name)["system"]) <= held, name
    compared = read("comparisons")
    compared = compared[compared["regime"] == REGIMES[0]]
    assert set(compared["system"]) | {REFERENCE} == held
    keys = ["regime", "system", "seed", "split"]
    assert read("ccc")[keys].equals(read("runs")[keys])


@pytest.mark.parametrize("regime", REGIMES)
def test_every_system_has_all_its_runs(regime):
    runs = read("runs")
    held = scored(regime)
    assert held >= SEARCHED_ELSEWHERE
    for split, systems in (
        ("test", held),
        ("selection_official_style", held),
        ("test_masked", held & set(MASKED)),
    ):
        seeds = (
            runs[(runs["regime"] == regime) & (runs["split"] == split)]
            .groupby("system")["seed"]
            .apply(sorted)
        )
        assert set(models.names()) >= set(seeds.index) == systems
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
    """Rows of its table: | name | rho +- SD, preset | rho +- SD, searched | difference [low, high]
    of the searched ones | verdict |; "-" for a system that came after the preset."""
    preset, searched = scores_in_cue(read("preset/runs")), scores_in_cue(read("runs"))
    compared = read("comparisons")
    compared = compared[(compared["regime"] == "cue") & (compared["reference"] == REFERENCE)]
    compared = compared[compared["table"] != "table3_masked"].set_index("system")
    number = r"([+-]?\.\d+)"
    score = rf"\**{number} ± {number}\**"
    row = re.compile(
        rf"^\| \**(\w+)\**[^|]*\| (?:{score}|-) \| {score} \| "
        rf"(?:{number} \[{number}, {number}\])? ?\| ([a-z ]*)\|$",
        re.M,
    )
    rows = row.findall((ROOT / "README.md").read_text())
    found = {name: (numbers, said.strip()) for name, *numbers, said in rows}
    assert REFERENCE in found and len(found) >= 12
    for system, (numbers, said) in found.items():
        expected = [*(preset.loc[system] if system in preset.index else ()), *searched.loc[system]]
        if system != REFERENCE:
            expected += list(compared.loc[system, ["delta", "low", "high"]])
            assert said == compared.loc[system, "verdict"]
        quoted = [float(each) for each in numbers if each]
        assert quoted == pytest.approx(expected, abs=0.00051), system
    assert {*searched.index} == {*found}
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

    mean, real = scores("preset/runs"), scores("preset/minilm/runs")
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"(`text_gated`) reaches {mean['text_gated']}" in readme
    quoted = f"taemi comes to {real['taemi']}, that control to {real['text_gated']} and "
    assert f"{quoted}`constant_query` to {real['constant_query']}" in readme
    primary = read("preset/minilm/comparisons").set_index("table").loc["primary"]
    assert primary["low"] > 0 and sorted(set(read("preset/minilm/runs")["seed"])) == SEEDS


def test_the_readme_says_where_the_claim_ends():
    """In which label sets TAEMI is better than a constant query, worse, or not to be told from it;
    and what was searched there."""
    words = {regime: verdict(regime, "controls", "constant_query")["verdict"] for regime in REGIMES}
    named = {}
    for word in comparing.VERDICTS:
        *first, last = ["", *(f"`{regime}`" for regime, found in words.items() if found == word)]
        named[word] = " and ".join(filter(None, [", ".join(filter(None, first)), last]))
    readme = " ".join((ROOT / "README.md").read_text().split())
    for word, said in (
        (comparing.WORSE, "taemi is better in {}"),
        (comparing.BETTER, "the constant query is better in {}"),
        (comparing.NO_DIFFERENCE, "no difference could be detected in {}"),
    ):
        assert (said.format(named[word]) in readme) == bool(named[word]), word
        assert named[word] or said.format("") not in readme
    for regime in REGIMES[1:]:
        row = verdict(regime, "controls", "constant_query")
        said = f"{row['delta']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]".replace("0.", ".")
        assert f"`{regime}` {said}" in readme, regime
    counts = {len(scored(regime)) for regime in REGIMES[1:]}
    low, high = min(counts), max(counts)
    few = f"{low}" if low == high else f"{low} to {high}"
    assert f"{len(scored(REGIMES[0]))} systems in `cue`, {few} in the other label sets" in readme


# --- each system with the settings that its own search chose


def test_every_searched_system_had_the_same_settings_to_choose_from():
    tried = experiments.read_table(RESULTS / "search.csv")
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
    runs, tried = read("runs"), experiments.read_table(RESULTS / "search.csv")
    chosen = experiments.chosen(tried)
    test = runs[runs["split"] == "test"]
    assert {*PRIMARY[1:], "text_gated"} <= set(test["system"])
    for (regime, name), rows in test.groupby(["regime", "system"]):
        assert sorted(rows["seed"]) == SEEDS
        assert set(rows["learning_rate"]) == {chosen[regime, name]["training.learning_rate"]}


def test_the_readme_says_what_the_fair_search_changed():
    readme = " ".join((ROOT / "README.md").read_text().split())
    searched, preset = (
        table[table["table"] == "primary"].iloc[0]
        for table in (read("comparisons"), read("preset/comparisons"))
    )
    assert searched["verdict"] == preset["verdict"] == comparing.BETTER
    for row in (searched, preset):
        said = f"{row['delta']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]".replace("0.", ".")
        assert said in readme
    assert 1 - searched["delta"] / preset["delta"] == pytest.approx(4 / 5, abs=0.02)


def test_anybody_can_compute_the_intervals_again_without_training():
    stored, committed = experiments.read_predictions(RESULTS), read("comparisons")
    again = pd.read_csv(io.BytesIO(table_bytes(stored.comparisons)))
    named = ["regime", "table", "system", "reference", "verdict"]
    assert again[named].equals(committed[named])
    numbers = ["delta", "low", "high"]
    assert again[numbers].to_numpy() == pytest.approx(committed[numbers].to_numpy(), abs=2e-4)


def test_the_verdict_stands_with_whole_voices_drawn():
    stored = experiments.read_predictions(RESULTS)
    primary = stored.compare(*PRIMARY, by_group=True)
    assert primary.verdict == read("comparisons").set_index("table").loc["primary", "verdict"]


# --------------------------------------------------------------------------------------------------
# results/robustness


def robust(name):
    table = RESULTS / "robustness" / f"{name}.csv"
    return pd.read_csv(table, keep_default_na=False, dtype={"clip_id": str})


def test_the_table_of_losses_holds_every_condition_and_system_of_the_plan():
    points, shown = robust("points"), robust("conditions")
    keys = ["protocol", "lost", "rate"]
    planned = pd.DataFrame([condition.key for condition in robustness.LOSSES.conditions])
    pd.testing.assert_frame_equal(shown[keys], planned, check_dtype=False)
    assert shown["clips"].nunique() == len(shown)  # no condition is another one's twin
    assert set(points["system"]) == set(experiments.ROBUST)
    assert len(points) == len(shown) * len(experiments.ROBUST)
    assert len(robust("areas")) == len(robustness.LOSSES.curves) * len(experiments.ROBUST)


def test_scores_on_complete_clips_are_those_of_the_grid():
    """The same checkpoints, asked again."""
    runs = read("runs")
    runs = runs[(runs["regime"] == REGIMES[0]) & (runs["split"] == "test")]
    scored = runs.groupby("system")["mean_rho"].mean()
    points = robust("points")
    complete = points[points["rate"] == 0].set_index("system")["rho"]
    assert (complete - scored[complete.index]).abs().max() < 1.5e-4


def test_the_draws_of_the_losses_can_be_made_again():
    draws = robust("draws").set_index("clip_id")
    pd.testing.assert_frame_equal(robustness.draw(draws.index), draws)
    clips = pd.read_csv(RESULTS / "test_clips.csv", dtype={"clip": str})["clip"]
    assert set(draws.index) == set(clips)


def test_systems_that_ignore_a_modality_do_not_notice_its_loss():
    points = robust("points").set_index("system")
    for system, ignored in (
        ("text_only", {"audio", "vision"}),
        ("audio_only", {"vision", "text"}),
        ("vision_only", {"audio", "text"}),
    ):
        own = points.loc[system]
        flat = own[[set(lost.split("+")) <= ignored for lost in own["lost"]]]
        assert len(flat) == 2 * 18 + 2 + 1 and flat["drop"].astype(float).abs().max() < 1e-3


def scores(table, **fields):
    """{system: rho} of one condition."""
    rows = robust(f"{table}points")
    for name, value in fields.items():
        rows = rows[rows[name] == value]
    assert len(rows) == len(experiments.ROBUST)
    return rows.set_index("system")["rho"]


@pytest.mark.parametrize("plan", ["noise", "mixed"])
def test_the_tables_of_noise_hold_every_condition_and_system_of_the_plan(plan):
    plan = robustness.PLANS[plan]
    points, conditions = robust(f"{plan.prefix}points"), robust(f"{plan.prefix}conditions")
    planned = pd.DataFrame([condition.key for condition in plan.conditions])
    keys = [key for key in planned if key != "strength"]
    pd.testing.assert_frame_equal(conditions[keys], planned[keys], check_dtype=False)
    assert conditions["clips"].nunique() == len(conditions)
    assert len(points) == len(conditions) * len(experiments.ROBUST)
    assert set(points["system"]) == set(experiments.ROBUST)
    if plan.curves:
        areas = robust(f"{plan.prefix}areas")
        assert len(areas) == len(plan.curves) * len(experiments.ROBUST)


def test_clips_without_noise_score_the_same_in_all_tables():
    complete = scores("", rate=0.0)
    pd.testing.assert_series_equal(scores("noise_", level=0), complete)
    pd.testing.assert_series_equal(scores("mixed_", lost="", sound=0, picture=0), complete)
    for lost in ("audio", "vision", "text", "audio+vision", "audio+text", "vision+text"):
        apart = scores("mixed_", lost=lost, sound=0, picture=0)
        pd.testing.assert_series_equal(apart, scores("", lost=lost, rate=1.0))
    for level in (1, 3, 5):
        together = scores("mixed_", lost="", sound=level, picture=0)
        pd.testing.assert_series_equal(together, scores("noise_", noise="babble", level=level))


def test_systems_that_ignore_a_modality_do_not_notice_noise_in_it():
    points = robust("noise_points")
    kinds = {name: noise.modality for name, noise in NOISES.items()} | {"": ""}
    modality = points["noise"].map(kinds)
    for system, reached in (
        ("text_only", {"text", "audio"}),  # words are heard in the noisy sound
        ("audio_only", {"audio"}),
        ("vision_only", {"vision"}),
    ):
        own = points[points["system"] == system]
        flat = own[~modality[own.index].isin({*reached, ""})]
        assert len(flat) > 4 and flat["drop"].astype(float).abs().max() < 1e-3


def test_the_arms_of_the_experiment_with_training_are_all_there():
    effects, levels = robust("training_effects"), robust("training_levels")
    curves = 1 + len(robustness.TRAINING.curves)
    assert len(levels) == curves * len(robustness.ARMS)
    assert effects.groupby("curve", sort=False).size().tolist() == [10] * curves
    # taemi's own setting is one of the arms
    own = read("search")
    own = own[own["chosen"] & (own["system"] == "taemi") & (own["regime"] == REGIMES[0])]
    arm = f"taemi-{own['model.modality_dropout'].iloc[0]:g}"
    complete = levels[(levels["curve"] == "complete") & (levels["arm"] == arm)]["area"].iloc[0]
    assert complete == scores("", rate=0.0)["taemi"]

"""The search: the same settings for all, the same effort, nothing chosen at an edge unasked, and
the same choice after an interruption."""

import collections
import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import toy

from taemi_lib import cli, experiments, models, profiles
from taemi_lib.cli import study
from taemi_lib.errors import ChoiceError, Diverged, RunError
from taemi_lib.experiments import search as searching
from taemi_lib.experiments import space
from taemi_lib.experiments.tables import table_bytes
from taemi_lib.workspace import Job, Workspace

DEMO = profiles.PROFILES["demo"]
TAEMI = models.find("taemi")
SHORT = DEMO.changed({"training.epochs": 6, "training.batch_size": 16, "model.width": 16})


def job(folder, profile=SHORT, system="text_only"):
    here = Workspace(profile, folder / "data", folder / "runs", device="cpu", progress=False)
    return Job(here, models.find(system), 0)


def searched(job, parts, count):
    return searching.search(job, parts, space.drawn(job.workspace.profile, job.system, count))


@pytest.fixture(scope="module")
def parts():
    average = SHORT.training.audio_average
    return {
        "train": toy.dataset(48, 0, average),
        "selection": toy.dataset(24, 1, average, prefix="other"),
    }


# --- what is tried


def test_every_system_is_given_the_same_settings_and_the_profiles_own_first():
    for name in ("text_only", "tfn", "savchenko2025"):
        found = space.drawn(DEMO, models.find(name), 24)
        assert len(found) == 24
        common = [{key: value for key, value in s.items() if key != space.OWN} for s in found]
        assert common == space.drawn(DEMO, TAEMI, 24)
        own = DEMO.changed(common[0])
        assert replace(own, training=DEMO.training) == DEMO
        assert own.training == replace(DEMO.training, patience=DEMO.training.epochs)


def test_each_value_of_each_setting_is_tried_about_equally_often():
    found = space.drawn(DEMO, TAEMI, 24)[1:]
    for name, limits in space.SPACE.items():
        counts = collections.Counter(settings[name] for settings in found)
        assert len(counts) == len(limits.values)
        assert max(counts.values()) - min(counts.values()) <= 2, (name, counts)


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_all_that_is_tried_is_allowed(profile):
    there = profiles.PROFILES[profile]
    for settings in space.drawn(there, TAEMI, 24):
        there.changed(settings)
        for further in space.wider(there, TAEMI, settings):
            there.changed(further)


def test_a_table_keeps_settings_as_they_are_and_rounds_scores():
    rate = "training.learning_rate"  # that of `paper`, times .15 and .07
    row = pd.DataFrame({rate: [1.5e-05, 7e-06], "score": [0.123456, -0.00001]})
    back = pd.read_csv(io.BytesIO(table_bytes(row)))
    assert back[rate].to_list() == [1.5e-05, 7e-06]
    assert back["score"].to_list() == [0.1235, 0.0]


def test_a_value_at_an_open_edge_asks_for_the_one_beyond():
    inner = space.drawn(DEMO, TAEMI, 2)[0]
    assert list(space.wider(DEMO, TAEMI, inner)) == []
    at_edges = inner | {"training.learning_rate": 0.006, "model.dropout": 0, "model.width": 32}
    further = list(space.wider(DEMO, TAEMI, at_edges))
    assert [
        {key: value for key, value in s.items() if value != at_edges[key]} for s in further
    ] == [{"training.learning_rate": 0.012}, {"model.width": 16}]
    longest = inner | {"training.epochs": 80, "training.patience": 80}
    (only,) = space.wider(DEMO, TAEMI, longest)
    assert only["training.epochs"] == only["training.patience"] == 120


def test_sizes_of_a_systems_own_are_drawn_too(monkeypatch):
    system = models.find("text_only")
    monkeypatch.setattr(system, "own", {"depth": (1, 2, 4), "linear": (False, True)})
    found = [settings.get(space.OWN) for settings in space.drawn(DEMO, system, 25)]
    assert found[0] is None  # the profile's own: what the system does by itself
    for name, values in system.own.items():
        counts = collections.Counter(pair for own in found[1:] for pair in own)
        assert all(counts[f"{name}={str(value).lower()}"] == 24 // len(values) for value in values)

    # beyond an end that was chosen, also where the system chose it by itself
    monkeypatch.setattr(system, "own_beyond", {"depth": {1: 0.5, 4: 8}, "linear": {}})
    inner = space.drawn(DEMO, TAEMI, 2)[0]
    further = {
        pairs: [settings.get(space.OWN) for settings in space.wider(DEMO, system, asked)]
        for pairs, asked in {
            pairs: inner | ({space.OWN: pairs.split()} if pairs else {})
            for pairs in ("", "depth=2 linear=true", "depth=4 linear=true")
        }.items()
    }
    assert further == {
        "": [["depth=0.5"]],
        "depth=2 linear=true": [],
        "depth=4 linear=true": [["depth=8", "linear=true"]],
    }


@pytest.mark.parametrize("name", [n for n in models.names() if models.find(n).own_beyond])
def test_what_lies_beyond_is_beyond_the_ends_of_a_list(name):
    system = models.find(name)
    for size, values in system.own.items():
        listed = sorted(values)
        for value, further in system.own_beyond.get(size, {}).items():
            assert value in (listed[0], listed[-1]) and type(further) is type(value)
            assert further < value if value == listed[0] else further > value


OWN = [
    (name, f"{size}={value}")
    for name in models.names()
    for size, values in models.find(name).own.items()
    for value in (*values[1:], *models.find(name).own_beyond.get(size, {}).values())
]


@pytest.mark.parametrize(("name", "own"), OWN)
def test_a_size_of_its_own_changes_what_a_system_says_or_learns_from(name, own, tmp_path):
    said, gradients = {}, {}
    batch = toy.batch()
    for key, pairs in {"usual": (), "own": (own,)}.items():
        torch.manual_seed(0)
        network = models.create(name, **toy.SIZES, own=pairs)
        network.eval()
        said[key] = network(batch).prediction
        network.train()
        torch.manual_seed(1)
        network.loss(network(batch), batch).backward()
        found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        gradients[key] = torch.cat(found)
    assert not (
        torch.equal(said["own"], said["usual"])
        and torch.equal(gradients["own"], gradients["usual"])
    )
    unused = [key for key, p in network.named_parameters() if p.grad is None and "token" not in key]
    assert not unused
    network.eval()
    network.save_pretrained(tmp_path)
    back = models.load(tmp_path)
    assert back.own_sizes == network.own_sizes
    assert torch.equal(back(toy.batch()).prediction, said["own"])


def test_a_size_that_a_system_does_not_have_is_refused():
    for pairs, said in {
        ("depth=2",): "taemi has no size 'depth' of its own; it has: none",
        ("depth",): "model.own holds 'depth': write NAME=VALUE",
    }.items():
        with pytest.raises(ChoiceError, match=said):
            models.create("taemi", **toy.SIZES, own=pairs)
    for pair in ("rank=wide", "rank=-8", "rank=8.0", "small=linaer"):
        with pytest.raises(ChoiceError, match="of tfn is .*; it must be like one of (0, 8|'relu')"):
            models.create("tfn", **toy.SIZES, own=[pair])
    with pytest.raises(ChoiceError, match="layers of mult is 0; it must be like one of 1, 2"):
        models.create("mult", **toy.SIZES, own=["layers=0"])


# --- what is chosen


def test_a_planted_handicap_is_undone(tmp_path, parts):
    """A rival whose preset drops six of ten hidden units ends where one without that ends."""
    crippled = SHORT.changed({"model.dropout": 0.6, "model.input_dropout": 0.6})
    trials = {
        name: searched(job(tmp_path / name, profile), parts, 12)
        for name, profile in {"fair": SHORT, "crippled": crippled}.items()
    }
    best = {name: max(found, key=lambda trial: trial.score) for name, found in trials.items()}
    preset = trials["crippled"][0].score
    assert best["fair"].score - preset > 0.1
    assert abs(best["fair"].score - best["crippled"].score) < 0.02
    assert best["crippled"].settings["model.dropout"] < 0.6


def test_hopeless_trials_are_cut_and_only_whole_ones_are_chosen(tmp_path, parts):
    trials = searched(job(tmp_path), parts, 12)
    ended = collections.Counter(trial.ended for trial in trials)
    assert ended["cut"] >= 6 and ended["whole"] >= 1
    for trial in trials:
        planned = trial.settings["training.epochs"]
        if trial.ended == "whole":
            assert len(trial.scores) == 2 and trial.epochs == 2 * planned
            assert trial.score == np.mean(trial.scores)
        else:
            assert trial.scores == [] and trial.epochs <= planned // 2 + 1
            assert trial.score == -np.inf
    # two successive thirds, and the first of all goes on as long as nothing is better
    assert sum(trial.epochs for trial in trials) < 0.6 * sum(
        2 * trial.settings["training.epochs"] for trial in trials
    )


def test_a_setting_that_diverges_is_no_end_of_the_search(tmp_path, parts, monkeypatch):
    real = searching.try_out

    def sometimes(system, *rest, training, **more):
        if training.learning_rate > 0.005:
            raise Diverged("the loss is nan")
        return real(system, *rest, training=training, **more)

    monkeypatch.setattr(searching, "try_out", sometimes)
    trials = searched(job(tmp_path), parts, 12)
    ended = {trial.ended for trial in trials if trial.settings["training.learning_rate"] > 0.005}
    assert ended == {"diverged"}
    monkeypatch.setattr(searching, "try_out", lambda *rest, **more: pytest.fail("trained again"))
    assert searched(job(tmp_path), parts, 12) == trials


def test_nothing_that_can_be_trained_is_said(tmp_path, parts, monkeypatch):
    def never(*rest, **more):
        raise Diverged("the loss is nan")

    monkeypatch.setattr(searching, "try_out", never)
    with pytest.raises(RunError, match="no setting of text_only could be trained"):
        searched(job(tmp_path), parts, 3)


# --- stopped and continued


def test_an_interrupted_search_chooses_the_same(tmp_path, parts, monkeypatch):
    expected = searched(job(tmp_path / "whole"), parts, 8)
    real, calls = searching.try_out, []

    def killed(*rest, after_epoch, **more):
        calls.append(1)

        def dies(history):
            if len(calls) == 5 and len(history) == 1:
                raise KeyboardInterrupt
            after_epoch(history)

        return real(*rest, after_epoch=dies, **more)

    monkeypatch.setattr(searching, "try_out", killed)
    with pytest.raises(KeyboardInterrupt):
        searched(job(tmp_path / "two"), parts, 8)
    found = searched(job(tmp_path / "two"), parts, 8)
    seconds = {"cpu_seconds": 0.0}
    assert [replace(trial, **seconds) for trial in found] == [
        replace(trial, **seconds) for trial in expected
    ]
    left = sorted(path.name for path in (tmp_path / "two").rglob("*") if path.is_dir())
    assert not [name for name in left if name.startswith("trial")]  # checkpoints are not kept


def test_what_is_stored_of_another_configuration_is_refused(tmp_path, parts):
    searched(job(tmp_path), parts, 2)
    others = dict(parts, train=toy.dataset(40, 3, SHORT.training.audio_average))
    with pytest.raises(RunError, match="another configuration.*delete its folder"):
        searched(job(tmp_path), others, 2)


# --- on the command line

TINY = {"data.clips": 28, "data.seed": 8, "training.batch_size": 8, "model.width": 16}


@pytest.mark.slow
def test_a_search_and_a_comparison_with_its_settings(tmp_path, capsys):
    set_ = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    places = ["--data-root", str(tmp_path / "data"), "--runs-root", str(tmp_path / "runs")]
    common = ["--profile", "smoke", *set_, *places]
    table = tmp_path / "search.csv"
    asked = ["search", "taemi", "text_only", "--trials", "3", "--table", str(table), *common]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert "regime cue" in said and "taemi" in said and "settings, beside the profile's" in said
    found = experiments.read_table(table)
    assert set(found["system"]) == {"taemi", "text_only"}
    assert found.groupby("system")["chosen"].sum().tolist() == [1, 1]
    before = table.read_bytes()
    assert cli.main(asked) == 0 and table.read_bytes() == before
    # another system's rows come beside those that are there
    assert cli.main(["search", "audio_only", *asked[3:]]) == 0
    assert set(experiments.read_table(table)["system"]) == {"taemi", "text_only", "audio_only"}
    assert cli.main([*asked[:3], "--trials", "4", *asked[5:]]) == 1
    assert "holds a search of 3 trials, not 4" in capsys.readouterr().err

    # other labels: what was searched with the old ones is refused, not reused
    trials = next((tmp_path / "runs").rglob("text_only/trials.json"))
    whole = trials.read_text()
    held = json.loads(whole)
    held["config"]["data"]["train"]["labels"] = "others"
    trials.write_text(json.dumps(held))
    assert cli.main(asked) == 1
    assert "trials.json is of another configuration" in capsys.readouterr().err
    trials.write_text(whole)

    # further regimes try what did best in the first one
    further = [*asked[:3], "--regime", "fixed", "--trials", "2", "--after", str(table), *common]
    assert cli.main([*further, "--table", str(tmp_path / "further.csv")]) == 0
    there = experiments.read_table(tmp_path / "further.csv")
    for system in ("taemi", "text_only"):
        wanted = experiments.best_of(found, "cue", system, 2)
        rows = there[(there["system"] == system) & there["drawn"]]
        assert [row["training.learning_rate"] for row in wanted] == list(
            rows["training.learning_rate"]
        )
        assert len(rows) == 2 and set(rows["regime"]) == {"fixed"}
    assert cli.main(["search", "vision_only", *further[3:]]) == 2
    assert "the table has no search of vision_only in cue" in capsys.readouterr().err

    compare = ["compare", "text_only", "--searched", str(table), "--seeds", "2", *common]
    assert cli.main([*compare, "--results", str(tmp_path / "results")]) == 0
    runs = pd.read_csv(tmp_path / "results" / "runs.csv")
    chosen = experiments.chosen(experiments.read_table(table))
    for system in ("taemi", "text_only"):
        (rate,) = set(runs[runs["system"] == system]["learning_rate"])
        assert rate == chosen["cue", system]["training.learning_rate"]
    beside = experiments.read_table(tmp_path / "results" / "search.csv")
    assert beside.equals(found)  # of these two systems, and not of those that came beside later
    assert cli.main(["compare", "vision_only", *compare[2:]]) == 2
    assert "no settings of vision_only in cue: search them first" in capsys.readouterr().err


def test_further_regimes_begin_with_the_profiles_own_and_then_the_best():
    table = experiments.read_table(profiles.ROOT / "results" / "search.csv")
    rows = table[(table["regime"] == "cue") & (table["system"] == "text_gated")]
    found = experiments.best_of(table, "cue", "text_gated", 30)
    own = space.drawn(DEMO, models.find("text_gated"), 24)[0]
    assert found[0] == own and len(found) == len(rows)
    others = rows[rows["trial"] > 0]
    best = others.loc[others["score"].idxmax()]
    assert found[1]["training.learning_rate"] == best["training.learning_rate"]
    whole = others["score"].notna().sum()
    told = [
        others[(others[list(space.SPACE)] == [s[name] for name in space.SPACE]).all(axis=1)]
        for s in found[1:]
    ]
    scores = [row["score"].iloc[0] for row in told]
    assert scores[:whole] == sorted(scores[:whole], reverse=True)
    assert np.isnan(scores[whole:]).all()
    epochs = [row["epochs"].iloc[0] for row in told[whole:]]
    assert epochs == sorted(epochs, reverse=True)


def test_a_table_that_is_none_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("system,score\ntaemi,1\n")
    with pytest.raises(RunError, match="not a table that `taemi search` wrote"):
        experiments.read_table(tmp_path / "other.csv")
    with pytest.raises(RunError, match=r"missing\.csv"):
        experiments.read_table(tmp_path / "missing.csv")


def test_what_the_table_says_comes_back_as_settings(tmp_path):
    settings = space.drawn(DEMO, TAEMI, 24)[7] | {space.OWN: ["depth=2", "small=linear"]}
    trial = searching.Trial(7, settings, scores=[0.5, 0.6], epochs=80)
    row = {"regime": "cue", "system": "taemi"} | searching._row(trial, True)
    path = tmp_path / "search.csv"
    experiments.tables.write_table(path, pd.DataFrame([row]))
    (found,) = experiments.chosen(experiments.read_table(path)).values()
    assert found == settings
    assert DEMO.changed(found).model.own == ("depth=2", "small=linear")


def test_the_command_line_gives_as_many_settings_as_the_library():
    assert study.TRIALS == experiments.TRIALS


def test_too_few_trials_and_unknown_regimes_are_refused(tmp_path):
    here = job(tmp_path).workspace
    with pytest.raises(ChoiceError, match="1 trials: a search needs at least 2"):
        experiments.Search(here, {"cue": ("taemi",)}, 1)
    with pytest.raises(ChoiceError, match="unknown regime 'cu'"):
        experiments.Search(here, {"cu": ("taemi",)})

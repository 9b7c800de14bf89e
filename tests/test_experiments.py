"""The grid of systems x seeds x regimes: made once, resumed, scored from stored predictions, the
same tables every time."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import toy

from taemi_lib import cli, experiments, models, profiles
from taemi_lib.errors import ChoiceError, RunError
from taemi_lib.evaluation import attention as attention_scores
from taemi_lib.evaluation import comparing, metrics
from taemi_lib.evaluation.scoring import predict_dataset
from taemi_lib.experiments import Study, recheck
from taemi_lib.experiments import whole as whole_module
from taemi_lib.experiments.masks import draw_masks, masked
from taemi_lib.experiments.tables import families
from taemi_lib.profiles import EMOTIONS, MODALITIES, Task
from taemi_lib.workspace import Workspace

# few clips, of a seed with which every emotion varies in every split of both regimes
TINY = profiles.PROFILES["smoke"].changed(
    {"data.clips": 28, "data.seed": 8, "training.batch_size": 8, "model.width": 16}
)
RUNS = [
    "regime",
    "system",
    "seed",
    "split",
    "mean_rho",
    *EMOTIONS,
    "parameters",
    "seconds",
    "cpu_seconds",
    "peak_memory_mb",
    "learning_rate",
    "versions",
]
COMPARISONS = [
    "regime",
    "table",
    "system",
    "reference",
    "delta",
    "low",
    "high",
    "p_holm",
    "verdict",
]


@pytest.fixture(scope="module", autouse=True)
def few_sizes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_module, "SIZES", (8, 11, 100))
        patch.setattr(whole_module, "SIZE_SYSTEMS", ("taemi", "text_only"))
        yield


def workspace(folder, profile=TINY, **options):
    options = {"device": "cpu", "progress": False} | options
    return Workspace(profile, folder / "data", folder / "runs", **options)


def study(
    folder,
    systems=("taemi", "constant_query", "text_only"),
    regimes=("cue", "face_cue"),
    processes=None,
    **options,
):
    grid = {regime: systems for regime in regimes}
    return Study(workspace(folder, processes=processes), grid, seeds=(0, 1), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    assert study(folder).run()
    return folder


def stamps(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.slow
def test_a_finished_grid_is_only_read(whole):
    before = stamps(whole)
    again = study(whole)
    assert again.run()
    again.write(whole / "first")
    assert {
        path: stamp for path, stamp in stamps(whole).items() if "first" not in path.parts
    } == before
    study(whole).write(whole / "second")
    tables = ("runs", "comparisons", "ccc", "attention", "missing_masks", "test_clips")
    for name in (*(f"{table}.csv" for table in tables), "predictions.parquet"):
        assert (whole / "first" / name).read_bytes() == (whole / "second" / name).read_bytes()


@pytest.mark.slow
def test_the_tables_have_the_promised_columns_and_every_number_comes_from_a_run(whole):
    found = study(whole)
    folder = found.write(whole / "tables")
    runs, ccc = pd.read_csv(folder / "runs.csv"), pd.read_csv(folder / "ccc.csv")
    assert list(runs) == RUNS
    assert list(pd.read_csv(folder / "comparisons.csv")) == COMPARISONS
    assert list(ccc) == ["regime", "system", "seed", "split", "mean_ccc", *EMOTIONS]
    assert runs.equals(runs.sort_values(["regime", "system", "seed", "split"], ignore_index=True))
    assert set(runs["split"]) == {"test", "test_masked", "selection_official_style"}
    for row in runs.itertuples():
        job = found.jobs()[row.regime, row.system, row.seed]
        if row.split == "selection_official_style":
            expected = json.loads((job.folder / "metrics.json").read_text())["selection"][
                "mean_rho"
            ]
        else:
            table = pd.read_parquet(job.folder / f"{row.split}.parquet")
            values = table[["prediction", "target"]].to_numpy().reshape(-1, 6, 2)
            expected = metrics.mean_pearson(values[..., 0], values[..., 1])
            scored = metrics.ccc(values[..., 0], values[..., 1])
            mine = ccc[(ccc[["regime", "system", "seed", "split"]] == list(row[1:5])).all(axis=1)]
            assert mine[list(EMOTIONS)].to_numpy()[0] == pytest.approx(scored, abs=1e-4)
        assert row.mean_rho == pytest.approx(expected, abs=1e-4)
        assert row.parameters > 0 and row.peak_memory_mb > 50 and "torch" in row.versions


@pytest.mark.slow
def test_every_comparison_can_be_computed_again_from_the_predictions_beside_the_tables(
    whole, tmp_path
):
    found = study(whole)
    folder = found.write(tmp_path / "tables")
    stored = experiments.read_predictions(folder)
    assert stored.targets == list(EMOTIONS)
    assert stored.comparisons.equals(found.comparisons)
    for (regime, _), family in families(stored.systems).items():
        for system, reference, split in family:
            again = stored.compare(regime, system, reference, split)
            # the runs' own predictions, not rounded
            one, other = (
                comparing.resampled_rho(*found.predictions(regime, name, split))
                for name in (system, reference)
            )
            there = comparing.compare(one, other)
            assert again.delta == pytest.approx(there.delta, abs=1e-3)
            assert again.error == pytest.approx(there.error, rel=0.01)
    truth = workspace(whole).truth()
    assert dict(zip(stored.clips["clip"], stored.clips["group"], strict=True)) == dict(
        truth["voice"][truth["split"] == "test"]
    )
    labels = stored.clips[stored.clips["regime"] == "face_cue"][list(EMOTIONS)]
    assert np.array_equal(labels, found.predictions("face_cue", "taemi")[1])
    by_voice = stored.rho("cue", "taemi", by_group=True)
    assert by_voice.groups == stored.clips["group"].nunique()
    assert np.array_equal(by_voice.seeds, stored.rho("cue", "taemi").seeds)
    with pytest.raises(ChoiceError, match="no predictions of misa in cue"):
        stored.rho("cue", "misa")
    (folder / "predictions.parquet").write_bytes(b"nothing")
    with pytest.raises(RunError, match="no predictions of a study can be read"):
        experiments.read_predictions(folder)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 3), (0, 0.001), (10, 100010)])
def test_stored_predictions_are_as_fine_as_the_range_of_the_task(low, high):
    values = np.linspace(low, high, 1001)
    rounded = np.round(values, recheck.decimals(Task(low=low, high=high)))
    assert np.abs(rounded - values).max() <= 1e-4 * (high - low)


def test_stored_predictions_come_back_whatever_a_clip_is_called(tmp_path):
    clips = pd.DataFrame(
        {"regime": "own", "clip": ["NA", "007"], "group": ["null", "1"], "joy": [np.nan, 0.1]}
    )
    predictions = pd.DataFrame(
        {"regime": "own", "system": "taemi", "seed": 0, "split": "test", "clip": ["NA", "007"]}
    ).assign(joy=np.float32([0.25, 0.5]))
    recheck.write_predictions(recheck.Stored(predictions, clips), tmp_path)
    back = experiments.read_predictions(tmp_path)
    pd.testing.assert_frame_equal(back.clips, clips)
    assert back.predictions["clip"].to_list() == ["NA", "007"] and back.targets == ["joy"]
    assert back.predictions["joy"].to_list() == [0.25, 0.5]


def test_stored_predictions_are_those_of_the_best_checkpoint(whole):
    found = study(whole)
    job = found.jobs()["face_cue", "taemi", 1]
    parts = job.workspace.datasets()
    model = models.load(job.folder / "best")
    (_, stored), target = found.predictions("face_cue", "taemi")
    np.testing.assert_allclose(stored, predict_dataset(model, parts["test"]).prediction, atol=1e-6)
    np.testing.assert_array_equal(target, parts["test"].targets)
    masks = draw_masks(parts["test"])
    (_, hidden), _ = found.predictions("face_cue", "taemi", experiments.MASKED_TEST)
    np.testing.assert_allclose(
        hidden, predict_dataset(model, masked(parts["test"], masks)).prediction, atol=1e-6
    )
    assert np.abs(hidden - stored).max() > 1e-4


@pytest.mark.slow
def test_what_was_lost_is_made_again_with_the_same_numbers_and_nothing_else(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    found = study(tmp_path / "copy")
    gone = found.jobs()["cue", "taemi", 1].folder
    unscored = found.jobs()["face_cue", "text_only", 0].folder
    before = stamps(tmp_path / "copy")
    shutil.rmtree(gone)
    (unscored / "test.parquet").unlink()
    again = study(tmp_path / "copy", processes=1)
    assert again.run()
    after = stamps(tmp_path / "copy")
    changed = {path for path in after if after[path] != before.get(path)}
    assert all(path.is_relative_to(gone) or path == unscored / "test.parquet" for path in changed)
    costs = ["seconds", "cpu_seconds", "peak_memory_mb"]
    pd.testing.assert_frame_equal(
        again.scores.drop(columns=costs), study(whole).scores.drop(columns=costs)
    )


@pytest.mark.slow
def test_a_part_of_the_grid_leaves_the_rest_to_others(whole, tmp_path):
    for name in ("data", "runs"):
        shutil.copytree(whole / name, tmp_path / name)
    for folder in tmp_path.glob("runs/*/systems/face_cue"):
        shutil.rmtree(folder)
    first = study(tmp_path, systems=("text_only",), part=(1, 2))
    assert first.run() is False
    made = [key for key, job in first.jobs().items() if (job.folder / "metrics.json").exists()]
    assert made == [("cue", "text_only", 0), ("cue", "text_only", 1), ("face_cue", "text_only", 0)]
    with pytest.raises(FileNotFoundError, match="text_only with seed 1 .*is missing"):
        first.scores  # noqa: B018
    assert study(tmp_path, systems=("text_only",), part=(2, 2)).run() is True


@pytest.mark.slow
def test_other_settings_have_runs_of_their_own(whole):
    here = study(whole)
    folders = {job.folder for job in here.jobs().values()}
    for settings in (
        {"model.width": 32},
        {"training.epochs": 3},
        {"training.learning_rate": 0.01},
        {"data.label_noise": 0.5},
        {"encoders.text_pooling": "mean"},
    ):
        other = replace(here, workspace=here.workspace.changed(settings))
        assert not folders & {job.folder for job in other.jobs().values()}, settings


@pytest.mark.slow
def test_runs_of_other_settings_in_the_same_folder_are_refused_before_anything_is_trained(
    whole, tmp_path
):
    shutil.copytree(whole, tmp_path / "copy")
    here = study(tmp_path / "copy")
    path = here.jobs()["cue", "taemi", 0].folder / "config.json"
    config = json.loads(path.read_text())
    config["sizes"]["width"] = 32
    path.write_text(json.dumps(config))
    before = stamps(tmp_path / "copy")
    with pytest.raises(RunError, match=re.escape("sizes.width is 32 there, 16 now")):
        here.run()
    assert stamps(tmp_path / "copy") == before


@pytest.mark.slow
def test_runs_on_other_labels_are_refused(whole, tmp_path):
    """Same places and settings, but somebody wrote new labels into the generated folder."""
    for name in ("data", "runs"):
        shutil.copytree(whole / name, tmp_path / name)
    path = workspace(tmp_path).clips_folder / "truth.parquet"
    truth = pd.read_parquet(path)
    columns = [column for column in truth if column.startswith("label/face_cue/")]
    truth.assign(**{column: truth[column].iloc[::-1].to_numpy() for column in columns}).to_parquet(
        path
    )
    with pytest.raises(ValueError, match="data.train.labels is"):
        study(tmp_path).run()


@pytest.mark.slow
def test_predictions_for_other_features_of_the_test_clips_are_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    found = study(tmp_path / "copy")
    clips = workspace(tmp_path / "copy").datasets()["test"].clip_ids
    raw = workspace(tmp_path / "copy").clips_folder / "raw"
    shutil.copyfile(raw / f"{clips[0]}.mp4", raw / f"{clips[1]}.mp4")
    with pytest.raises(RunError, match="predictions for other test clips .*features is"):
        found.run()


@pytest.mark.slow
def test_predictions_about_other_clips_than_the_other_runs_are_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    found = study(tmp_path / "copy")
    path = found.jobs()["cue", "text_only", 1].folder / "test.parquet"
    table = pd.read_parquet(path)
    pd.concat([table.iloc[6:], table.iloc[:6]], ignore_index=True).to_parquet(
        path, index=False
    )  # the first clip comes last
    for read in (lambda: found.scores, lambda: found.comparisons):
        with pytest.raises(ValueError, match="text_only.*seed1/test.parquet is about other clips"):
            read()


@pytest.mark.slow
def test_tables_are_never_written_over_those_of_a_larger_study_or_of_other_clips(whole, tmp_path):
    folder = study(whole).write(tmp_path / "tables")
    before = stamps(folder)
    small = replace(study(whole), seeds=(0,))
    with pytest.raises(
        ValueError,
        match="holds .* scores that this study does not have, such as cue constant_query 1",
    ):
        small.check_tables(folder)
    with pytest.raises(ValueError, match="give another folder"):
        small.write(folder)
    # without what they predicted, other systems cannot be compared anew
    predictions = folder / "predictions.parquet"
    held = predictions.read_bytes()
    predictions.unlink()
    with pytest.raises(ValueError, match="give another folder"):
        study(whole, systems=("taemi", "text_only")).write(folder)
    predictions.write_bytes(held)
    clips = folder / "test_clips.csv"
    labels = clips.read_text()
    clips.write_text(labels.replace("0.", "0.9", 1))
    with pytest.raises(ValueError, match="results of other clips or labels"):
        study(whole, systems=("taemi", "text_only")).write(folder)
    clips.write_text(labels)
    masks = folder / "missing_masks.csv"
    masks.write_text(masks.read_text().replace("clip_id", "clip"))
    with pytest.raises(ValueError, match="results of other clips"):
        study(whole).write(folder)
    touched = {masks, predictions, clips}  # by this test
    assert {path: stamp for path, stamp in stamps(folder).items() if path not in touched} == {
        path: stamp for path, stamp in before.items() if path not in touched
    }


@pytest.mark.slow
def test_tables_grow_by_a_system_as_if_all_had_been_compared_at_once(whole, tmp_path):
    at_once = study(whole).write(tmp_path / "once")
    study(whole, systems=("taemi", "text_only")).write(tmp_path / "grown")
    study(whole, systems=("taemi", "constant_query"), regimes=("cue",)).write(tmp_path / "grown")
    grown = study(whole, ("taemi", "constant_query"), ("face_cue",)).write(tmp_path / "grown")
    for path in at_once.iterdir():
        assert path.read_bytes() == (grown / path.name).read_bytes(), path.name
    # a folder of before there were predictions is written whole
    (grown / "predictions.parquet").unlink()
    study(whole).write(grown)
    assert (grown / "runs.csv").read_bytes() == (at_once / "runs.csv").read_bytes()


@pytest.mark.slow
def test_the_command_line_searches_and_prints_a_verdict_for_each_system(whole, tmp_path, capsys):
    (tmp_path / "tiny.toml").write_text(profiles.to_toml(TINY))
    places = ["--data-root", str(whole / "data"), "--runs-root", str(tmp_path / "runs")]
    asked = ["--seeds", "2", "--trials", "2", "--regime", "cue,face_cue", "--device", "cpu"]
    arguments = ["compare", "constant_query", "text_only", *asked, *places]
    arguments += ["--profile", str(tmp_path / "tiny.toml"), "--results", str(tmp_path / "printed")]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        "regime cue:" in printed
        and "regime face_cue:" in printed
        and "primary hypothesis" in printed
    )
    verdicts = comparing.VERDICTS
    for system in ("constant_query", "text_only"):
        rows = [line for line in printed.splitlines() if line.strip().startswith(system)]
        assert len(rows) == 2 and all(any(word in row for word in verdicts) for row in rows)
    tables = {path: path.read_bytes() for path in (tmp_path / "printed").iterdir()}
    assert {"comparisons.csv", "search.csv"} <= {path.name for path in tables}
    before = stamps(tmp_path / "runs")
    assert cli.main(arguments) == 0
    assert stamps(tmp_path / "runs") == before
    assert {path: path.read_bytes() for path in (tmp_path / "printed").iterdir()} == tables
    # others with another effort do not come into these tables
    capsys.readouterr()
    assert cli.main([*arguments[:1], "audio_only", *arguments[3:], "--trials", "3"]) == 1
    said = capsys.readouterr().err
    assert "constant_query was given 2 settings in cue and taemi 3" in said
    assert {path: path.read_bytes() for path in (tmp_path / "printed").iterdir()} == tables


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["compare", "tame"], ["'tame'", "constant_query"]),
        (
            ["compare", "concat", "--regime", "cue,sideways"],
            ["'sideways'", "cue, fixed, both, text, face_cue"],
        ),
        (["compare", "concat", "--profile", "dmo"], ["'dmo'", "demo, smoke, paper"]),
        (["compare", "taemi"], ["nothing to compare taemi with"]),
    ],
)
def test_wrong_names_are_one_line_with_the_valid_ones(arguments, parts, capsys):
    assert cli.main(arguments) == 2
    message = capsys.readouterr().err
    assert (
        message.startswith("taemi: ")
        and message.count("\n") == 1
        and all(part in message for part in parts)
    )


@pytest.mark.parametrize(
    "option, value",
    [("--seeds", "0"), ("--seeds", "1"), ("--processes", "many"), ("--part", "3/2")],
)
def test_wrong_numbers_are_one_line_too(option, value, capsys):
    assert cli.main(["grid", option, value]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and value in message and option in message


def test_each_table_in_each_regime_is_one_family_and_the_primary_hypothesis_its_own(tmp_path):
    here = workspace(tmp_path)
    tested = families(experiments.whole_plan(here))
    tables = [*experiments.TABLES, "table3_masked"]
    found = [table for regime, table in tested if regime == "cue" and table != "others"]
    assert found == [*tables, "primary"]  # others: systems that the plan does not know
    assert tested["cue", "primary"] == [("taemi", "constant_query", "test")]
    for regime in ("fixed", "both", "text", "face_cue"):
        assert [table for r, table in tested if r == regime] == [
            "table3",
            "table4",
            "controls",
            "table3_masked",
        ]
    assert ("concat", "taemi", "test_masked") in tested["cue", "table3_masked"]
    for key, family in tested.items():
        assert all(system != reference for system, reference, _ in family), key
    assert families({"cue": ("taemi", "mine")}) == {("cue", "others"): [("mine", "taemi", "test")]}
    assert families({"cue": ("concat", "tfn")}) == {}  # nothing to hold them against


@pytest.mark.slow
def test_attention_is_held_against_planted_truth_where_there_is_a_decoy(whole):
    found = study(whole, systems=("taemi", "text_only"))
    table = found.attention
    assert set(table["system"]) == {"taemi"} and set(table["regime"]) == {
        "cue",
        "face_cue",
    }  # text_only looks at nothing
    job = found.jobs()["face_cue", "taemi", 0]
    parts = job.workspace.datasets()
    predictions = predict_dataset(models.load(job.folder / "best"), parts["test"], attention=True)
    truth = job.workspace.truth()
    expected = attention_scores.attention_ratios(predictions, truth, "face_cue")
    row = table[(table["regime"] == "face_cue") & (table["seed"] == 0)].iloc[0]
    assert row[["audio", "vision"]].to_dict() == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_the_whole_study_searches_trains_and_stands_beside_fewer_clips_and_a_planted_null(
    whole, tmp_path, monkeypatch
):
    shutil.copytree(whole / "data", tmp_path / "data")
    systems = ("taemi", "constant_query", "text_only")
    plan = {"cue": systems, "face_cue": ("taemi", "text_only")}
    monkeypatch.setattr(whole_module, "whole_plan", lambda workspace: plan)
    here, tables = workspace(tmp_path), tmp_path / "tables"
    asked = {"seeds": (0, 1), "trials": 2}
    # two machines, in rounds: the searches in the first regime, in the others, the grid, the rest
    rounds = 0
    while (grid := experiments.make_whole(here, tables, **asked, part=(1, 2))) is None:
        assert not tables.exists()
        experiments.make_whole(here, tables, **asked, part=(2, 2))
        rounds += 1
    assert rounds > 1

    search = experiments.read_table(tables / "search.csv")
    assert set(experiments.given_in(search).values()) == {2}
    assert {tuple(pair) for pair in search[["regime", "system"]].to_numpy()} == {
        (regime, name) for regime, names in plan.items() for name in names
    }
    chosen = experiments.chosen(search)
    for (regime, name, _), job in grid.jobs().items():
        training = json.loads((job.folder / "config.json").read_text())["training"]
        for setting in ("learning_rate", "epochs", "warmup_epochs", "weight_decay"):
            assert training[setting] == chosen[regime, name][f"training.{setting}"]
    sizes = pd.read_csv(tables / "training_size.csv")
    assert sizes.groupby(["train_clips", "system"]).size().to_dict() == {
        (count, system): 2
        for count in (8, 11, grid.train_clips)
        for system in ("taemi", "text_only")
    }
    assert grid.train_clips == 13  # all of this collection
    for count, few in whole_module.fewer_clips(grid).items():
        job = few.jobs()["cue", "taemi", 0]
        config = json.loads((job.folder / "config.json").read_text())
        assert config["data"]["train"]["count"] == count
        assert (
            config["training"]["learning_rate"] == chosen["cue", "taemi"]["training.learning_rate"]
        )
    null = pd.read_csv(tables / "planted_null.csv")
    assert (
        list(null) == COMPARISONS and (null["system"] == null["reference"]).all() and len(null) == 2
    )
    assert {job.seed for job in whole_module.other_seeds(grid).jobs().values()} == {2, 3}

    before = stamps(tmp_path / "runs")
    written = {path: path.read_bytes() for path in tables.iterdir()}
    assert experiments.make_whole(here, tables, **asked) is not None
    assert stamps(tmp_path / "runs") == before
    assert {path: path.read_bytes() for path in tables.iterdir()} == written
    with pytest.raises(RunError, match="in one table the fight would not be fair"):
        experiments.refuse_unequal({("cue", "audio_only"): 3}, tables)


def test_a_study_refuses_names_that_do_not_exist(tmp_path):
    with pytest.raises(ChoiceError, match="'tame'"):
        Study(workspace(tmp_path), {"cue": ("taemi", "tame")})
    with pytest.raises(ChoiceError, match="'sideways'"):
        Study(workspace(tmp_path), {"sideways": ("taemi",)})
    assert workspace(tmp_path, "paper").label_sets == ("vidmimic2",)


def test_masks_take_each_modality_from_thirty_percent_but_never_the_last():
    clips = toy.dataset(400)  # every fifth lacks a modality by itself
    masks = draw_masks(clips)
    assert masks.equals(draw_masks(clips)) and list(masks) == list(MODALITIES)
    there = np.array(
        [[name not in clips[i][0].absent for name in MODALITIES] for i in range(len(clips))]
    )
    assert (there & ~masks.to_numpy()).any(axis=1).all()
    assert masks.sum().tolist() == [120, 120, 120]
    assert (
        50 < (masks.sum(axis=1) == 2).sum() < 100 and not masks.all(axis=1).any()
    )  # of 400 x 3 x .3 x .3 x .7


def test_masked_clips_have_nothing_of_the_hidden_modality():
    clips = toy.dataset(40)
    masks = draw_masks(clips)
    hidden = masked(clips, masks)
    assert hidden.clip_ids == clips.clip_ids and hidden.dims == clips.dims
    np.testing.assert_array_equal(hidden.targets, clips.targets)
    batch, before = hidden.batch(range(40)), clips.batch(range(40))
    for name in MODALITIES:
        expected = before.present[name].numpy() & ~masks[name].to_numpy()
        assert (batch.present[name].numpy() == expected).all()
    features = hidden[int(np.argmax(masks["text"].to_numpy()))][0]
    assert (
        features.tokens is None
        and features.pooled is None
        and features.transcript is None
        and "text" in features.absent
    )
    assert hidden.lengths.sum() < clips.lengths.sum()

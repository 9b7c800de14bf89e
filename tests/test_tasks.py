"""A task is data: any number of targets, in any range, with labels missing or not; and data of
fewer modalities, of vectors alone, of any scale."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from toy import DIMS, SIZES, clip

from taemi_lib import models, profiles, train
from taemi_lib.batches import Batch, ClipDataset
from taemi_lib.data.tables import read_csv
from taemi_lib.errors import ChoiceError, ManifestError
from taemi_lib.evaluation import comparing, metrics
from taemi_lib.evaluation.scoring import evaluate, predict_dataset, score
from taemi_lib.models.base import squared_error
from taemi_lib.profiles import EMOTIONS, TASKS, Task
from taemi_lib.workspace import Workspace

SMALL = profiles.Model(width=8, heads=2, mlp_width=8)
SHORT = profiles.Training(epochs=2, batch_size=8, learning_rate=1e-2)


def task_of(count, **fields):
    return Task(tuple(f"t{number}" for number in range(count)), **fields)


def made(count, seed=0, missing=0.0, clips=24, without=(), **fields):
    """Clips whose labels, between 0 and 1 of the range, their text vector (or sound) decides."""
    rng, task = np.random.default_rng(seed), task_of(count, **fields)
    found = [clip(f"c{number}", rng, without) for number in range(clips)]
    source = np.stack([c.pooled if "text" not in without else c.audio.values[0] for c in found])
    mix = np.random.default_rng(99).normal(size=(source.shape[1], count))
    labels = task.unscaled(1 / (1 + np.exp(-source.astype(float) @ mix)))
    gone = rng.random(labels.shape) < missing
    labels[gone & ~gone.all(axis=1, keepdims=True)] = np.nan
    return ClipDataset.from_clips(found, labels, task)


# --- what a task is


def test_a_task_is_chosen_by_name_by_file_and_field_by_field(tmp_path):
    assert profiles.load("demo").task == Task() == TASKS["emi"] and Task().targets == EMOTIONS
    assert profiles.load("own", {"task": "sentiment"}).task == TASKS["sentiment"]
    assert (TASKS["sentiment"].low, TASKS["sentiment"].high) == (-3, 3)
    file = tmp_path / "task.toml"
    file.write_text('targets = ["Valence", "Arousal"]\nlow = -1\nhigh = 1\n')
    found = profiles.load("own", {"task": str(file), "task.high": 2.0}).task
    assert found == Task(("Valence", "Arousal"), -1.0, 2.0)
    settings = profiles.parse_settings(["task.targets=['Valence']", "task.low=-1"])
    assert profiles.load("own", settings).task == Task(("Valence",), -1.0, 1.0)
    again = tmp_path / "mine.toml"
    again.write_text(profiles.to_toml(profiles.load("own", {"task": "sims"})))
    assert profiles.load(again).task == TASKS["sims"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "sentimental"}, "task = 'sentimental'.*emi, sentiment, sims"),
        ({"task": "gone.toml"}, "gone.toml: the file cannot be read"),
        ({"task.targets": ["a", "a"]}, "a name of its own"),
        ({"task.targets": ["clip_id"]}, "the tables have already"),
        ({"task.targets": ["seed"]}, "the tables have already"),
        ({"task.targets": []}, "at least 1"),
        ({"task.low": 1.0}, "task.low = 1 is not below task.high = 1"),
        ({"task.metrics": "f1"}, "'intensity', 'sentiment' or 'sims'"),
    ],
)
def test_a_wrong_task_is_refused(settings, said):
    with pytest.raises(ChoiceError, match=said):
        profiles.load("own", settings)


def test_scaling_a_task_of_0_to_1_changes_no_bit():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    for way in (Task().scaled, Task().unscaled):
        assert way(values).dtype == np.float32 and (way(values) == values).all()
    wide = TASKS["sentiment"]
    np.testing.assert_allclose(wide.scaled(np.array([-3.0, 0, 3])), [0, 0.5, 1])
    np.testing.assert_allclose(wide.unscaled(wide.scaled(values)), values, atol=1e-5)


def test_the_generators_clips_have_the_six_emotions_and_say_so(tmp_path):
    from taemi_lib import data

    for source in ("synthmimic", "vidmimic2"):
        with pytest.raises(ChoiceError, match="has the six emotions"):
            data.load(profiles.Data(source=source), tmp_path, TASKS["sentiment"])


def test_single_settings_change_the_task_of_imported_features(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "task.toml").write_text('targets = ["Calm"]\nlow = -3.0\nhigh = 3.0\n')
    given = {"data.features": str(folder)}
    own = Task(("Calm",), -3.0, 3.0)
    assert profiles.load("features", given).task == own == profiles.imported_task(str(folder))
    for change in ({"task.selects": "mae"}, {"task.missing_labels": "mask"}, {"task.high": 4.0}):
        expected = dataclasses.replace(
            own, **{name.removeprefix("task."): value for name, value in change.items()}
        )
        assert profiles.load("features", change | given).task == expected
        later = Workspace(profiles.load("features", given), runs_root=tmp_path).changed(change)
        assert later.profile.task == expected
        assert (
            "task." in later.label
            and "task." not in later.changed({"task": dataclasses.asdict(own)}).label
        )
    assert profiles.load("features", {"task": "sims"} | given).task == TASKS["sims"]
    whole = tmp_path / "mine.toml"
    whole.write_text(profiles.to_toml(profiles.load("features", {"task.low": -4.0} | given)))
    assert profiles.load(whole).task == dataclasses.replace(own, low=-4.0)


# --- tables


def table(tmp_path, rows, task):
    (tmp_path / "a.mp4").touch()
    pd.DataFrame(rows).to_csv(tmp_path / "clips.csv", index=False)
    return read_csv(tmp_path / "clips.csv", task=task)


def test_a_table_has_the_tasks_columns_in_its_range(tmp_path):
    rows = [
        {"clip_id": f"c{n}", "video": "a.mp4", "split": "train", "Sentiment": value}
        for n, value in enumerate([-3, 3, 0.4])
    ]
    found = table(tmp_path, rows, TASKS["sentiment"])
    assert found.targets(["c0", "c2"]).tolist() == [[-3.0], [0.4]]
    with pytest.raises(ManifestError, match=r"row 3, column Sentiment: 3.0 is outside \[-1, 1\]"):
        table(tmp_path, rows, TASKS["sims"])
    with pytest.raises(ManifestError, match="the train split needs labels.*Admiration"):
        table(tmp_path, rows, Task())


def test_single_labels_may_be_missing_only_where_the_task_says_so(tmp_path):
    rows = [
        {"clip_id": "c0", "video": "a.mp4", "split": "train", "t0": 0.5, "t1": ""},
        {"clip_id": "c1", "video": "a.mp4", "split": "train", "t0": 0.5, "t1": 0.2},
    ]
    with pytest.raises(ManifestError, match="row 2, column t1: is empty.*missing_labels=mask"):
        table(tmp_path, rows, task_of(2))
    found = table(tmp_path, rows, task_of(2, missing_labels="mask"))
    np.testing.assert_array_equal(found.targets(["c0", "c1"]), [[0.5, np.nan], [0.5, 0.2]])


# --- systems


@pytest.mark.parametrize("count", [1, 3, 17])
@pytest.mark.parametrize("name", models.names())
def test_every_system_trains_any_number_of_targets(name, count, tmp_path):
    one = dataclasses.replace(SHORT, epochs=1)
    parts = made(count, low=-3.0, high=3.0), made(count, seed=1, low=-3.0, high=3.0, clips=12)
    run = train(name, *parts, model=SMALL, training=one, run_folder=tmp_path, progress=False)
    found = predict_dataset(run.model(), parts[1])
    assert found.prediction.shape == (12, count) and np.isfinite(found.prediction).all()
    assert run.config["sizes"]["outputs"] == count
    assert list(run.metrics["selection"]["per_emotion"]) == list(parts[0].task.targets)
    card = (tmp_path / "best" / "README.md").read_text()
    assert ", ".join(parts[0].task.targets) in card and "0 standing for -3.0 and 1 for 3.0" in card


def test_a_range_changes_the_unit_and_nothing_else(tmp_path):
    runs = []
    for number, ends in enumerate([(0.0, 1.0), (-3.0, 5.0)]):
        parts = [made(2, seed, low=ends[0], high=ends[1]) for seed in (0, 1)]
        kwargs = {"model": SMALL, "training": SHORT, "progress": False}
        run = train("taemi", *parts, run_folder=tmp_path / str(number), **kwargs)
        runs.append((run, parts[1]))
    (first, unit), (second, wide) = runs
    np.testing.assert_allclose(
        -3 + 8 * predict_dataset(first.model(), unit).prediction,
        predict_dataset(second.model(), wide).prediction,
        atol=1e-3,
    )
    np.testing.assert_allclose(
        [entry["loss"] for entry in first.history],
        [entry["loss"] for entry in second.history],
        rtol=1e-4,
    )


def test_a_task_that_selects_by_error_keeps_the_epoch_with_the_lowest(tmp_path):
    parts = [made(1, seed, selects="mae", low=-3.0, high=3.0) for seed in (0, 1)]
    longer = dataclasses.replace(SHORT, epochs=6, patience=6)
    run = train("taemi", *parts, model=SMALL, training=longer, run_folder=tmp_path, progress=False)
    errors = [entry["selection_mae"] for entry in run.history]
    assert run.best_epoch == int(np.argmin(errors)) + 1
    found = score(predict_dataset(run.model(), parts[1]), resamples=0)
    assert found.mae == pytest.approx(min(errors), abs=1e-5)


# --- missing labels


def test_the_loss_reads_known_labels_only():
    batch = Batch(
        pooled=torch.zeros(2, 3),
        labels=torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        known=torch.tensor([[True, False], [True, True]]),
    )
    prediction = torch.tensor([[0.5, 9.0], [1.0, 1.0]])
    assert squared_error(prediction, batch).item() == pytest.approx((0.25 + 0 + 1) / 3)
    all_known = Batch(pooled=torch.zeros(2, 3), labels=batch.labels)
    assert squared_error(prediction, all_known).item() == pytest.approx((0.25 + 64 + 0 + 1) / 4)
    with pytest.raises(ValueError, match=r"predictions are \(2, 1\) and labels \(2, 2\)"):
        squared_error(prediction[:, :1], batch)  # torch would broadcast


@pytest.mark.parametrize("name", models.names())
def test_what_stands_where_a_label_is_missing_is_never_read(name, tmp_path):
    """NaN becomes 0 in a batch; a network trained on any other number is the same network."""
    model = models.create(name, **SIZES | {"outputs": 3, "dropout": 0.0, "modality_dropout": 0.0})
    data = made(3, missing=0.3, missing_labels="mask")
    batch = data.batch(range(len(data)))
    assert batch.known is not None and (batch.labels[~batch.known] == 0).all()
    model.calibrate([batch])
    losses = []
    for filling in (0.0, 7.0):
        filled = dataclasses.replace(
            batch, labels=torch.where(batch.known, batch.labels, torch.tensor(filling))
        )
        model.calibrate([filled])
        torch.manual_seed(0)
        losses.append(model.loss(model(filled), filled).item())
    assert losses[0] == losses[1] and np.isfinite(losses[0])


def test_training_and_scores_use_the_labels_that_are_there(tmp_path):
    parts = [made(3, seed, missing=0.3, clips=40, missing_labels="mask") for seed in (0, 1)]
    run = train("taemi", *parts, model=SMALL, training=SHORT, run_folder=tmp_path, progress=False)
    found = predict_dataset(run.model(), parts[1])
    scores = score(found, resamples=50)
    for column, name in enumerate(parts[1].task.targets):
        known = ~np.isnan(found.target[:, column])
        assert 0 < known.sum() < 40
        expected = stats.pearsonr(found.prediction[known, column], found.target[known, column])[0]
        assert scores.per_emotion[name] == pytest.approx(expected, abs=1e-6)
    errors = np.abs(found.prediction - found.target)
    assert scores.mae == pytest.approx(float(np.nanmean(errors)), abs=1e-6)
    assert scores.interval.low <= scores.mean_rho <= scores.interval.high
    refused = [
        ClipDataset.from_clips(
            [part._features(name) for name in part.clip_ids],
            part.targets,
            dataclasses.replace(part.task, missing_labels="refuse"),
        )
        for part in parts
    ]
    with pytest.raises(ValueError, match="have no labels"):
        train("taemi", *refused, model=SMALL, training=SHORT, run_folder=tmp_path / "no")


def test_comparing_systems_weighs_the_clips_that_have_a_label():
    rng = np.random.default_rng(0)
    target = rng.random((60, 2))
    prediction = target + rng.normal(size=target.shape)
    whole = comparing.resampled_rho([prediction], target, n=40, missing=True)
    plain = comparing.resampled_rho([prediction], target, n=40)
    np.testing.assert_array_equal(whole.resampled, plain.resampled)
    holes = target.copy()
    holes[::3, 1] = np.nan
    found = comparing.resampled_rho([prediction], holes, n=40, missing=True)
    assert found.mean == pytest.approx(
        metrics.mean_pearson(prediction, holes, names=("a", "b"), missing=True)
    )
    rows = next(metrics.resamples(holes, 40, 0))
    assert found.resampled[0, 0] == pytest.approx(
        metrics.mean_pearson(prediction[rows], holes[rows], names=("a", "b"), missing=True)
    )
    with pytest.raises(ValueError, match="NaN"):
        comparing.resampled_rho([prediction], holes, n=40)


# --- data of other shapes


@pytest.mark.parametrize("name", models.names())
def test_data_of_two_modalities_needs_no_dummy(name, tmp_path):
    for lacking in ("vision", "text"):
        parts = [made(1, seed, clips=16, without=(lacking,)) for seed in (0, 1)]
        one = dataclasses.replace(SHORT, epochs=1)
        folder = tmp_path / lacking
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", metrics.ConstantPrediction)
            run = train(name, *parts, model=SMALL, training=one, run_folder=folder, progress=False)
            assert np.isfinite(evaluate(run, parts[1], "cpu", resamples=0).mean_rho)
    there = {"audio_dim": 5, "vision_dim": 4}  # no text_dim
    created = models.create(name, **there, width=8, heads=2, mlp_width=8).eval()
    batch = Batch({"audio": torch.randn(2, 6, 5), "vision": torch.randn(2, 3, 4)})
    assert torch.isfinite(created(batch).prediction).all()


def test_a_modality_that_only_the_selection_split_has_is_refused(tmp_path):
    with pytest.raises(ValueError, match="selection split have text, and no training clip"):
        train(
            "taemi",
            made(1, without=("text",)),
            made(1),
            model=SMALL,
            training=SHORT,
            run_folder=tmp_path,
        )


@pytest.mark.parametrize("name", models.names())
def test_a_text_vector_alone_is_one_token(name):
    model = models.create(name, **SIZES).eval()
    rest = {"audio": torch.randn(2, 6, DIMS["audio"])}
    vector = torch.randn(2, DIMS["text"])
    spelled = Batch(rest | {"text": vector.unsqueeze(1)}, pooled=vector, partner=vector.flip(0))
    alone = Batch(rest, pooled=vector, partner=vector.flip(0))
    assert torch.equal(model(alone).prediction, model(spelled).prediction)


def test_batches_are_trained_on_as_they_are(tmp_path):
    whole = made(1)
    batch, other = whole.batch(range(24)), made(1, seed=1).batch(range(24))
    kwargs = {"model": SMALL, "training": SHORT, "progress": False}
    run = train("taemi", batch, other, run_folder=tmp_path / "a", **kwargs)
    again = train("taemi", batch, other, run_folder=tmp_path / "a", **kwargs)
    assert again.history == run.history and run.config["task"]["targets"] == ["target 1"]
    from_files = train("taemi", whole, made(1, seed=1), run_folder=tmp_path / "b", **kwargs)
    for ours, theirs in zip(run.history, from_files.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    with pytest.raises(ValueError, match="the batch has no labels"):
        train("taemi", dataclasses.replace(batch, labels=None), other, run_folder="x", **kwargs)
    changed = dataclasses.replace(batch, pooled=batch.pooled + 1)
    with pytest.raises(Exception, match="another configuration.*features"):
        train("taemi", changed, other, run_folder=tmp_path / "a", **kwargs)


def test_labels_in_memory_fit_their_clips_and_their_task():
    clips = [clip(f"c{n}", np.random.default_rng(n)) for n in range(2)]
    with pytest.raises(ValueError, match=r"labels are \(2, 1\); expected \(2, 6\)"):
        ClipDataset.from_clips(clips, np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"clip 'c1': t0 is 2, outside \[0, 1\]"):
        ClipDataset.from_clips(clips, np.array([[0.0], [2.0]]), task_of(1))
    with pytest.raises(ValueError, match="the same clip_id"):
        ClipDataset.from_clips([clips[0], clips[0]], np.zeros((2, 1)), task_of(1))


# --- standardising


def scaled_clips(data, factor, offset):
    """The same clips, their features in another unit."""

    def moved(values):
        return None if values is None else (values.astype(np.float64) * factor + offset)

    clips = []
    for name in data.clip_ids:
        one = data._features(name)
        sequences = {
            key: None
            if (part := getattr(one, key)) is None
            else dataclasses.replace(part, values=moved(part.values).astype(np.float32))
            for key in ("audio", "vision", "tokens")
        }
        pooled = None if one.pooled is None else moved(one.pooled).astype(np.float32)
        clips.append(dataclasses.replace(one, **sequences, pooled=pooled))
    return ClipDataset.from_clips(clips, data.targets, data.task)


@pytest.mark.parametrize("name", models.names())
def test_standardised_features_have_no_unit(name, tmp_path):
    parts = [made(1, seed) for seed in (0, 1)]
    other = [scaled_clips(part, 40.0, -300.0) for part in parts]
    standard = dataclasses.replace(SMALL, standardise=True)
    one = dataclasses.replace(SHORT, epochs=1)
    found = [
        train(name, *each, model=standard, training=one, run_folder=tmp_path / key, progress=False)
        for key, each in (("a", parts), ("b", other))
    ]
    said = [
        predict_dataset(run.model(), each[1]).prediction
        for run, each in zip(found, (parts, other), strict=True)
    ]
    np.testing.assert_allclose(said[0], said[1], atol=2e-2)
    if name != "wav2vec2_baseline":
        model = found[1].model()
        assert model.standard is not None and model.standard.audio_mean.abs().max() > 100


def test_mean_and_deviation_are_the_training_clips_real_steps(tmp_path):
    parts = [made(1, seed) for seed in (0, 1)]
    standard = dataclasses.replace(SMALL, standardise=True)
    run = train(
        "taemi", *parts, model=standard, training=SHORT, run_folder=tmp_path, progress=False
    )
    clips = [parts[0]._features(name) for name in parts[0].clip_ids]
    steps = np.concatenate([c.vision.values.astype(np.float64) for c in clips])
    found = run.model().standard
    np.testing.assert_allclose(found.vision_mean, steps.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.vision_deviation, steps.std(axis=0), atol=1e-5)
    pooled = np.stack([c.pooled for c in clips]).astype(np.float64)
    np.testing.assert_allclose(found.pooled_mean, pooled.mean(axis=0), atol=1e-5)


def test_a_feature_that_never_varies_only_loses_its_mean(tmp_path):
    clips = [clip(f"c{n}", np.random.default_rng(n)) for n in range(12)]
    for one in clips:
        one.audio.values[:, 0] = 7
    data = ClipDataset.from_clips(clips, np.linspace(0, 1, 12)[:, None], task_of(1))
    standard = dataclasses.replace(SMALL, standardise=True)
    run = train(
        "taemi", data, data, model=standard, training=SHORT, run_folder=tmp_path, progress=False
    )
    found = run.model().standard
    assert found.audio_deviation[0] == 1 and found.audio_mean[0] == 7


def test_a_system_without_a_docstring_is_saved(tmp_path):
    class Bare(models.find("text_only")):
        name = "bare"

    Bare.__doc__ = None
    Bare(**SIZES).save_pretrained(tmp_path)
    assert "bare" in (tmp_path / "README.md").read_text()

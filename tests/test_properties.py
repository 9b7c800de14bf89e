"""What holds for every input, not only for the examples that somebody thought of: scores, masks,
batches, clip tables and the store, on inputs that hypothesis makes up."""

import json
import math
import os
import warnings

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy import stats
from toy import DIMS, MemoryManifest, MemoryStore, clip

from taemi_lib.batches import ClipDataset, average, collate
from taemi_lib.data.manifest import COLUMNS, Manifest
from taemi_lib.data.tables import read_csv
from taemi_lib.errors import ManifestError, StoreError
from taemi_lib.evaluation import metrics
from taemi_lib.experiments.masks import ABSENT, draw_masks, masked
from taemi_lib.features import ClipFeatures, Sequence, Store
from taemi_lib.features.sequences import Word
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.profiles import EMOTIONS, MODALITIES, SPLITS

# The same examples on every machine, and nothing kept between runs. A fixture's folder serves all
# examples of a test.
few = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
seeds = st.integers(0, 2**32 - 1)


# --------------------------------------------------------------------------------------------------
# scores


@st.composite
def splits(draw):
    """(prediction, target), (N, 6) each, with ties, opposite signs and unlike scales."""
    count = draw(st.integers(3, 40))
    rng = np.random.default_rng(draw(seeds))
    target, prediction = rng.random((count, 6)), rng.normal(size=(count, 6))
    prediction = draw(st.sampled_from([-1, 0, 0.5, 3])) * target + prediction
    if draw(st.booleans()):
        target, prediction = np.round(target, 1), np.round(prediction, 1)
    assume((np.ptp(target, axis=0) > 0).all() and (np.ptp(prediction, axis=0) > 0).all())
    return prediction * 10.0 ** draw(st.integers(-6, 6)), target


@few
@given(splits())
def test_pearson_is_scipys_for_any_split(split):
    expected = [stats.pearsonr(p, t)[0] for p, t in zip(split[0].T, split[1].T, strict=True)]
    np.testing.assert_allclose(metrics.pearson_per_emotion(*split), expected, atol=1e-10)


@few
@given(splits(), st.floats(0.01, 100), st.floats(-10, 10), seeds)
def test_pearson_knows_no_scale_no_offset_and_no_order(split, scale, offset, seed):
    prediction, target = split
    exact = metrics.pearson_per_emotion(prediction, target)
    size = np.abs(prediction).max()
    for other, wanted in (
        (scale * prediction + offset * size, exact),
        (-scale * prediction, -exact),
    ):
        found = metrics.pearson_per_emotion(other, target)
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    order = np.random.default_rng(seed).permutation(len(target))
    np.testing.assert_allclose(
        metrics.pearson_per_emotion(prediction[order], target[order]), exact, atol=1e-12
    )
    swapped = metrics.pearson_per_emotion(target, prediction)
    np.testing.assert_allclose(swapped, exact, atol=1e-12)
    assert (np.abs(exact) <= 1).all()
    np.testing.assert_allclose(metrics.pearson_per_emotion(target, target), 1, atol=1e-12)


@few
@given(splits())
def test_concordance_is_never_further_from_zero_than_correlation(split):
    rho, ccc = metrics.pearson_per_emotion(*split), metrics.ccc(*split)
    assert (np.abs(ccc) <= np.abs(rho) + 1e-12).all() and (rho * ccc >= -1e-12).all()
    np.testing.assert_allclose(metrics.ccc(split[1], split[1]), 1)


@few
@given(
    splits(),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(0, 1),
    st.integers(0, 2),
    st.integers(0, 5),
)
def test_a_value_that_is_no_number_is_refused_by_every_score(split, value, which, row, column):
    split[which][row, column] = value
    for score in (metrics.pearson_per_emotion, metrics.mean_pearson, metrics.mse, metrics.ccc):
        with pytest.raises(ValueError, match=f"first in row {row}, '{EMOTIONS[column]}'"):
            score(*split)
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.bootstrap(*split, n=2)


@few
@given(splits(), st.integers(0, 5), st.floats(-1e6, 1e6))
def test_a_constant_prediction_scores_zero_and_a_constant_target_is_refused(split, column, value):
    prediction, target = split
    rest = metrics.pearson_per_emotion(prediction, target)
    prediction[:, column] = value
    with pytest.warns(metrics.ConstantPrediction, match=EMOTIONS[column]):
        found = metrics.pearson_per_emotion(prediction, target)
    assert found[column] == 0 and metrics.constant_emotions(prediction) == (EMOTIONS[column],)
    np.testing.assert_array_equal(np.delete(found, column), np.delete(rest, column))
    target[:, column] = 0.5
    with pytest.raises(ValueError, match=EMOTIONS[column]):
        metrics.pearson_per_emotion(prediction, target)


# --------------------------------------------------------------------------------------------------
# who lacks what


@st.composite
def clips(draw, least=1, most=12):
    """Clips in memory, each with at least one modality."""
    rng = np.random.default_rng(draw(seeds))
    lacking = st.lists(st.sampled_from(MODALITIES), unique=True, max_size=2)
    lists = draw(st.lists(lacking, min_size=least, max_size=most))
    return [clip(f"clip{number}", rng, without) for number, without in enumerate(lists)]


def in_memory(found):
    labels = np.random.default_rng(0).random((len(found), len(EMOTIONS)))
    table = pd.DataFrame(labels, columns=list(EMOTIONS), index=[c.clip_id for c in found])
    return ClipDataset(MemoryStore(found), MemoryManifest(table), dims=DIMS)


@few
@given(clips(), seeds)
def test_masks_are_seeded_take_their_share_and_never_a_clips_last_modality(found, seed):
    dataset = in_memory(found)
    masks = draw_masks(dataset, seed)
    assert masks.equals(draw_masks(dataset, seed)) and list(masks.columns) == list(MODALITIES)
    assert list(masks.index) == dataset.clip_ids
    assert (masks.sum() <= round(ABSENT * len(found))).all()
    if not any(c.absent for c in found):  # all can spare each: the share, to the clip
        assert (masks.sum() == round(ABSENT * len(found))).all()
    hidden = masked(dataset, masks)
    for index, whole in enumerate(found):
        rest, label = hidden[index]
        gone = {name for name in MODALITIES if masks.at[whole.clip_id, name]}
        assert set(rest.absent) == set(whole.absent) | gone and len(rest.absent) < len(MODALITIES)
        np.testing.assert_array_equal(label, dataset.targets[index])
        for name, kept, given_ in (
            ("audio", rest.audio, whole.audio),
            ("vision", rest.vision, whole.vision),
            ("text", rest.tokens, whole.tokens),
        ):
            assert kept is (None if name in gone else given_)
        assert hidden.store.shapes(whole.clip_id).keys() == set(MODALITIES) - set(rest.absent)


@few
@given(arrays.arrays(bool, st.tuples(st.integers(1, 30), st.just(3))), st.floats(0, 0.99), seeds)
def test_modality_dropout_keeps_a_part_of_what_is_there_and_never_nothing(there, p, seed):
    present = dict(zip(MODALITIES, torch.from_numpy(there).unbind(dim=1), strict=True))
    layer = ModalityDropout(p)
    drawn = []
    for _ in range(2):
        torch.manual_seed(seed)
        drawn.append(torch.stack(list(layer(present).values()), dim=1))
    assert torch.equal(*drawn)
    kept = drawn[0].numpy()
    assert (kept <= there).all() and (kept.any(axis=1) == there.any(axis=1)).all()
    alone = there.sum(axis=1) == 1
    assert (kept[alone] == there[alone]).all()
    assert layer.eval()(present) is present


def test_modality_dropout_leaves_out_the_share_that_its_description_says():
    torch.manual_seed(0)
    present = dict.fromkeys(MODALITIES, torch.ones(40_000, dtype=torch.bool))
    for p in (0.1, 0.3, 0.6):
        for kept in ModalityDropout(p)(present).values():
            assert (~kept).float().mean().item() == pytest.approx(p - p**3 / 3, abs=0.01)


# --------------------------------------------------------------------------------------------------
# batches


@few
@given(clips(), st.integers(1, 6))
def test_a_clip_in_a_batch_is_the_clip_alone_whatever_stands_beside_it(found, steps):
    batch = collate(found, audio_average=steps, dims=DIMS)
    assert batch.clip_id == [c.clip_id for c in found] and len(batch) == len(found)
    for row, one in enumerate(found):
        alone = collate([one], audio_average=steps, dims=DIMS)
        for name in MODALITIES:
            assert batch.values[name].shape == (
                len(found),
                batch.mask[name].shape[1],
                DIMS[name],
            )
            count = int(alone.mask[name].sum())
            assert int(batch.mask[name][row].sum()) == count
            assert batch.mask[name][row, :count].all()  # padding is behind, never between
            for part in ("values", "times"):
                ours, theirs = getattr(batch, part)[name][row], getattr(alone, part)[name][0]
                assert torch.equal(ours[:count].double(), theirs[:count].double())
                assert not ours[count:].any()
            assert batch.present[name][row] == alone.present[name][0] == (name not in one.absent)
        assert torch.equal(batch.pooled[row], alone.pooled[0])
    longest = max([1, *(len(c.vision) for c in found if c.vision is not None)])
    assert batch.values["vision"].shape[1] == longest


@few
@given(clips(least=2), seeds)
def test_another_order_of_clips_is_another_order_of_rows(found, seed):
    order = np.random.default_rng(seed).permutation(len(found))
    batch, other = collate(found, dims=DIMS), collate([found[i] for i in order], dims=DIMS)
    for name in MODALITIES:
        for part in ("values", "mask", "times", "present"):
            assert torch.equal(getattr(batch, part)[name][order], getattr(other, part)[name])
    assert torch.equal(batch.pooled[order], other.pooled)


@few
@given(st.integers(1, 60), st.integers(1, 9), seeds)
def test_averaging_is_the_mean_of_neighbours_and_loses_no_step(count, steps, seed):
    values = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    found = average(Sequence(values, np.arange(count, dtype=np.float32)), steps)
    assert len(found) == -(-count // steps)
    for index in range(len(found)):
        part = slice(index * steps, (index + 1) * steps)
        np.testing.assert_allclose(found.values[index], values[part].mean(axis=0), atol=1e-5)
        assert found.times[index] == pytest.approx(np.arange(count)[part].mean())


# --------------------------------------------------------------------------------------------------
# clip tables

letters = st.characters(categories=["Lu", "Ll", "Lo", "Nd"])
ids = st.builds(
    str.__add__, st.text(letters, min_size=1, max_size=8), st.text("_.-a1", max_size=8)
).filter(lambda text: text == text.strip())
intensities = st.lists(st.floats(0, 1), min_size=6, max_size=6)


@st.composite
def rows(draw):
    """Rows of a table that breaks no rule, all of one media file."""
    named = draw(st.lists(ids, min_size=1, max_size=8, unique_by=lambda text: _composed(text)))
    found = []
    for name in named:
        split = draw(st.sampled_from(SPLITS))
        labels = draw(intensities) if split != "predict" else [""] * 6
        found.append(
            {"clip_id": name, "split": split, "video": "a.mp4", "group": draw(ids)}
            | dict(zip(EMOTIONS, labels, strict=True))
        )
    return found


def _composed(text):
    import unicodedata

    return unicodedata.normalize("NFC", text)


@few
@given(rows())
def test_a_table_comes_back_as_it_was_written(tmp_path_factory, found):
    folder = _folder(tmp_path_factory)
    pd.DataFrame(found).to_csv(folder / "clips.csv", index=False)
    manifest = read_csv(folder / "clips.csv")
    assert manifest.clip_ids == [row["clip_id"] for row in found]
    given_split = any(row["split"] == "selection" for row in found)
    for row in found:
        one = manifest[row["clip_id"]]
        # where there is no selection, a part of train becomes it
        assert one.split == row["split"] or (not given_split and row["split"] == "train")
        assert one.video == folder / "a.mp4" and one.audio is None
        if row["split"] == "predict":
            assert one.labels is None
        else:
            np.testing.assert_array_equal(one.labels, [row[name] for name in EMOTIONS])
    again = Manifest(manifest.table, folder, "again")
    pd.testing.assert_frame_equal(again.table, manifest.table)


FAULTS = [
    ("clip_id", "../a", "not usable as an id"),
    ("clip_id", "", "not usable as an id"),
    ("clip_id", "x" * 201, "201 bytes"),
    ("split", "validation", "unknown split"),
    ("video", "b.mp4", "does not exist"),
    ("video", "../b.mp4", "leaves the data folder"),
    ("video", "", "neither a video nor an audio"),
    (EMOTIONS[0], "much", "is not a number"),
    (EMOTIONS[1], "1.5", "outside [0, 1]"),
    (EMOTIONS[2], "", "is empty although other"),
    (EMOTIONS[3], "nan", "is not a number"),
    (EMOTIONS[4], "0.2_5", "is not a number"),
]


@few
@given(st.lists(st.sampled_from([None, *range(len(FAULTS))]), min_size=1, max_size=12))
def test_every_row_that_breaks_a_rule_is_named_and_no_other(tmp_path_factory, chosen):
    folder = _folder(tmp_path_factory)
    found = [
        {"clip_id": f"c{number}", "split": "train", "video": "a.mp4"} | dict.fromkeys(EMOTIONS, 0.5)
        for number in range(len(chosen))
    ]
    for row, fault in zip(found, chosen, strict=True):
        if fault is not None:
            row[FAULTS[fault][0]] = FAULTS[fault][1]
    pd.DataFrame(found).to_csv(folder / "clips.csv", index=False)
    faulty = [number for number, fault in enumerate(chosen) if fault is not None]
    if not faulty:
        assert len(read_csv(folder / "clips.csv")) == len(chosen)
        return
    with pytest.raises(ManifestError) as caught:
        read_csv(folder / "clips.csv")
    problems = caught.value.problems
    for number in faulty:
        column, _, said = FAULTS[chosen[number]]
        place = f"clips.csv, row {number + 2}, column {column}: "
        assert any(line.startswith(place) and said in line for line in problems), (place, problems)
    assert len(problems) == len(faulty)


cells = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(
        ["a.mp4", "../a.mp4", "/", ".", "0.5", "1e400", "-0", "train", "predict", '"', "é/é", "\0"]
    ),
)


@few
@given(
    st.one_of(
        st.binary(max_size=300),
        st.text(st.characters(codec="utf-8"), max_size=300).map(str.encode),
        st.lists(st.lists(cells, min_size=9, max_size=9), max_size=4).map(
            lambda rows: "\n".join(
                ",".join(row) for row in [["clip_id", "video", "split", *EMOTIONS], *rows]
            ).encode()
        ),
    )
)
def test_whatever_stands_in_a_file_it_is_a_table_or_a_manifest_error(tmp_path_factory, data):
    folder = _folder(tmp_path_factory)
    (folder / "clips.csv").write_bytes(data)
    _read_or_refuse(folder)


@pytest.mark.parametrize(
    "cell",
    ["é\0/b", "\0", "é/" * 3000, "a/" * 40_000, "x" * 131_073, "é" * 300, "\ufeff", "é/../é"],
    ids=lambda cell: f"{cell[:3]!r} of {len(cell)}",
)
def test_paths_that_no_disk_can_hold_are_refused_in_one_piece(tmp_path, cell):
    (tmp_path / "clips.csv").write_text(f"clip_id,video\na,{cell}\n", encoding="utf-8")
    with pytest.raises(ManifestError):
        read_csv(tmp_path / "clips.csv")


def _read_or_refuse(folder):
    try:
        manifest = read_csv(folder / "clips.csv")
    except ManifestError as error:
        assert error.problems and all(error.problems)
        return
    assert len(manifest) and set(manifest.table.columns) == set(COLUMNS)
    for one in manifest:  # what was taken is sound
        assert one.split in SPLITS and os.path.isfile(one.video or one.audio)
        assert one.labels is None or ((one.labels >= 0) & (one.labels <= 1)).all()


def _folder(factory):
    folder = factory.getbasetemp() / "table"
    folder.mkdir(exist_ok=True)
    (folder / "a.mp4").touch()
    return folder


# --------------------------------------------------------------------------------------------------
# the store

words = st.text(st.characters(codec="utf-8"), max_size=20)
halves = st.floats(-60_000, 60_000, width=32)


@st.composite
def encoded(draw, clip_id="a"):
    """A clip's features, with any of its modalities absent and any text in its reasons."""
    lacking = draw(st.lists(st.sampled_from(MODALITIES), unique=True))

    def sequence(name, width=3):
        if name in lacking:
            return None
        count = draw(st.integers(1, 5))
        values = draw(arrays.arrays(np.float32, (count, width), elements=halves))
        times = draw(arrays.arrays(np.float32, count, elements=st.floats(0, 1e4, width=32)))
        return Sequence(values, times)

    reasons = st.dictionaries(st.sampled_from(MODALITIES), words)
    tokens = sequence("text")
    return ClipFeatures(
        clip_id,
        audio=sequence("audio"),
        vision=sequence("vision"),
        tokens=tokens,
        pooled=None if tokens is None else draw(arrays.arrays(np.float32, 4, elements=halves)),
        transcript=draw(st.none() | words),
        absent={name: draw(words) for name in lacking},
        damaged=draw(reasons),
        notes=draw(reasons),
        language=draw(st.none() | words),
        words=tuple(
            Word(draw(words), draw(st.floats(0, 99)), draw(st.floats(0, 99)))
            for _ in range(draw(st.integers(0, 3)))
        ),
    )


SEQUENCES = ("audio", "vision", "tokens")
TEXTS = ("transcript", "absent", "damaged", "notes", "language", "words")


def assert_same(there, given_):
    for name in SEQUENCES:
        ours, theirs = getattr(there, name), getattr(given_, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            # half precision: 11 binary digits, and steps of 2**-24 next to zero
            np.testing.assert_allclose(ours.values, theirs.values, rtol=2**-11, atol=2**-25)
            np.testing.assert_array_equal(ours.times, theirs.times)
    if given_.pooled is not None:
        np.testing.assert_allclose(there.pooled, given_.pooled, rtol=2**-11, atol=2**-25)
    for name in TEXTS:
        assert getattr(there, name) == getattr(given_, name), name


@few
@given(encoded(), st.dictionaries(words, words, max_size=3))
def test_the_store_gives_back_what_it_was_given(tmp_path_factory, features, source):
    store = Store(tmp_path_factory.getbasetemp() / "store", {"audio": "x"})
    store.write(features, source)
    again = Store(store.root)
    assert_same(again.read("a"), features)
    assert again.source("a") == source and again.clip_ids() == ["a"]
    assert again.shapes("a") == {
        modality: found.values.shape
        for modality, found in zip(
            MODALITIES, (features.audio, features.vision, features.tokens), strict=True
        )
        if found is not None
    }
    for kind in ("absent", "damaged", "notes"):
        told = {row.modality: row.reason for row in again.report(kind).itertuples()}
        assert told == getattr(features, kind)
    store.write(again.read("a"), source)  # what is half precise already stays as it is
    assert_same(store.read("a"), again.read("a"))


@few
@given(encoded(), encoded(), st.data())
def test_a_clip_is_the_old_or_the_new_one_whatever_stops_its_writing(
    tmp_path_factory, old, new, data
):
    store = Store(tmp_path_factory.getbasetemp() / "stopped", {"audio": "x"})
    store.write(old)
    before = (store.root / "clips" / "a.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans()):
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        else:  # a full disk
            patch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(OSError))
        with pytest.raises((KeyboardInterrupt, OSError)):
            store.write(new)
    assert (store.root / "clips" / "a.safetensors").read_bytes() == before
    assert_same(store.read("a"), old)
    store.write(new)
    assert_same(store.read("a"), new)


@few
@given(encoded(), st.data())
def test_a_file_of_the_store_that_is_cut_or_changed_is_refused_or_still_a_clip(
    tmp_path_factory, features, data
):
    """Damage in the numbers themselves cannot be seen; all else is a StoreError naming the file."""
    store = Store(tmp_path_factory.getbasetemp() / "damaged", {"audio": "x"})
    store.write(features)
    file = store.root / "clips" / "a.safetensors"
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if cut := data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    for ask in (store.read, Store(store.root).source, store.shapes):
        try:
            ask("a")
            assert not cut
        except StoreError as error:
            assert "a.safetensors: is damaged" in str(error)


@pytest.mark.parametrize("key", ["absent", "damaged", "notes", "words", "source", "transcript"])
def test_a_clips_file_without_one_of_its_entries_is_damaged(tmp_path, key):
    store = Store(tmp_path, {"audio": "x"})
    store.write(ClipFeatures("a", absent=dict.fromkeys(MODALITIES, "no file")))
    file = tmp_path / "clips" / "a.safetensors"
    content = file.read_bytes()
    file.write_bytes(content.replace(key.encode(), key.encode()[:-1] + b"_"))
    with pytest.raises(StoreError, match=r"a\.safetensors: is damaged"):
        store.read("a")
    if key != "transcript":  # of another type
        told = json.loads(safe_open(_written(file, content), framework="np").metadata()["taemi"])
        save_file({"nothing": np.zeros(1)}, file, {"taemi": json.dumps(told | {key: 7})})
        with pytest.raises(StoreError, match=f"{key} of another type"):
            store.read("a")


def _written(file, content):
    file.write_bytes(content)
    return file


def test_warnings_of_these_tests_are_their_own():
    """A score that warns where nothing is constant would be seen."""
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.mean_pearson(rng.random((9, 6)), rng.random((9, 6)))

import numpy as np
import pandas as pd
import pytest
import torch
from toy import DIMS, MemoryManifest, clip, dataset, sequence

from taemi_lib.batches import average, derangement
from taemi_lib.features.sequences import ClipFeatures, Sequence
from taemi_lib.features.store import Store
from taemi_lib.models import Batch, ClipDataset, LengthGroupedBatches, collate
from taemi_lib.profiles import EMOTIONS


def test_a_batch_can_be_built_from_plain_tensors_of_any_width():
    batch = Batch({"audio": torch.zeros(2, 3, 7)}, pooled=torch.zeros(2, 11))
    assert batch.mask["audio"].all() and batch.mask["audio"].shape == (2, 3)
    assert torch.allclose(
        batch.times["audio"][0], torch.tensor([0.0, 0.02, 0.04])
    )  # 50 steps a second
    assert (
        batch.present["audio"].all()
        and batch.present["text"].all()
        and not batch.present["vision"].any()
    )
    assert len(batch) == 2 and len(batch.clip_id) == 2


def test_a_modality_without_a_real_step_is_absent_whatever_is_claimed():
    mask = torch.tensor([[True, False], [False, False]])
    batch = Batch(
        {"vision": torch.zeros(2, 2, 3)},
        {"vision": mask},
        present={"vision": torch.ones(2, dtype=bool)},
    )
    assert batch.present["vision"].tolist() == [True, False]


def test_filling_in_defaults_leaves_the_callers_dicts_alone():
    mask = {}
    Batch({"audio": torch.zeros(2, 3, 7)}, mask)
    assert mask == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "at least one"),
        ({"values": {"smell": torch.zeros(2, 3, 4)}}, "smell"),
        ({"values": {"audio": torch.zeros(2, 3)}}, r"values\['audio'\].*\(2, 3\)"),
        (
            {"values": {"audio": torch.zeros(2, 3, 4), "vision": torch.zeros(3, 3, 4)}},
            r"values\['vision'\].*B=2",
        ),
        (
            {"values": {"audio": torch.zeros(2, 3, 4)}, "mask": {"audio": torch.ones(2, 4) > 0}},
            r"\(2, 4\).*\(2, 3\)",
        ),
        (
            {"values": {"audio": torch.zeros(2, 3, 4)}, "mask": {"audio": torch.ones(2, 3)}},
            "torch.bool",
        ),
        (
            {"values": {"audio": torch.zeros(2, 3, 4)}, "times": {"audio": torch.ones(2, 9)}},
            r"times\['audio'\]",
        ),
        (
            {
                "values": {"audio": torch.zeros(2, 3, 4)},
                "mask": {"vision": torch.ones(2, 3, dtype=bool)},
            },
            "vision",
        ),
        ({"pooled": torch.zeros(2, 3), "labels": torch.zeros(3, 6)}, r"labels.*\(3, 6\).*\(2, 6\)"),
        ({"pooled": torch.zeros(2, 3), "known": torch.ones(2, 6).bool()}, "there are no labels"),
        (
            {
                "pooled": torch.zeros(2, 3),
                "labels": torch.zeros(2, 6),
                "known": torch.ones(2, 5).bool(),
            },
            r"known.*\(2, 5\).*\(2, 6\)",
        ),
        ({"pooled": torch.zeros(2, 3), "clip_id": ["a"]}, "1 names for 2 clips"),
    ],
)
def test_wrong_shapes_are_refused_by_field(fields, message):
    with pytest.raises(ValueError, match=message):
        Batch(**fields)


def test_collate_pads_and_marks_what_is_real():
    rng = np.random.default_rng(0)
    clips = [clip("a", rng), clip("b", rng, without=("audio",)), clip("c", rng, without=("text",))]
    batch = collate(clips, np.zeros((3, 6)))
    assert batch.mask["audio"].sum(1).tolist() == [
        len(clips[0].audio.values),
        0,
        len(clips[2].audio.values),
    ]
    assert batch.present["audio"].tolist() == [True, False, True]
    assert batch.present["text"].tolist() == [True, True, False]
    assert batch.values["audio"].dtype == torch.float16  # the model converts
    steps = len(clips[0].vision.values)
    assert torch.equal(batch.values["vision"][0, :steps], torch.from_numpy(clips[0].vision.values))
    assert np.allclose(batch.times["vision"][0, :steps], clips[0].vision.times)
    assert batch.clip_id == ["a", "b", "c"] and batch.labels.shape == (3, 6)


def test_a_modality_that_nobody_has_is_known_by_its_width_only():
    rng = np.random.default_rng(0)
    clips = [clip("a", rng, without=("vision",))]
    assert "vision" not in collate(clips).values
    batch = collate(clips, dims=DIMS)
    assert (
        batch.values["vision"].shape == (1, 1, DIMS["vision"]) and not batch.present["vision"].any()
    )


def test_features_of_another_width_are_refused_with_the_clips_name():
    rng = np.random.default_rng(0)
    odd = ClipFeatures(
        "odd", sequence(3, 9, rng), absent={"vision": "no video track", "text": "nothing was said"}
    )
    with pytest.raises(ValueError, match="'odd'.*9 wide, expected 5"):
        collate([clip("a", rng), odd])


def test_averaging_takes_the_mean_of_neighbours_and_of_their_times():
    averaged = average(
        Sequence(
            np.array([[0.0], [2.0], [4.0], [6.0], [9.0]]), np.array([0.0, 1.0, 2.0, 3.0, 4.0])
        ),
        2,
    )
    assert averaged.values.tolist() == [[1.0], [5.0], [9.0]] and averaged.times.tolist() == [
        0.5,
        2.5,
        4.0,
    ]


def test_a_dataset_gives_the_same_clip_with_and_without_its_memory():
    kept, again = dataset(10, audio_average=2), dataset(10, audio_average=2)
    again._free = 0
    for index in (3, 3, 7):
        assert np.array_equal(kept[index][0].audio.values, again[index][0].audio.values)
    assert len(kept._kept) == 2 and not again._kept
    assert kept.dims == DIMS and kept.lengths.shape == (10,)


def test_a_dataset_reads_the_real_store(tmp_path):
    clips = dataset(10, audio_average=3)
    store = Store(tmp_path, {"audio": "toy"})
    for name in clips.clip_ids:
        store.write(clips.store.read(name))
    table = pd.DataFrame(clips.targets, columns=list(EMOTIONS), index=clips.clip_ids)
    stored = ClipDataset(store, MemoryManifest(table), audio_average=3)
    assert stored.dims == clips.dims and np.array_equal(stored.lengths, clips.lengths)
    ours, theirs = stored.batch(range(10)), clips.batch(range(10))
    assert ours.values["vision"].dtype == torch.float16 and ours.mask["audio"].equal(
        theirs.mask["audio"]
    )
    for name in ("audio", "vision", "text"):
        assert torch.equal(ours.values[name], theirs.values[name])
        assert torch.allclose(ours.times[name], theirs.times[name])


def test_lengths_count_the_steps_after_averaging():
    clips = dataset(10, audio_average=3)
    batch = clips.batch(range(10))
    assert (
        clips.lengths.tolist()
        == (batch.mask["audio"].sum(1) + batch.mask["vision"].sum(1)).tolist()
    )


def test_clips_without_features_are_named():
    clips = dataset(4)
    del clips.store.clips["clip002"]
    table = pd.DataFrame(clips.targets, columns=list(EMOTIONS), index=clips.clip_ids)
    with pytest.raises(ValueError, match="1 of 4 clips.*clip002"):
        ClipDataset(clips.store, MemoryManifest(table))


def test_clips_without_labels_make_a_batch_without_labels():
    clips = dataset(4)
    clips.targets[1] = np.nan
    assert clips.batch([0, 1]).labels is None and clips.batch([0, 2]).labels is not None


def test_length_grouped_batches_hold_every_clip_once_and_depend_on_seed_and_epoch_only():
    lengths = np.random.default_rng(0).integers(1, 500, size=103)
    batches = LengthGroupedBatches(lengths, batch_size=8, seed=3)
    first = list(batches)
    assert len(first) == len(batches) == 13
    assert sorted(index for batch in first for index in batch) == list(range(103))
    assert sorted(map(len, first))[0] == 103 % 8
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first
    fresh = LengthGroupedBatches(lengths, batch_size=8, seed=3)
    fresh.set_epoch(1)
    assert list(fresh) == list(batches)


def test_length_grouped_batches_save_most_of_the_padding():
    lengths = np.random.default_rng(0).integers(1, 500, size=512)

    def padding(batches):
        return sum(len(b) * max(lengths[b]) - sum(lengths[b]) for b in batches)

    ungrouped = [list(range(i, i + 16)) for i in range(0, 512, 16)]
    assert padding(LengthGroupedBatches(lengths, 16)) < 0.4 * padding(ungrouped)


def test_a_derangement_gives_everybody_another_one_and_everybody_once():
    for count in range(2, 12):
        for seed in range(20):
            names = [str(number) for number in range(count)]
            partners = derangement(names, seed)
            assert list(sorted(partners)) == sorted(names) == sorted(partners.values())
            assert all(name != partner for name, partner in partners.items())
    assert derangement(names, 1) == derangement(names, 1) != derangement(names, 2)
    assert derangement(["alone"], 0) == derangement([], 0) == {}


def test_partners_are_clips_of_the_same_split_with_text_and_lend_their_vector():
    clips = dataset(24)  # every fifth lacks something; clip 14 lacks text
    shuffled = clips.with_partners()
    with_text = {name for name in clips.clip_ids if clips.store.read(name).pooled is not None}
    assert (
        0 < len(with_text) < 24
        and set(shuffled.partners) == set(shuffled.partners.values()) == with_text
    )
    rows = [3, 14, 0]
    plain, batch = clips.batch(rows), shuffled.batch(rows)
    assert (
        plain.partner is None
        and batch.clip_id == plain.clip_id
        and torch.equal(batch.pooled, plain.pooled)
    )
    for name, vector, has_text in zip(batch.clip_id, batch.partner, batch.present["text"]):
        if has_text:
            expected = clips.store.read(shuffled.partners[name]).pooled
            assert vector.tolist() == expected.tolist() != clips.store.read(name).pooled.tolist()


def test_partners_depend_on_the_seed_and_the_clips_not_on_their_order():
    clips, other = dataset(24), dataset(24)
    other.clip_ids = other.clip_ids[::-1]
    assert clips.with_partners().partners == other.with_partners().partners
    assert clips.with_partners(1).partners != clips.with_partners().partners


def test_a_batch_checks_and_moves_the_partners():
    batch = Batch(pooled=torch.zeros(2, 3), partner=torch.ones(2, 3))
    assert batch.to("meta").partner.device.type == "meta"
    with pytest.raises(ValueError, match="partner.*expected"):
        Batch(pooled=torch.zeros(2, 3), partner=torch.ones(1, 3))

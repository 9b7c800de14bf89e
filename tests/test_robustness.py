"""What clips lose under a condition, the same for every system, and what the tables say of it."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import toy

from taemi_lib import cli, models, profiles, runs
from taemi_lib.data import noise as noises
from taemi_lib.data.media import Unreadable
from taemi_lib.errors import ChoiceError, ExtractionError, RunError
from taemi_lib.evaluation import comparing
from taemi_lib.experiments import Study, robustness, robustness_summary
from taemi_lib.experiments.masks import hidden
from taemi_lib.experiments.robustness import (
    ARMS,
    COMPLETE,
    LOSSES,
    MIXED,
    NOISE,
    TRAINING,
    Condition,
    Mixed,
    Noisy,
    curves,
    effects,
    noisy,
    trained,
)
from taemi_lib.experiments.robustness import measure as measuring
from taemi_lib.features.sequences import Sequence
from taemi_lib.profiles import MODALITIES
from taemi_lib.workspace import Workspace

RATES = (0.2, 0.5, 0.9)
# as the plan of the course, with a third of its rates
SOME = replace(LOSSES, curves=tuple(curve[::4] for curve in LOSSES.curves))
CONDITIONS = SOME.conditions
SENTENCE = "I saw it, and then we all went home together."


def speaking(count=60, seed=0):
    """Clips of a toy dataset that all say the same."""
    clips = toy.dataset(count, seed)
    for clip_id, clip in clips.store.clips.items():
        if clip.transcript is not None:
            clips.store.clips[clip_id] = replace(clip, transcript=SENTENCE)
    return clips


def encode(text):
    """A text encoder whose tokens say how many words there are."""
    if not text:
        raise Unreadable("empty transcript")
    count = len(text.split())
    values = np.full((count, toy.DIMS["text"]), count, np.float32)
    return Sequence(values, np.arange(count, dtype=np.float32)), values[0]


def lossy(clips, *condition):
    found = robustness.lossy(clips, Condition(*condition), robustness.draw(clips.clip_ids), encode)
    return [found[index][0] for index in range(len(found))]


def test_every_condition_has_a_name_of_its_own_and_there_are_seven_subsets_and_eight_curves():
    planned = LOSSES.conditions
    assert len({condition.name for condition in planned}) == len(planned)
    assert len(robustness.SUBSETS) == 6 and COMPLETE.name == "complete"
    left = {frozenset(MODALITIES) - set(condition.lost) for condition in robustness.SUBSETS}
    assert len(left) == 6 and frozenset() not in left
    assert len(LOSSES.curves) == 8 and robustness.RATES == tuple(n / 10 for n in range(1, 10))
    assert len(planned) == 1 + 6 + 8 * 9


def test_draws_depend_on_the_clip_alone_and_are_uniform():
    names = [f"clip{number}" for number in range(2000)]
    draws = robustness.draw(names)
    assert list(draws) == list(MODALITIES) and list(draws.index) == names
    some = names[::-7]
    pd.testing.assert_frame_equal(robustness.draw(some), draws.loc[some])
    assert ((draws >= 0) & (draws < 1)).all().all()
    np.testing.assert_allclose((draws < 0.3).mean(), 0.3, atol=0.04)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.08
    assert not draws.equals(robustness.draw(names, seed=1))


def test_what_is_lost_at_a_rate_is_lost_at_every_higher_one_and_no_clip_loses_its_last():
    clips = toy.dataset(200)
    before = [set(clips[index][0].absent) for index in range(200)]
    for rate in robustness.RATES:
        now = [set(clip.absent) for clip in lossy(clips, "whole", MODALITIES, rate)]
        assert all(one <= two for one, two in zip(before, now, strict=True))
        assert all(len(absent) < 3 for absent in now)
        before = now
    gone = [np.mean([name in absent for absent in before]) for name in MODALITIES]
    assert all(0.5 < share < 0.8 for share in gone)  # of .9, each third time the last one


@pytest.mark.parametrize("condition", robustness.SUBSETS, ids=lambda one: one.name)
def test_a_subset_leaves_nothing_of_what_it_lacks(condition):
    clips = toy.dataset(20)
    found = lossy(clips, condition.protocol, condition.lost, condition.rate)
    for index, clip in enumerate(found):
        whole = clips[index][0]
        assert set(clip.absent) == set(whole.absent) | set(condition.lost)
        kept = set(MODALITIES) - set(clip.absent)
        for name, field in (("audio", "audio"), ("vision", "vision"), ("text", "tokens")):
            assert getattr(clip, field) is (getattr(whole, field) if name in kept else None)


def test_steps_are_lost_in_their_share_and_the_others_keep_their_times():
    clips = speaking(80)
    whole = [clips[index][0] for index in range(80)]
    before = {}
    for rate in RATES:
        found = lossy(clips, "steps", MODALITIES, rate)
        for name in ("audio", "vision"):
            there = [getattr(clip, name) for clip in found]
            left = sum(len(one) for one in there if one is not None)
            total = sum(len(getattr(c, name)) for c in whole if getattr(c, name) is not None)
            assert abs(left / total - (1 - rate)) < 0.08
            for number, (one, full) in enumerate(zip(there, whole, strict=True)):
                times = set() if one is None else set(one.times.tolist())
                assert times <= before.get((name, number), times)
                before[name, number] = times
                if one is not None:
                    sequence = getattr(full, name)
                    at = np.searchsorted(sequence.times, one.times)
                    np.testing.assert_array_equal(one.values, sequence.values[at])
    assert any("all steps lost" in clip.absent.values() for clip in found)


def test_words_are_lost_before_the_text_encoder_reads_them():
    clips = speaking(80)
    counts = []
    for clip in lossy(clips, "steps", ("text",), 0.5):
        if clip.tokens is None:
            continue
        said = clip.transcript.split()
        counts.append(len(said))
        remaining = iter(SENTENCE.split())
        assert all(word in remaining for word in said)  # in their order
        if len(said) < 10:  # else nothing was lost, and the stored numbers stay
            assert len(clip.tokens) == len(said)
            np.testing.assert_array_equal(clip.tokens.values, len(said))
            assert clip.pooled[0] == len(said) and clip.pooled.dtype == np.float16
    assert abs(np.mean(counts) / 10 - 0.5) < 0.06 and min(counts) < 4 < 6 < max(counts)


def test_words_that_are_not_known_are_an_error_with_the_clips_name():
    clips = toy.dataset(5)
    draws = robustness.draw(clips.clip_ids)
    condition = Condition("steps", ("text",), 0.5)
    with pytest.raises(ValueError, match="'clip000'.*words are not known"):
        robustness.lossy(clips, condition, draws)


def test_a_weighted_sum_of_rhos_is_one_of_the_same_models():
    rng = np.random.default_rng(0)
    one, two = (comparing.Rho(rng.normal(size=5), rng.normal(size=(5, 200)) / 10) for _ in range(2))
    nothing = comparing.from_zero(comparing.combined([(1, one), (-1, one)]))
    assert nothing.delta == nothing.low == nothing.high == 0 and nothing.p == 1
    mean = comparing.combined([(0.5, one), (0.5, two)])
    assert np.isclose(mean.mean, (one.mean + two.mean) / 2)
    # the same models on the same clips, .2 lower everywhere: what they have in common cancels
    lower = comparing.Rho(one.seeds - 0.2, one.resampled - 0.2)
    drop = comparing.from_zero(comparing.combined([(1, lower), (-1, one)]))
    apart = comparing.compare(lower, one)
    assert np.isclose(drop.delta, -0.2) and np.isclose(drop.high - drop.low, 0, atol=1e-9)
    assert apart.high - apart.low > 0.5


# --------------------------------------------------------------------------------------------------
# a small study

TINY = profiles.PROFILES["smoke"].changed(
    {"data.clips": 28, "data.seed": 8, "training.batch_size": 8, "model.width": 16}
)
SYSTEMS = ("taemi", "text_only", "audio_only")


def measured(folder, systems=SYSTEMS, **options):
    place = Workspace(
        TINY, folder / "data", folder / "runs", device="cpu", progress=False, **options
    )
    return robustness.Robustness(Study(place, {"cue": systems}, seeds=(0, 1)), SOME)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("robustness")
    assert measured(place).run()
    return place


@pytest.mark.slow
def test_every_system_was_shown_the_same_numbers_and_other_conditions_others(folder):
    found = measured(folder)
    shown = curves.shown(found)
    assert len(shown) == len(CONDITIONS)
    assert shown["clips"].nunique() > 25  # of 12 clips, some lose nothing more at the next rate
    for condition in (CONDITIONS[0], CONDITIONS[-1]):
        clips = robustness.clips_under(found.workspace, condition)
        assert clips.store.fingerprint(clips.clip_ids) == found.about(condition)["clips"]
    assert (shown[["audio", "vision", "text"]] >= 0).all().all()
    alone = shown[shown["lost"] == "audio+vision"].iloc[0]
    assert alone["audio"] == alone["vision"] == 0 < alone["text"]


@pytest.mark.slow
def test_a_system_that_ignores_a_modality_has_a_flat_curve_for_it(folder):
    points = robustness.points(measured(folder)).set_index(["system", "lost", "protocol"])
    for system, ignored in (
        ("text_only", ("audio", "vision", "audio+vision")),
        ("audio_only", ("vision", "text", "vision+text")),
    ):
        flat = points.loc[system].loc[list(ignored)]
        assert len(flat) == 2 * 2 * 3 + 2 + 1
        np.testing.assert_allclose(flat["rho"], points.loc[(system, "", "whole"), "rho"])
        np.testing.assert_allclose(flat[["drop", "drop_low", "drop_high"]], 0, atol=1e-6)
    gone = points.loc[("text_only", "text", "whole")].set_index("rate").loc[1.0]
    assert gone["rho"] == 0  # nothing is left to say
    assert points.loc[("text_only", "text", "whole"), "rho"].nunique() > 2


@pytest.mark.slow
def test_areas_are_the_mean_height_of_the_curves(folder):
    found = measured(folder)
    points, areas = robustness.points(found), robustness.areas(found)
    assert len(areas) == len(LOSSES.curves) * len(SYSTEMS)
    for row in areas.itertuples():
        same = (points["system"] == row.system) & (points["rate"] < 1)
        curve = points[same & (points["lost"] == row.lost) & (points["protocol"] == row.protocol)]
        complete = points[same & (points["rate"] == 0)]["rho"].iloc[0]
        rates, heights = [0, *curve["rate"]], [complete, *curve["rho"]]
        assert len(rates) == 4
        assert np.isclose(row.area, np.trapezoid(heights, rates) / 0.9)
        assert np.isclose(row.drop, row.area - complete)
    others = areas[areas["system"] != "taemi"]
    assert (others["low"] <= others["delta"]).all() and (others["p_holm"] >= others["p"]).all()
    assert areas[areas["system"] == "taemi"]["verdict"].isna().all()


@pytest.mark.slow
def test_nothing_is_made_twice_and_one_system_alone_gives_the_same_rows(folder, monkeypatch):
    def refuse(asked):
        raise AssertionError("asked again")

    monkeypatch.setattr(measuring, "predict", refuse)
    again = measured(folder)
    assert again.run()
    whole = pd.read_csv(robustness.write(again, folder / "one") / "points.csv")
    robustness.write(measured(folder), folder / "two")
    for name in ("points", "areas", "conditions", "draws"):
        written = [(folder / place / f"{name}.csv").read_bytes() for place in ("one", "two")]
        assert written[0] == written[1]
    alone = pd.read_csv(
        robustness.write(measured(folder, ("taemi", "text_only")), folder / "alone") / "points.csv"
    )
    same = [
        *("protocol", "lost", "rate", "system", "rho", "sd"),
        *("drop", "drop_low", "drop_high", "delta", "p"),
    ]
    both = whole[whole["system"].isin(["taemi", "text_only"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone[same], both[same])


@pytest.mark.slow
def test_tables_of_other_systems_or_clips_are_not_written_over(folder):
    place = robustness.write(measured(folder), folder / "kept")
    before = (place / "points.csv").read_bytes()
    with pytest.raises(RunError, match="holds also audio_only"):
        robustness.write(measured(folder, ("taemi", "text_only")), place)
    (place / "draws.csv").write_text("clip_id,audio,vision,text\nanother,0.1,0.2,0.3\n")
    with pytest.raises(RunError, match="other clips"):
        robustness.write(measured(folder), place)
    assert (place / "points.csv").read_bytes() == before


@pytest.mark.slow
def test_predictions_of_another_checkpoint_are_made_again_and_of_other_clips_refused(
    folder, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    found = measured(copy, processes=1)
    best = found.folders("text_only")[0] / "best" / "model.safetensors"
    shutil.copy(found.folders("text_only")[1] / "best" / "model.safetensors", best)
    changed = measured(copy, processes=1)
    assert changed._missing(COMPLETE) == ["text_only"]
    assert changed.run() and not changed._missing(COMPLETE)
    rho = changed.rho(COMPLETE, "text_only")
    assert rho.seeds[0] == rho.seeds[1]  # the same weights now
    about = changed._about(COMPLETE, "taemi")
    path = changed.path(COMPLETE, "taemi")
    numbers = measuring.save(
        {"predictions": np.zeros((2, 4, 6), np.float32)},
        {"taemi": measuring.json.dumps(about | {"clips": "others"})},
    )
    path.write_bytes(numbers)
    with pytest.raises(RunError, match="shown different clips under complete"):
        changed.about(COMPLETE)


def test_imported_features_and_several_label_sets_are_refused(tmp_path):
    place = Workspace("demo", tmp_path / "data", tmp_path / "runs")
    with pytest.raises(ChoiceError, match="one label set"):
        robustness.Robustness(Study(place, {"cue": ("taemi",), "text": ("taemi",)}))
    own = place.changed({"data.source": "features"})
    with pytest.raises(ChoiceError, match="imported features"):
        robustness.Robustness(Study(own, {own.label_set: ("taemi",)}))


def test_the_command_refuses_before_anything_is_made(tmp_path, capsys):
    roots = ["--data-root", str(tmp_path / "data"), "--runs-root", str(tmp_path / "runs")]
    assert cli.main(["robustness", "nobody", *roots]) == 2
    assert "nobody" in capsys.readouterr().err
    table = tmp_path / "none.csv"
    assert cli.main(["robustness", "--searched", str(table), *roots]) == 1
    assert "none.csv" in capsys.readouterr().err
    assert not (tmp_path / "data").exists() and not (tmp_path / "runs").exists()


def test_the_systems_of_the_course_exist():
    from taemi_lib import experiments

    assert set(experiments.ROBUST) <= set(models.names())
    assert experiments.ROBUST[0] == experiments.REFERENCE
    assert set(experiments.MASKED) <= set(experiments.ROBUST)


# --------------------------------------------------------------------------------------------------
# noise

FEW = replace(
    NOISE,
    curves=(
        (Noisy("white", 1), Noisy("white", 5)),
        (Noisy("babble", 1), Noisy("babble", 5)),
        (Noisy("occlusion", 1), Noisy("occlusion", 5)),
        (Noisy("substituted", 1), Noisy("substituted", 5)),
    ),
)


def under(found, noise, level):
    clips = robustness.clips_under(found.workspace, Noisy(noise, level))
    return [clips[index][0] for index in range(len(clips))]


def test_every_noise_but_lost_words_has_five_levels():
    names = {condition.name for condition in NOISE.conditions}
    assert len(names) == len(NOISE.conditions) == 1 + 11 * 5
    assert {c.noise for c in NOISE.conditions} == set(noises.NOISES) - {"deleted"} | {""}
    assert NOISE.complete.name == COMPLETE.name and np.isnan(NOISE.complete.strength)
    assert Noisy("white", 5).key == {"noise": "white", "level": 5, "strength": 5}


@pytest.mark.slow
def test_noise_reaches_what_it_is_in_and_nothing_else(folder):
    found = measured(folder)
    clean = under(found, "", 0)
    for noise, reached in (
        ("white", {"audio", "text"}),  # words are heard anew
        ("occlusion", {"vision"}),
        ("substituted", {"text"}),
    ):
        changed = set()
        for one, whole in zip(under(found, noise, 5), clean, strict=True):
            assert one.clip_id == whole.clip_id
            for name, field in (("audio", "audio"), ("vision", "vision"), ("text", "tokens")):
                now, before = getattr(one, field), getattr(whole, field)
                if now is None or before is None:
                    different = (now is None) != (before is None)
                else:
                    different = not np.array_equal(now.values, before.values)
                if different:
                    changed.add(name)
        assert changed == reached


@pytest.mark.slow
def test_a_noise_of_no_strength_gives_the_stored_features(folder, monkeypatch):
    """What is encoded anew is encoded as it was: only the noise makes the difference."""
    found = measured(folder)
    table = found.workspace.clips()
    store = found.workspace.features()[0]
    for noise, nothing in (("white", np.inf), ("occlusion", 0.0), ("low_light", 0.0)):
        quiet = replace(noises.NOISES[noise], strengths=(nothing,))
        monkeypatch.setitem(noises.NOISES, noise, quiet)
        for clip in [one for one in table if one.split == "test"][:3]:
            clean = store.read(clip.clip_id)
            again = noisy.spoiled(found.workspace, Noisy(noise, 1), clip, clean)
            assert again.transcript == clean.transcript and again.absent == clean.absent
            for field in ("audio", "vision", "tokens"):
                now, before = getattr(again, field), getattr(clean, field)
                assert (now is None) == (before is None)
                if now is not None:
                    np.testing.assert_array_equal(now.values.astype(np.float16), before.values)


@pytest.mark.slow
def test_more_noise_moves_the_features_further(folder):
    found = measured(folder)
    clean = under(found, "", 0)
    for noise, field in (("white", "audio"), ("occlusion", "vision")):
        far = []
        for level in (1, 5):
            pairs = zip(under(found, noise, level), clean, strict=True)
            both = [(getattr(a, field), getattr(b, field)) for a, b in pairs]
            far.append(np.mean([np.abs(a.values - b.values).mean() for a, b in both if a and b]))
        assert 0 < far[0] < far[1] / 2


@pytest.mark.slow
def test_babble_is_other_peoples(folder):
    place = measured(folder).workspace
    groups = place.groups()
    clips = [clip for clip in place.clips() if clip.split == "test"]
    assert len(set(groups.values())) > 1
    for clip in clips:
        voices = noisy._needed(place, "voices", clip)["voices"]
        own = [
            v for name, v in noisy._voices(place).items() if groups[name] == groups[clip.clip_id]
        ]
        assert voices and not any(v is other for v in own for other in voices)
    training = {clip.clip_id for clip in place.clips() if clip.split == "train"}
    assert set(noisy._voices(place)) <= training


@pytest.mark.slow
def test_noise_is_measured_like_losses_and_is_encoded_once(folder, monkeypatch):
    found = replace(measured(folder), plan=FEW)
    assert found.run()
    points, areas = robustness.points(found), robustness.areas(found)
    assert len(points) == len(FEW.conditions) * len(SYSTEMS)
    assert len(areas) == len(FEW.curves) * len(SYSTEMS)
    blind = points[(points["system"] == "text_only") & (points["noise"] == "occlusion")]
    assert (blind["drop"] == 0).all()
    deaf = points[(points["system"] == "audio_only") & (points["noise"] == "substituted")]
    assert (deaf["drop"] == 0).all()
    # at least as good as without what the noise reaches, or not: by the rows themselves
    gone = found.rho(Condition("whole", ("audio", "text"), 1.0), "taemi").mean
    loud = points[(points["system"] == "taemi") & (points["noise"] == "white")]
    np.testing.assert_allclose(loud["over_missing"], loud["rho"] - gone)
    assert points[points["level"] == 0]["over_missing"].isna().all()
    shown = curves.shown(found).set_index(["noise", "level"])
    assert shown["clips"].is_unique
    assert shown.loc[("white", 5), "heard"] < shown.loc[("white", 1), "heard"]
    assert (shown["heard"] <= shown.loc[("", 0), "heard"]).all()
    written = robustness.write(found, folder / "noise")
    names = {path.name for path in written.iterdir()}
    assert names == {"noise_points.csv", "noise_areas.csv", "noise_conditions.csv", "draws.csv"}
    assert "noise (babble)" in robustness_summary(written, "noise_")
    assert robustness_summary(written, "mixed_") == ""

    def refuse(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(noisy, "spoiled", refuse)
    assert replace(measured(folder), plan=FEW).run()
    before = under(found, "white", 5)
    again = under(measured(folder), "white", 5)
    assert all(one.transcript == two.transcript for one, two in zip(before, again, strict=True))


def test_the_grid_of_switches_and_noise_has_no_twins():
    names = {condition.name for condition in MIXED.conditions}
    assert len(names) == len(MIXED.conditions) == 3 * 16 + 4 * 4
    for condition in MIXED.conditions:
        assert "vision" not in condition.lost or not condition.picture
        assert not {"audio", "text"} <= set(condition.lost) or not condition.sound


@pytest.mark.slow
def test_switches_and_noise_are_taken_from_the_noisy_clips(folder):
    found = measured(folder)
    loud, dark = under(found, "babble", 3), under(found, "low_light", 5)
    loud_ids = [clip.clip_id for clip in loud]
    mixed = robustness.clips_under(found.workspace, Mixed(("audio",), 3, 5))
    for index, (one, two) in enumerate(zip(loud, dark, strict=True)):
        clip = mixed[index][0]
        assert clip.clip_id == one.clip_id and clip.audio is None
        assert clip.transcript == one.transcript
        assert (clip.vision is None) == (two.vision is None)
        if clip.vision is not None:
            np.testing.assert_array_equal(clip.vision.values, two.vision.values)
        if clip.tokens is not None:
            np.testing.assert_array_equal(clip.tokens.values, one.tokens.values)
    # clips without noise are told from their numbers, too, under whatever name
    numbers = {
        robustness.clips_under(found.workspace, plan.complete).store.fingerprint(loud_ids)
        for plan in robustness.PLANS.values()
    }
    assert numbers == {found.about(COMPLETE)["clips"]}
    assert found.workspace.features()[0].fingerprint(loud_ids) not in numbers
    nothing = robustness.clips_under(found.workspace, Mixed())
    assert nothing.store.fingerprint(nothing.clip_ids) == found.about(COMPLETE)["clips"]


@pytest.mark.slow
def test_a_clip_that_fails_with_noise_only_is_named(folder, monkeypatch):
    found = measured(folder)

    def fail(*_, **__):
        raise RuntimeError("too loud")

    monkeypatch.setitem(
        noises.NOISES, "clipping", replace(noises.NOISES["clipping"], function=fail)
    )
    clips = found.workspace.clips()
    clean = found.workspace.features()[0]
    loud = next(c for c in clips if "audio" not in clean.read(c.clip_id).absent)
    with pytest.raises(ExtractionError, match=f"clip {loud.clip_id} .*noise-clipping-2.*too loud"):
        noisy.spoiled(found.workspace, Noisy("clipping", 2), loud, clean.read(loud.clip_id))


# --------------------------------------------------------------------------------------------------
# training for it


def test_arms_cross_tokens_dropout_and_training_clips():
    assert len({arm.name for arm in ARMS}) == len(ARMS) == 2 * 4 * 2
    for of, under, with_it, without in effects.EFFECTS:
        one, two = ([arm for arm in ARMS if chosen(arm)] for chosen in (with_it, without))
        assert len(one) == len(two) > 0 and not set(one) & set(two), (of, under)
    # what is compared differs in what it is named after, and in nothing else
    shares = {of: (one, two) for of, under, one, two in effects.EFFECTS}
    for of, field in (("missing tokens", "tokens"), ("spoiled clips", "spoiled")):
        one, two = ([arm for arm in ARMS if chosen(arm)] for chosen in shares[of])
        assert {replace(arm, **{field: False}) for arm in one} == set(two)


@pytest.mark.slow
def test_half_of_the_spoiled_clips_stay_as_they_are(folder):
    place = measured(folder).workspace
    before = place.datasets()["train"]
    after = trained.spoiled(place)
    assert after.clip_ids == before.clip_ids
    np.testing.assert_array_equal(after.targets, before.targets)
    same = lost = 0
    for index in range(len(before)):
        whole, clip = before[index][0], after[index][0]
        same += clip.transcript == whole.transcript
        for name in ("audio", "vision"):
            one, two = getattr(clip, name), getattr(whole, name)
            if two is not None and (one is None or len(one) < len(two)):
                lost += 1
            elif two is not None and clip.transcript == whole.transcript:
                np.testing.assert_array_equal(one.values, two.values)
    assert 0.2 < same / len(before) < 0.8 and lost > 3
    again = trained.spoiled.__wrapped__(place)
    assert again.store.fingerprint(again.clip_ids) == after.store.fingerprint(after.clip_ids)


@pytest.fixture(scope="module")
def arms(folder):
    place = measured(folder).workspace.changed({"training.epochs": 1})
    plan = replace(
        TRAINING, curves=((Condition("whole", MODALITIES, 0.9),), (Noisy("low_light", 5),))
    )
    found = robustness.Robustness(robustness.Arms(place, "cue", (0, 1)), plan)
    assert found.run()
    return found


@pytest.mark.slow
def test_arms_are_trained_as_they_say(arms):
    for (_, name, _), job in arms.study.jobs().items():
        config = runs.read_kept(job.folder / "config.json")
        arm = next(arm for arm in ARMS if arm.name == name)
        assert config["system"] == arm.system
        assert config["sizes"]["modality_dropout"] == arm.dropout
    data = {
        spoiled: {
            runs.read_kept(job.folder / "config.json")["data"]["train"]["features"]
            for (_, name, _), job in arms.study.jobs().items()
            if name.endswith("spoiled") == spoiled
        }
        for spoiled in (False, True)
    }
    assert len(data[False]) == len(data[True]) == 1 and data[False] != data[True]
    assert arms.run()  # what is there is found


@pytest.mark.slow
def test_effects_are_differences_of_mean_levels(arms, tmp_path):
    table, levels = robustness.training_effects(arms), robustness.training_levels(arms)
    titles = ["complete", "whole audio+vision+text", "noise low_light"]
    assert list(table["curve"].unique()) == list(levels["curve"].unique()) == titles
    assert len(levels) == 3 * len(ARMS) and len(table) == 3 * len(effects.EFFECTS)
    for curve in titles:
        here = levels[levels["curve"] == curve]
        rows = table[table["curve"] == curve].set_index(["of", "under"])
        clean = here[~here["spoiled"]].groupby("tokens")["area"].mean()
        found = rows.loc[("missing tokens", effects.OFF), "delta"]
        assert np.isclose(found, clean[True] - clean[False])
        trained_on = here.groupby("spoiled")["area"].mean()
        found = rows.loc[("spoiled clips", "any dropout"), "delta"]
        assert np.isclose(found, trained_on[True] - trained_on[False])
    assert ((table["low"] <= table["delta"]) & (table["delta"] <= table["high"])).all()
    written = robustness.write(arms, tmp_path)
    assert {path.stem for path in written.iterdir()} == {
        *("training_effects", "training_levels", "training_conditions", "draws")
    }
    assert "missing tokens (clips as they are)" in robustness_summary(written, "training_")


def test_the_command_knows_every_plan():
    asked = next(one for one in cli.study.robustness.params if one.name == "plan")
    assert list(asked.type.choices) == list(robustness.PLANS)


@pytest.mark.slow
def test_noise_that_leaves_no_word_leaves_no_text(folder, monkeypatch):
    found = measured(folder)
    gone = replace(noises.NOISES["deleted"], strengths=(1.0,))
    monkeypatch.setitem(noises.NOISES, "deleted", gone)
    store = found.workspace.features()[0]
    said = next(c for c in found.workspace.clips() if store.read(c.clip_id).transcript)
    clean = store.read(said.clip_id)
    clip = noisy.spoiled(found.workspace, Noisy("deleted", 1), said, clean)
    assert clip.absent["text"] == noisy.NO_WORDS and clip.tokens is None
    assert clip.audio is clean.audio


@pytest.mark.slow
def test_words_that_were_never_read_are_not_read_under_noise(folder):
    """A transcript that the encoder knows no word of is kept, and the clip has no text; other
    words give it none."""
    found = measured(folder)
    store = found.workspace.features()[0]
    said = next(c for c in found.workspace.clips() if store.read(c.clip_id).transcript)
    unread = replace(hidden(store.read(said.clip_id), ["text"]), transcript="привет мир")
    assert noisy.spoiled(found.workspace, Noisy("substituted", 5), said, unread) is unread


def test_the_experiment_with_training_takes_no_other_systems(tmp_path, capsys):
    roots = ["--data-root", str(tmp_path / "data"), "--runs-root", str(tmp_path / "runs")]
    assert cli.main(["robustness", "mult", "--plan", "training", *roots]) == 2
    assert "name no systems" in capsys.readouterr().err

"""The generator: planted truth, disjoint pools, real files, the same content twice."""

import hashlib
import shutil

import av
import numpy as np
import pytest

from taemi_lib.data import synthmimic
from taemi_lib.data.synthmimic import face, render, voice, world
from taemi_lib.errors import ChoiceError, ManifestError
from taemi_lib.profiles import EMOTIONS, Data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthmimic.generate(
        tmp_path_factory.mktemp("data") / "clips", Data(clips=10), progress=False
    )


@pytest.fixture(scope="module")
def many():
    return {pool: [world.draw(seed, pool) for seed in range(300)] for pool in world.POOLS}


def decoded(path) -> str:
    digest = hashlib.sha256()
    for kind in ("video", "audio"):
        with av.open(str(path)) as container:
            for frame in container.decode(**{kind: 0}) if getattr(container.streams, kind) else ():
                digest.update(frame.to_ndarray().tobytes())
    return digest.hexdigest()


def test_voices_sentences_and_faces_of_different_pools_never_meet(many):
    for read in (lambda clip: clip.voice, lambda clip: clip.sentence, lambda clip: clip.identity):
        seen = [{read(clip) for clip in clips} for clips in many.values()]
        assert len(set.union(*seen)) == sum(len(values) for values in seen)
    allowed = [set(world.voices(pool)) for pool in world.POOLS]
    assert len(set.union(*allowed)) == sum(len(values) for values in allowed) == len(world.VOICES)


def test_generated_splits_keep_their_pools_apart(folder):
    table = synthmimic.truth(folder)
    assert set(table["split"]) == {"train", "selection", "test"}
    for column in ("voice", "sentence", "identity"):
        by_split = table.groupby("split")[column].agg(set)
        assert len(set.union(*by_split)) == sum(map(len, by_split))
    for split, rows in table.groupby("split"):
        assert set(rows["voice"]) <= set(world.voices(split))
        assert all(world.sentence_pool(sentence) == split for sentence in rows["sentence"])


def test_the_words_say_which_event_counts(many):
    for clip in many["train"]:
        assert any(cue in clip.sentence for cue in world.CUES[clip.cue])
        assert not any(cue in clip.sentence for cue in world.CUES[1 - clip.cue])
        assert world.counting_event(clip, "cue") == clip.cue
        assert world.counting_event(clip, "fixed") == 1


def test_labels_follow_the_formula_by_hand():
    clip = world.draw(3, "train", complete=True)
    event = clip.cue
    expected = 0.3 * np.array(clip.text)
    expected[clip.emotions[event]] += 0.4 * clip.face[event] + 0.3 * clip.voice_strength[event]
    assert world.noiseless(clip, "cue") == pytest.approx(expected)
    assert (world.noiseless(clip, "cue") <= 1).all()
    decoy = clip.emotions[1 - event]
    assert world.noiseless(clip, "cue")[decoy] == pytest.approx(0.3 * clip.text[decoy])


def test_labels_are_sparse_skewed_and_in_range(many):
    rng = np.random.default_rng(0)
    labels = np.array(
        [world.rate(world.noiseless(clip, "cue"), 0.08, rng) for clip in many["test"]]
    )
    assert 0 <= labels.min() and labels.max() <= 1
    assert 0.4 < (labels == 0).mean() < 0.7
    assert (labels[labels > 0] >= world.TRACE).all()


def test_regimes_share_clips_and_noise(folder):
    cue, fixed = (synthmimic.read(folder, Data(regime=name)) for name in ("cue", "fixed"))
    assert cue.clip_ids == fixed.clip_ids
    table = synthmimic.truth(folder)
    same = (table["counts/cue"] == table["counts/fixed"]).to_numpy()
    assert 0 < same.sum() < len(table)
    assert (cue.targets(cue.clip_ids)[same] == fixed.targets(fixed.clip_ids)[same]).all()
    with pytest.raises(ChoiceError, match="both, cue, face_cue, fixed, text"):
        synthmimic.regime_table(table, "sideways")


def test_labels_of_the_first_regimes_are_those_of_version_1():
    """Stored from version 1, seed 7, noise .08: whatever is added, runs and figures made with them
    stay comparable."""

    def label(regime, number):
        clip = world.draw(7_000_000 + number, "train")
        return world.rate(
            world.noiseless(clip, regime), 0.08, np.random.default_rng([clip.seed, 7])
        ).round(4)

    for regime, first, total in [
        ("cue", [0.116, 0.0, 0.1299, 0.0, 0.0, 0.5696], 52.0837),
        ("fixed", [0.116, 0.0, 0.1299, 0.0, 0.0, 0.5696], 52.7948),
    ]:
        assert label(regime, 0).tolist() == first
        assert np.sum([label(regime, number) for number in range(60)]) == pytest.approx(total)


def test_where_both_events_count_each_gives_its_share_and_labels_stay_comparable(many):
    clip = world.draw(3, "train", complete=True)
    expected = 0.3 * np.array(clip.text)
    for emotion, seen, heard in zip(clip.emotions, clip.face, clip.voice_strength):
        expected[emotion] += world.BOTH_SHARE * (0.4 * seen + 0.3 * heard)
    assert world.counting_event(clip, "both") == -1
    assert world.noiseless(clip, "both") == pytest.approx(expected)
    both, cue = (
        np.array([world.noiseless(c, regime) for c in many["test"]]) for regime in ("both", "cue")
    )
    assert 0 <= both.min() and both.max() <= 1
    assert both.std(axis=0).mean() == pytest.approx(cue.std(axis=0).mean(), rel=0.05)


def test_in_text_the_words_weigh_most_and_in_face_cue_only_the_glance_tells(many):
    clip = world.draw(3, "train", complete=True)
    expected = 0.6 * np.array(clip.text)
    expected[clip.emotions[clip.cue]] += (
        0.2 * clip.face[clip.cue] + 0.2 * clip.voice_strength[clip.cue]
    )
    assert world.noiseless(clip, "text") == pytest.approx(expected)
    assert all(world.counting_event(c, "face_cue") == c.gaze for c in many["test"])
    agree = np.mean([c.gaze == c.cue for c in many["test"]])
    assert 0.4 < agree < 0.6  # the words say nothing about the glance


def test_other_label_noise_is_other_labels_for_the_same_clips(folder):
    before = (folder / "truth.parquet").read_bytes()
    usual, noisy, none = (
        synthmimic.read(folder, Data(clips=10, label_noise=noise)).table[list(EMOTIONS)]
        for noise in (0.08, 0.3, 0.0)
    )
    truth = synthmimic.truth(folder)
    assert (usual.to_numpy() == synthmimic.regime_table(truth, "cue").to_numpy()).all()
    exact = synthmimic.regime_table(truth, "cue", "noiseless").to_numpy()
    errors = [np.abs(table.to_numpy() - exact).mean() for table in (none, usual, noisy)]
    assert errors[0] < errors[1] < errors[2]
    told = synthmimic.read(folder, Data(seed=1, label_noise=0.3))  # the folder's seed counts
    assert told.table[list(EMOTIONS)].equals(noisy)
    synthmimic.generate(folder, Data(clips=10, label_noise=0.3), progress=False)
    assert (folder / "truth.parquet").read_bytes() == before


def test_the_folder_is_in_the_official_layout(folder):
    from taemi_lib.data import vidmimic2

    official, own = vidmimic2.read(folder), synthmimic.read(folder)
    assert sorted(official.clip_ids) == sorted(own.clip_ids)
    ids = own.select("test").clip_ids
    assert official.select("test").clip_ids == ids
    assert (official.targets(ids) == own.targets(ids)).all()


def test_the_same_seed_gives_the_same_decoded_clip(tmp_path):
    clips = [world.draw(seed, "train", complete=True) for seed in (1, 2)]
    first = []
    for clip in clips:
        render.write(clip, tmp_path / "clip.mp4")
        first.append(decoded(tmp_path / "clip.mp4"))
    for clip, digest in reversed(
        list(zip(clips, first))
    ):  # another order: no state may leak from clip to clip
        render.write(clip, tmp_path / "again.mp4")
        assert decoded(tmp_path / "again.mp4") == digest
    assert first[0] != first[1]


def test_encoding_does_not_depend_on_what_lies_in_memory(tmp_path):
    clip = world.draw(
        7_000_001, "train"
    )  # with x264's lookahead, this one came out in several versions
    rng = np.random.default_rng(0)
    versions = set()
    for _ in range(8):
        junk = [rng.random(rng.integers(1, 100_000)) for _ in range(5)]
        render.write(clip, tmp_path / "clip.mp4")
        versions.add(decoded(tmp_path / "clip.mp4"))
        del junk
    assert len(versions) == 1


def test_clips_have_picture_and_sound_that_browsers_play(tmp_path):
    clip = world.draw(5, "test", complete=True)
    speech = render.write(clip, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec.name, audio.codec.name) == ("h264", "aac")
        assert video.pix_fmt == "yuv420p"
        assert float(container.duration / av.time_base) == pytest.approx(speech.duration, abs=0.15)
    assert 2 < speech.duration < 6


def test_events_lie_inside_the_clip_in_order_and_apart(many):
    for clip in many["encoder"][:4]:
        speech = voice.speak(clip)
        (a, b), (c, d) = speech.events
        assert 0 <= a < b <= c < d <= speech.duration + 1e-6
        assert len(speech.starts) == len(clip.words)


def test_louder_events_are_louder():
    loud = EMOTIONS.index("Determination")
    clip = next(
        c
        for c in (world.draw(s, "train", complete=True) for s in range(500))
        if c.emotions[0] == loud and c.voice_strength[0] > 0.8
    )
    speech = voice.speak(clip)
    start, end = (int(t * voice.RATE) for t in speech.events[0])
    inside = np.sqrt((speech.samples[start:end] ** 2).mean())
    outside = np.sqrt((speech.samples[end + 4000 : end + 20000] ** 2).mean())
    assert inside > 1.3 * outside


def test_a_face_shows_what_it_is_told():
    person = face.Identity.draw(1)
    neutral = face.paint(person, np.zeros(9)).astype(int)
    assert neutral.shape == (96, 96, 3)
    for emotion in EMOTIONS:
        shown = face.paint(person, np.array(world.FACE[emotion])).astype(int)
        assert np.abs(shown - neutral).mean() > 1


@pytest.mark.parametrize(
    "missing, kinds",
    [("audio track", ["video"]), ("video track", ["audio"]), ("silent", ["audio", "video"])],
)
def test_missing_modalities_are_really_missing(tmp_path, missing, kinds):
    import dataclasses

    clip = dataclasses.replace(world.draw(8, "train", complete=True), missing=missing)
    render.write(clip, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert sorted(stream.type for stream in container.streams) == kinds


def test_an_interrupted_folder_is_finished_and_a_finished_one_left_alone(folder, tmp_path):
    broken = tmp_path / "clips"
    shutil.copytree(folder, broken)
    (broken / "truth.parquet").unlink()
    (broken / "raw" / "00003.mp4").unlink()
    synthmimic.generate(broken, Data(clips=10), progress=False)
    assert synthmimic.truth(broken).equals(synthmimic.truth(folder))
    assert decoded(broken / "raw/00003.mp4") == decoded(folder / "raw/00003.mp4")
    before = (folder / "raw/00003.mp4").stat().st_mtime_ns
    synthmimic.generate(folder, Data(clips=10), progress=False)
    assert (folder / "raw/00003.mp4").stat().st_mtime_ns == before


def test_a_folder_made_with_other_settings_is_refused(folder, tmp_path):
    with pytest.raises(ManifestError, match="clips is 10 there, 11 now"):
        synthmimic.generate(folder, Data(clips=11), progress=False)
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(ManifestError, match="did not make"):
        synthmimic.generate(tmp_path, Data(clips=10), progress=False)

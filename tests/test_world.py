"""How far a clip is from the training clips: planted clouds, real voices, and what a prediction
says about it."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from inputs import SHARED
from toy import MemoryManifest, MemoryStore

from taemi_lib import profiles
from taemi_lib.data.media import read_audio
from taemi_lib.data.synthmimic import voice
from taemi_lib.data.synthmimic import world as latents
from taemi_lib.features.audio import AudioEncoder
from taemi_lib.features.sequences import ClipFeatures, Sequence
from taemi_lib.models import ClipDataset
from taemi_lib.prediction import Ensemble, Predictor, calibrate, predictor
from taemi_lib.prediction import world as measure
from taemi_lib.profiles import EMOTIONS, Model, Training
from taemi_lib.training import train

DIMS = {"audio": 6, "vision": 4, "text": 5}
MIX = {name: np.random.default_rng(dim).normal(size=(2, dim)) for name, dim in DIMS.items()}


def clip(name, rng, without=(), shift=0.0):
    """Features around a plane of two dimensions, each in units of its own."""

    def steps(modality, count):
        at = rng.normal(size=(1, 2)) @ MIX[modality] + 0.1 * rng.normal(size=(1, DIMS[modality]))
        return (at + shift + 0.05 * rng.normal(size=(count, DIMS[modality]))) * 5.0 ** np.arange(
            DIMS[modality]
        )

    def sequence(modality, count):
        values = steps(modality, count).astype(np.float32)
        return Sequence(values, np.arange(count, dtype=np.float32))

    tokens = None if "text" in without else sequence("text", 3)
    return ClipFeatures(
        name,
        audio=None if "audio" in without else sequence("audio", 8),
        vision=None if "vision" in without else sequence("vision", 6),
        tokens=tokens,
        pooled=None if tokens is None else tokens.values.mean(axis=0),
        absent=dict.fromkeys(without, "not there"),
    )


def dataset(clips, seed=0):
    table = pd.DataFrame(
        np.random.default_rng(seed).random((len(clips), 6)),
        columns=list(EMOTIONS),
        index=[clip.clip_id for clip in clips],
    )
    return ClipDataset(MemoryStore(clips), MemoryManifest(table))


def clips(count, seed, prefix="clip", **changes):
    rng = np.random.default_rng(seed)
    return [clip(f"{prefix}{i}", rng, **changes) for i in range(count)]


@pytest.fixture(scope="module")
def fitted():
    return measure.fit(dataset(clips(400, 0)), dataset(clips(120, 1, "held")))


def test_of_clips_like_the_training_s_about_one_in_a_hundred_is_outside(fitted):
    flagged = np.mean([fitted.place(clip).is_outside for clip in clips(1000, 2)])
    assert 0 < flagged < 0.03
    values = [fitted.place(clip).distances["audio"].value for clip in clips(300, 3)]
    assert np.sqrt(np.mean(np.square(values))) == pytest.approx(1, abs=0.15)


def test_clips_off_the_plane_of_the_training_are_outside_though_no_feature_is_unusual(fitted):
    """Each feature within its own range, but not as they go together: correlations count."""
    rng, flagged = np.random.default_rng(4), []
    for usual in clips(50, 5):
        apart = {
            name: np.array([rng.normal() * np.hypot(*MIX[name][:, d]) for d in range(dim)])
            * 5.0 ** np.arange(dim)
            for name, dim in DIMS.items()
        }
        audio = replace(usual.audio, values=np.tile(apart["audio"], (8, 1)).astype(np.float32))
        flagged.append(fitted.place(replace(usual, audio=audio)).modalities == ("audio",))
    assert np.mean(flagged) > 0.8


def test_a_shifted_clip_is_outside_in_what_was_shifted_and_an_absent_modality_has_no_distance(
    fitted,
):
    usual, far = clips(1, 6)[0], clips(1, 6, shift=5.0)[0]
    place = fitted.place(replace(usual, vision=far.vision))
    assert place.is_outside and place.modalities == ("vision",)
    silent = fitted.place(clips(1, 6, without=("audio", "text"))[0])
    assert set(silent.distances) == {"vision"} and not silent.is_outside


def test_no_number_is_outside_and_another_width_an_error(fitted):
    usual = clips(1, 7)[0]
    broken = replace(usual, pooled=np.full(5, np.nan, np.float32))
    assert fitted.place(broken).modalities == ("text",)
    with pytest.raises(ValueError, match=r"\(4,\) features, expected \(5,\)"):
        fitted.place(replace(usual, pooled=np.zeros(4, np.float32)))


def test_a_feature_that_hardly_varied_in_training_does_not_blow_up():
    def still(name, rng):
        made = clip(name, rng)
        values = made.audio.values.copy()
        values[:, 0] = 3.0 + 1e-5 * rng.normal()
        return replace(made, audio=replace(made.audio, values=values))

    rng = np.random.default_rng(8)
    known, held = ([still(f"{p}{i}", rng) for i in range(60)] for p in ("a", "b"))
    found = measure.fit(dataset(known), dataset(held))
    new = still("new", rng)
    values = new.audio.values.copy()
    values[:, 0] += 1e-3  # fp16's rounding, say
    nudged = found.place(replace(new, audio=replace(new.audio, values=values)))
    assert nudged.distances["audio"].value == pytest.approx(
        found.place(new).distances["audio"].value, rel=0.01
    )


def test_a_modality_that_no_selection_clip_has_is_not_measured():
    found = measure.fit(dataset(clips(30, 9)), dataset(clips(10, 10, without=("vision",))))
    assert set(found.place(clips(1, 11)[0]).distances) == {"audio", "text"}


# --- in a prediction


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(
        "taemi",
        dataset(clips(80, 0)),
        dataset(clips(60, 1, "held")),
        model=Model(width=8, heads=2, mlp_width=8),
        training=Training(batch_size=16, epochs=1),
        run_folder=tmp_path_factory.mktemp("run") / "seed0",
        encoders=asdict(profiles.Encoders()),
        device="cpu",
        progress=False,
    )


@pytest.fixture
def reader(run, monkeypatch):
    identity = {"audio": "toy"}
    monkeypatch.setattr(
        predictor, "load_encoders", lambda settings, device: SimpleNamespace(identity=identity)
    )
    monkeypatch.setattr(predictor, "identity", lambda settings: identity)
    parts = dataset(clips(80, 0)), dataset(clips(60, 1, "held")), dataset(clips(50, 2, "test"))
    made = calibrate(Ensemble(run, torch.device("cpu")), *parts)
    return Predictor(run, "cpu", calibration=made)


def test_a_usual_clip_has_its_interval_and_a_far_one_is_told_apart(reader):
    usual = reader.predict_features(clips(1, 12)[0])
    assert not usual.outside.is_outside and "promise nothing" not in usual.interval
    assert "on 50 test clips they held" in usual.interval and "outside" not in str(usual)
    for name, value in usual.values.items():
        assert 0 <= usual.low[name] <= value <= usual.high[name] <= 1
    far = reader.predict_features(clips(1, 12, shift=5.0)[0])
    assert far.outside.is_outside and far.as_dict()["outside"]["is_outside"] is True
    assert "promise nothing about it" in far.interval and "outside its world" in str(far)
    again = reader.predict_features(clips(1, 12)[0])
    assert again == usual


def test_a_clip_that_lacks_what_hardly_any_selection_clip_lacks_is_told(reader):
    lacking = reader.predict_features(clips(1, 12, without=("vision",))[0])
    assert lacking.low is not None and "hardly any of those lacks vision" in lacking.interval


def test_a_clip_of_which_nothing_is_there_has_neither_interval_nor_distance(reader):
    nothing = reader.predict_features(clips(1, 12, without=("audio", "vision", "text"))[0])
    assert nothing.all_absent and nothing.low is None and nothing.outside is None
    assert nothing.interval == "no interval: nothing of the clip could be used"
    assert nothing.without == {} and nothing.attention == {}


# --- real


@pytest.mark.skipif(not (SHARED / "media").is_dir(), reason="no recordings of ../shared here")
def test_a_real_voice_is_outside_the_world_of_generated_ones():
    """The demo's own encoder of sound; its voices are espeak's."""
    encoder = AudioEncoder("micro:audio")

    def spoken(name, samples):
        absent = {"vision": "not asked", "text": "not asked"}
        return ClipFeatures(name, audio=encoder.encode(samples), absent=absent)

    def generated(pool, count):
        return [
            spoken(f"{pool}{n}", voice.speak(latents.draw(n, pool, complete=True)).samples)
            for n in range(count)
        ]

    known, held, new = generated("train", 80), generated("selection", 20), generated("test", 15)
    found = measure.fit(dataset(known), dataset(held))
    assert sum(found.place(clip).is_outside for clip in new) <= 1
    recordings = sorted((SHARED / "media").glob("*.wav"))
    assert recordings
    for path in recordings:
        distance = found.place(spoken(path.stem, read_audio(path).samples)).distances["audio"]
        assert distance.beyond, path.name

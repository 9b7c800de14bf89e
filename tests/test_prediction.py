"""taemi_lib.predict, with encoders that need no weights: what becomes of the checkpoint, the clip
and the answer."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

import taemi_lib
from taemi_lib import models, profiles
from taemi_lib.errors import CheckpointError
from taemi_lib.features import ClipFeatures, Sequence
from taemi_lib.prediction import predictor as prediction

SIZES = {"audio_dim": 5, "vision_dim": 4, "text_dim": 3, "width": 8, "heads": 2, "mlp_width": 8}
IDENTITY = {"audio": "a@1", "vision": "v@1", "speech": "s@1", "text": "t@1"}
ALL_ABSENT = {modality: "not a media file" for modality in profiles.MODALITIES}


@pytest.fixture
def checkpoint(tmp_path):
    """A run folder as training leaves it."""
    folder = tmp_path / "seed0"
    models.create("taemi", **SIZES).save_pretrained(folder / "best")
    config = {
        "sizes": SIZES,
        "encoders": asdict(profiles.Encoders()),
        "training": {"audio_average": 2},
        "data": {"train": {"encoders": IDENTITY}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "smile.mp4"
    path.write_bytes(b"pictures")
    return path


@pytest.fixture(autouse=True)
def fake_encoders(monkeypatch):
    """Encoders of the right identity; `fake.features` is what they find in any clip."""
    rng = np.random.default_rng(0)

    def sequence(steps, dim):
        return Sequence(
            rng.normal(size=(steps, dim)).astype(np.float32), np.arange(steps, dtype=np.float32)
        )

    fake = SimpleNamespace(
        identity=IDENTITY,
        features={
            "audio": sequence(7, 5),
            "vision": sequence(4, 4),
            "tokens": sequence(3, 3),
            "pooled": np.ones(3, np.float32),
            "transcript": "oh how nice",
        },
    )
    monkeypatch.setattr(prediction, "load_encoders", lambda settings, device: fake)
    monkeypatch.setattr(
        prediction,
        "extract_clip",
        lambda clip, encoders: ClipFeatures(clip.clip_id, **fake.features),
    )
    return fake


def test_a_clip_becomes_six_intensities_between_zero_and_one(checkpoint, clip):
    result = taemi_lib.predict(clip, checkpoint, device="cpu")
    assert tuple(result.values) == taemi_lib.EMOTIONS
    assert all(0 <= value <= 1 for value in result.values.values())
    assert result.transcript == "oh how nice" and not result.absent and not result.all_absent
    assert json.loads(json.dumps(result.as_dict())) == result.as_dict()
    assert "oh how nice" in str(result)


def test_the_run_folder_and_its_best_checkpoint_mean_the_same(checkpoint, clip):
    assert taemi_lib.predict(clip, checkpoint) == taemi_lib.predict(clip, checkpoint / "best")


def test_a_clip_without_anything_is_predicted_and_flagged(checkpoint, clip, fake_encoders):
    fake_encoders.features = {"absent": ALL_ABSENT}
    result = taemi_lib.predict(clip, checkpoint)
    assert result.all_absent and result.absent == ALL_ABSENT
    assert "audio is absent: not a media file" in str(result) and "missing tokens alone" in str(
        result
    )


def test_encoders_other_than_those_of_the_training_are_refused_with_both_names(
    checkpoint, clip, fake_encoders
):
    fake_encoders.identity = IDENTITY | {"audio": "a@2"}
    with pytest.raises(CheckpointError, match="other encoders: audio is 'a@1' there, 'a@2' now"):
        taemi_lib.predict(clip, checkpoint)


def test_a_run_that_does_not_name_its_encoders_is_refused(checkpoint, clip):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"encoders": None}))
    with pytest.raises(CheckpointError, match=r"does not name its encoders"):
        taemi_lib.predict(clip, checkpoint)


def test_a_clip_or_checkpoint_that_is_not_there_is_named(checkpoint, clip, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        taemi_lib.predict(tmp_path / "gone.mp4", checkpoint)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        taemi_lib.predict(clip, tmp_path / "nowhere")


def test_predict_stays_a_function_whatever_is_imported():
    assert callable(taemi_lib.predict) and set(taemi_lib.__all__) <= set(dir(taemi_lib))

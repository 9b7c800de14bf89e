"""taemi_lib.predict, with encoders that need no weights: what becomes of the checkpoint, the clip
and the answer."""

import json
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import taemi_lib
from taemi_lib import models, profiles
from taemi_lib.batches import collate
from taemi_lib.data import Clip
from taemi_lib.errors import CheckpointError
from taemi_lib.features import ClipFeatures, Sequence
from taemi_lib.features.sequences import Word, as_stored
from taemi_lib.prediction import (
    CAUTION,
    Attention,
    Distance,
    Outside,
    Prediction,
    Predictor,
    predictor,
)

SIZES = {"audio_dim": 5, "vision_dim": 4, "text_dim": 3, "width": 8, "heads": 2, "mlp_width": 8}
IDENTITY = {"audio": "a@1", "vision": "v@1", "speech": "s@1", "text": "t@1"}
ALL_ABSENT = {modality: "not a media file" for modality in profiles.MODALITIES}


def fresh(seed):
    """A system whose answers lie around 0.5: nothing is clipped away unseen."""
    torch.manual_seed(seed)
    model = models.create("taemi", **SIZES)
    with torch.no_grad():
        model.head[-1].weight.mul_(0.3)
        model.head[-1].bias.fill_(0.5)
    return model


@pytest.fixture
def checkpoint(tmp_path):
    """A run folder as training leaves it."""
    folder = tmp_path / "seed0"
    fresh(0).save_pretrained(folder / "best")
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
    monkeypatch.setattr(predictor, "load_encoders", lambda settings, device: fake)
    monkeypatch.setattr(predictor, "identity", lambda settings: fake.identity)
    monkeypatch.setattr(
        predictor,
        "extract_clip",
        lambda clip, encoders: ClipFeatures(clip.clip_id, **fake.features),
    )
    return fake


def test_a_clip_becomes_six_intensities_between_zero_and_one(checkpoint, clip):
    result = taemi_lib.predict(clip, checkpoint, device="cpu")
    assert tuple(result.values) == taemi_lib.EMOTIONS
    assert all(0 <= value <= 1 for value in result.values.values())
    assert result.transcript == "oh how nice" and not result.absent and not result.all_absent
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False)) == result.as_dict()
    assert "oh how nice" in str(result) and CAUTION in str(result)


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
    with pytest.raises(CheckpointError, match=r"names no encoders: .* imported features"):
        taemi_lib.predict(clip, checkpoint)


def test_a_clip_or_checkpoint_that_is_not_there_is_named(checkpoint, clip, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        taemi_lib.predict(tmp_path / "gone.mp4", checkpoint)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        taemi_lib.predict(clip, tmp_path / "nowhere")


def test_predict_stays_a_function_whatever_is_imported():
    assert callable(taemi_lib.predict) and set(taemi_lib.__all__) <= set(dir(taemi_lib))


# --- what makes it readable


def test_the_values_are_those_of_the_model_on_the_clip_alone(checkpoint, clip, fake_encoders):
    """Whatever else is computed beside them."""
    features = as_stored(ClipFeatures("smile", **fake_encoders.features))
    batch = collate([features], audio_average=2, dims={"audio": 5, "vision": 4, "text": 3})
    with torch.inference_mode():
        direct = models.load(checkpoint / "best")(batch).prediction[0].clamp(0, 1)
    assert list(taemi_lib.predict(clip, checkpoint).values.values()) == direct.tolist()


def test_notes_language_and_words_are_passed_on(checkpoint, clip, fake_encoders):
    words = (Word("oh", 0.1, 0.3), Word("how", 0.4, 0.5))
    fake_encoders.features |= {
        "notes": {"audio": "the first of 2 sound tracks"},
        "language": "en",
        "words": words,
    }
    result = taemi_lib.predict(clip, checkpoint)
    assert (result.language, result.words) == ("en", words)
    assert "audio: the first of 2 sound tracks" in str(result)
    assert result.as_dict()["words"][0] == {"text": "oh", "start": 0.1, "end": 0.3}


def test_attention_is_the_mean_over_heads_at_the_times_the_model_saw(checkpoint, clip):
    attention = taemi_lib.predict(clip, checkpoint).attention
    assert attention["audio"].times == (0.5, 2.5, 4.5, 6.0)  # 7 steps, two averaged into one
    assert attention["vision"].times == (0.0, 1.0, 2.0, 3.0)
    for branch in attention.values():
        assert len(branch.weights) == 4 and sum(branch.weights) == pytest.approx(1, abs=1e-6)
        assert len(set(branch.weights)) > 1


def test_a_branch_that_is_absent_has_no_attention_and_a_system_without_a_query_none(
    checkpoint, clip, fake_encoders
):
    fake_encoders.features |= {"vision": None, "absent": {"vision": "no video track"}}
    assert set(taemi_lib.predict(clip, checkpoint).attention) == {"audio"}
    models.create("concat", **SIZES).save_pretrained(checkpoint / "best")
    assert taemi_lib.predict(clip, checkpoint).attention is None


def test_without_a_modality_is_what_the_clip_would_get_had_it_none(checkpoint, clip, fake_encoders):
    whole = taemi_lib.predict(clip, checkpoint)
    assert set(whole.without) == set(profiles.MODALITIES)
    for modality, fields in {
        "audio": ["audio"],
        "vision": ["vision"],
        "text": ["tokens", "pooled", "transcript"],
    }.items():
        full = dict(fake_encoders.features)
        fake_encoders.features = full | dict.fromkeys(fields) | {"absent": {modality: "cut"}}
        lacking = taemi_lib.predict(clip, checkpoint)
        fake_encoders.features = full
        assert whole.without[modality] == pytest.approx(lacking.values, abs=1e-6)
        assert whole.without[modality] != whole.values
        assert set(lacking.without) == set(profiles.MODALITIES) - {modality}


def test_without_calibration_there_is_no_interval_and_a_reason(checkpoint, clip):
    result = taemi_lib.predict(clip, checkpoint)
    assert result.low is None and result.high is None and result.outside is None
    assert result.interval.startswith("no interval: the run is not calibrated")
    assert result.interval in str(result) and result.level == 0.9


def test_many_clips_are_predicted_without_loading_again(checkpoint, clip, monkeypatch):
    loaded = []
    load = predictor.load_encoders
    monkeypatch.setattr(predictor, "load_encoders", lambda *a: loaded.append(1) or load(*a))
    reader = Predictor(checkpoint, "cpu")
    first = reader.predict(clip)
    assert reader.predict(Clip("named", "predict", clip)).values == first.values
    assert reader.predict(Clip("named", "predict", clip)).clip == "named"
    assert reader.predict(str(clip)) == first == taemi_lib.predict(clip, checkpoint)
    assert len(loaded) == 2  # one for the reader, one for predict
    with pytest.raises(FileNotFoundError, match="no such clip: gone"):
        reader.predict("gone")


def test_several_runs_answer_with_their_mean_before_it_is_clipped(checkpoint, clip, tmp_path):
    other = shutil.copytree(checkpoint, tmp_path / "seed1")
    model = fresh(1)
    with torch.no_grad():
        model.head[-1].bias.fill_(-0.4)  # alone it answers 0 throughout
    model.save_pretrained(other / "best")
    first, both = taemi_lib.predict(clip, checkpoint), Predictor([checkpoint, other]).predict(clip)
    assert not any(taemi_lib.predict(clip, other).values.values())
    for name, value in both.values.items():
        assert 0 < value < first.values[name] / 2 + 0.01
    times = both.attention["audio"].times
    single = [taemi_lib.predict(clip, run).attention["audio"] for run in (checkpoint, other)]
    mean = np.mean([branch.weights for branch in single], axis=0)
    assert times == single[0].times and both.attention["audio"].weights == pytest.approx(mean)


def test_an_answer_that_is_no_number_is_an_error_not_a_value(checkpoint, clip, fake_encoders):
    fake_encoders.features["pooled"] = np.full(3, np.nan, np.float32)
    with pytest.raises(CheckpointError, match="smile: the answer of .*seed0 is no number"):
        taemi_lib.predict(clip, checkpoint)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: "[1]", "holds a list"),
        (lambda text: text.replace('"audio_average"', '"audio"'), "audio_average"),
        (lambda text: text.replace('"text_dim"', '"dim"'), "text_dim"),
        (lambda text: text.replace('"data"', '"date"'), "does not name its data"),
        (lambda text: text.replace('{"train"', '{"tram"'), "train"),
    ],
)
def test_a_damaged_configuration_is_told_with_its_place(checkpoint, clip, harm, said):
    path = checkpoint / "config.json"
    path.write_text(harm(path.read_text()))
    with pytest.raises(CheckpointError, match=said) as error:
        taemi_lib.predict(clip, checkpoint)
    assert str(path) in str(error.value)


def test_json_is_valid_whatever_numbers_stand_in_it():
    nan, infinite = float("nan"), float("inf")
    odd = Prediction(
        "clip",
        {"Joy": nan},
        None,
        low={"Joy": -infinite},
        high={"Joy": 1.0},
        attention={"audio": Attention((0.0, nan), (1.0, 0.0))},
        outside=Outside({"audio": Distance(infinite, 1.5), "text": Distance(nan, 1.5)}),
    )
    plain = json.loads(json.dumps(odd.as_dict(), allow_nan=False))
    assert plain["values"] == {"Joy": None} and plain["low"] == {"Joy": None}
    assert plain["attention"]["audio"]["times"] == [0.0, None]
    assert plain["outside"]["is_outside"] is True
    assert plain["outside"]["distances"]["text"] == {
        "value": None,
        "threshold": 1.5,
        "beyond": True,
    }
    assert odd.outside.modalities == ("audio", "text")
    assert not Outside({"audio": Distance(1.5, 1.5)}).is_outside

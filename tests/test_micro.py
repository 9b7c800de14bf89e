"""The embedded micro backbones: as good as their cards say, on voices, sentences and faces they
never met, and retrainable."""

import re

import numpy as np
import pytest

from taemi_lib.data.media import Frames
from taemi_lib.features import load_encoders
from taemi_lib.micro import checks, train_audio, train_speech, train_text, train_vision
from taemi_lib.micro.__main__ import ROLES
from taemi_lib.micro.corpus import utterances
from taemi_lib.profiles import MICRO, PROFILES

LIMITS = {  # at least; the word error rate at most
    "audio": {"r arousal": 0.85, "r dominance": 0.85, "r valence": 0.85},
    "vision": {"R2 mean": 0.7},
    "speech": {"word error rate": 0.02},
    "text": {"R2 emotions": 0.95, "R2 cue": 0.95},
}


@pytest.fixture(scope="module")
def encoders():
    return load_encoders(PROFILES["demo"].encoders)  # `no_network` guards this too


@pytest.fixture(scope="module")
def held_out():
    return utterances(40, checks.HELD_OUT, checks.FIRST_SEED)


@pytest.fixture(scope="module")
def measured(encoders, held_out):
    return {
        "audio": checks.check_audio(encoders.audio, held_out),
        "vision": checks.check_vision(encoders.vision, count=300),
        "speech": checks.check_speech(encoders.speech, held_out),
        "text": checks.check_text(encoders.text, count=300),
    }


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_a_backbone_understands_people_it_never_met(measured, role):
    for name, limit in LIMITS[role].items():
        value = measured[role][name]
        assert value <= limit if name == "word error rate" else value >= limit, (name, value)


@pytest.mark.parametrize("role", ROLES)
def test_each_folder_is_small_and_its_card_says_how_good_it_is(role):
    folder = MICRO / role
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "**Trained on**" in card and "**Limits.**" in card
    told = {
        name.strip(): float(value)
        for name, value in re.findall(r"^\| ([^|]+) \| (-?[\d.]+) \|$", card, re.M)
    }
    for name, limit in LIMITS[role].items():
        assert told[name] <= limit if name == "word error rate" else told[name] >= limit, (
            name,
            told,
        )


def test_words_are_counted_as_errors_by_edit_distance():
    assert checks.word_error_rate(["i was happy"], ["i was happy"]) == 0
    assert (
        checks.word_error_rate(["i was happy", "we felt sorry"], ["i happy", "we we felt glad"])
        == 3 / 6
    )
    assert checks.word_error_rate(["i was happy"], [""]) == 1


@pytest.mark.slow
def test_retraining_writes_folders_that_the_encoders_load(tmp_path, encoders):
    """A few steps learn nothing; what counts is that format and widths are those of the embedded
    backbones."""
    corpus = utterances(20, processes=1)
    few = {"steps": 3, "batch": 4, "progress": False}
    for module, extra in (
        (train_audio, {"corpus": corpus}),
        (train_speech, {"corpus": corpus}),
        (train_vision, {}),
        (train_text, {"sentence_count": 1000}),
    ):
        role = module.__name__.removeprefix("taemi_lib.micro.train_")
        history = module.train(tmp_path / role, **few, **extra)
        assert len(history) == 3 and np.isfinite(history).all()
    fresh = load_encoders(
        type(PROFILES["demo"].encoders)(**{role: str(tmp_path / role) for role in ROLES})
    )

    sound, pictures = corpus[0].waveform, Frames(*_two_faces())
    for bundle in (fresh, encoders):
        assert isinstance(bundle.speech.transcribe(sound).text, str)
    for new, old in (
        (fresh.audio.encode(sound), encoders.audio.encode(sound)),
        (fresh.vision.encode(pictures), encoders.vision.encode(pictures)),
    ):
        assert new.values.shape == old.values.shape and not np.allclose(new.values, old.values)
    assert fresh.text.encode("i was happy")[1].shape == encoders.text.encode("i was happy")[1].shape
    assert fresh.identity != encoders.identity


def _two_faces():
    pictures, _ = train_vision.faces(checks.FIRST_SEED, 2)
    return pictures, np.arange(2, dtype=np.float32)


def test_learning_the_vocabulary_again_gives_the_same_pieces():
    corpus, _ = train_text.sentences(seed=0, count=300)
    first, *others = (train_text._tokenizer(corpus) for _ in range(10))
    assert all(other.get_vocab() == first.get_vocab() for other in others)
    assert (
        first.tokenize("i was utterly dazzled") == ["i", "was", "utterly", "dazzled"]
        and first.pad_token_id == 0
    )
    assert first.unk_token not in first.tokenize("qxzv")  # any word can be spelled


@pytest.mark.slow
def test_training_again_gives_the_same_weights(tmp_path):
    for name in ("first", "second"):
        train_text.train(tmp_path / name, sentence_count=1000, steps=2, batch=4, progress=False)
    first, second = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")
    )
    assert first == second

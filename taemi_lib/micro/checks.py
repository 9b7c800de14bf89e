"""How good the micro backbones are on people and sentences that they never met, and the card that
says so.

Held out means the "selection" pool of SynthMimic, with seeds that no generated folder uses: other
voices, other sentences, other faces than the "encoder" pool the backbones were trained on. Encoders
are used through `taemi_lib.features`, as everything else uses them.
"""

from __future__ import annotations

import numpy as np

from taemi_lib.data.media import Frames
from taemi_lib.data.synthmimic import world
from taemi_lib.micro import train_audio, train_text, train_vision
from taemi_lib.micro.corpus import Utterance, utterances

HELD_OUT = "selection"
FIRST_SEED = 900_000_000  # far from the seeds of generated folders


def word_error_rate(spoken: list[str], heard: list[str]) -> float:
    """Words substituted, left out or added, as a share of the words spoken (edit distance over
    whole texts)."""
    errors = 0
    for reference, hypothesis in zip(spoken, heard, strict=True):
        said, got = reference.split(), hypothesis.split()
        row = np.arange(len(got) + 1)
        for i, word in enumerate(said, start=1):
            previous, row = row, np.full(len(got) + 1, i)
            for j, other in enumerate(got, start=1):
                row[j] = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (word != other))
        errors += int(row[-1])
    return errors / sum(len(text.split()) for text in spoken)


def _probe(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    """Ridge regression from frozen features: what a linear layer can read out of them."""
    mean, scale = train_x.mean(axis=0), train_x.std(axis=0) + 1e-6
    inputs = np.column_stack([(train_x - mean) / scale, np.ones(len(train_x))])
    weights = np.linalg.solve(inputs.T @ inputs + 1.0 * np.eye(inputs.shape[1]), inputs.T @ train_y)
    return np.column_stack([(test_x - mean) / scale, np.ones(len(test_x))]) @ weights


def r_squared(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Share of the variance explained, per column."""
    return 1 - ((prediction - target) ** 2).mean(axis=0) / target.var(axis=0)


def check_speech(encoder, held_out: list[Utterance]) -> dict[str, float]:
    """{"word error rate"} on whole held-out utterances."""
    heard = [encoder.transcribe(item.waveform).text for item in held_out]
    return {"word error rate": word_error_rate([item.latents.sentence for item in held_out], heard)}


def check_audio(encoder, held_out: list[Utterance]) -> dict[str, float]:
    """Correlation of the three logits with the planted arousal, dominance and valence, over all
    frames."""
    heard, told = [], []
    for item in held_out:
        values = np.asarray(encoder.encode(item.waveform).values, dtype=np.float64)
        heard.append(values[:, -3:])
        told.append(train_audio.frame_targets(item, len(values))[:, :3])
    logits, planted = np.concatenate(heard), np.concatenate(told)
    names = ("arousal", "dominance", "valence")
    return {
        f"r {name}": float(np.corrcoef(logits[:, k], planted[:, k])[0, 1])
        for k, name in enumerate(names)
    }


def check_vision(encoder, count: int = 1024) -> dict[str, float]:
    """R2 of a linear read-out of each expression parameter, and their mean, on unseen
    identities."""

    def features(first: int, total: int, pool: str) -> tuple[np.ndarray, np.ndarray]:
        pictures, values = train_vision.faces(first, total, pool)
        frames = Frames(pictures, np.arange(total, dtype=np.float32))
        return np.asarray(encoder.encode(frames).values, dtype=np.float64), values

    known, known_y = features(FIRST_SEED, 4 * count, "encoder")
    fresh, fresh_y = features(FIRST_SEED, count, HELD_OUT)
    scores = r_squared(_probe(known, known_y, fresh), fresh_y)
    return {"R2 mean": float(scores.mean())} | {
        f"R2 {name}": float(s) for name, s in zip(world.EXPRESSION, scores)
    }


def check_text(encoder, count: int = 1000) -> dict[str, float]:
    """R2 of a linear read-out of the six emotion strengths (mean) and of the cue, on unseen
    sentences."""

    def features(seed: int, total: int, pool: str) -> tuple[np.ndarray, np.ndarray]:
        texts, meaning = train_text.sentences(seed, total, pool)
        return np.stack(
            [np.asarray(encoder.encode(text)[1], dtype=np.float64) for text in texts]
        ), meaning

    known, known_y = features(FIRST_SEED, 2 * count, "encoder")
    fresh, fresh_y = features(FIRST_SEED, count, HELD_OUT)
    scores = r_squared(_probe(known, known_y, fresh), fresh_y)
    return {"R2 emotions": float(scores[:6].mean()), "R2 cue": float(scores[6])}


def check(encoders, clips: int = 200) -> dict[str, dict[str, float]]:
    """All four checks for a bundle of encoders (`taemi_lib.features.load_encoders`); `clips`
    utterances for speech and audio."""
    held_out = utterances(clips, HELD_OUT, FIRST_SEED)
    return {
        "audio": check_audio(encoders.audio, held_out),
        "vision": check_vision(encoders.vision),
        "speech": check_speech(encoders.speech, held_out),
        "text": check_text(encoders.text),
    }

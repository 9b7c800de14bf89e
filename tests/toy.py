"""Small clips in memory, for tests of models and training: random features whose labels the
features decide."""

import numpy as np
import pandas as pd
import torch

from taemi_lib.features.sequences import ClipFeatures, Sequence
from taemi_lib.models import Batch, ClipDataset
from taemi_lib.profiles import EMOTIONS, Task

DIMS = {"audio": 5, "vision": 4, "text": 6}
SIZES = {
    "audio_dim": 5,
    "vision_dim": 4,
    "text_dim": 6,
    "width": 8,
    "heads": 2,
    "mlp_width": 8,
    "dropout": 0.1,
    "input_dropout": 0.1,
    "modality_dropout": 0.1,
    "time_features": True,
}


class MemoryStore:
    """What ClipDataset needs of a features.Store."""

    identity = {"audio": "toy"}

    def __init__(self, clips):
        self.clips = {clip.clip_id: clip for clip in clips}

    def read(self, clip_id):
        return self.clips[clip_id]

    def shapes(self, clip_id):
        clip = self.clips[clip_id]
        found = {"audio": clip.audio, "vision": clip.vision, "text": clip.tokens}
        return {name: s.values.shape for name, s in found.items() if s is not None}

    def __contains__(self, clip_id):
        return clip_id in self.clips

    def fingerprint(self, clip_ids):
        return f"toy {len(clip_ids)}"


class MemoryManifest:
    """What ClipDataset needs of a Manifest."""

    def __init__(self, table, task=None):
        self.table, self.task = table, task or Task()

    def select(self, split):
        return MemoryManifest(self.table[self.table["split"] == split], self.task)


def sequence(steps, width, rng, rate=10.0, dtype=np.float16):
    return Sequence(rng.standard_normal((steps, width)).astype(dtype), np.arange(steps) / rate)


def clip(name, rng, without=()):
    tokens = (
        None
        if "text" in without
        else sequence(int(rng.integers(2, 6)), DIMS["text"], rng, rate=1.0)
    )
    return ClipFeatures(
        clip_id=name,
        audio=None
        if "audio" in without
        else sequence(int(rng.integers(4, 12)), DIMS["audio"], rng, rate=50.0),
        vision=None
        if "vision" in without
        else sequence(int(rng.integers(3, 9)), DIMS["vision"], rng),
        tokens=tokens,
        pooled=None if tokens is None else np.asarray(tokens.values[0], dtype=np.float32),
        transcript=None if tokens is None else "words",
        absent={modality: "not there" for modality in without},
    )


def dataset(count=24, seed=0, audio_average=1, prefix="clip"):
    """Clips of which every fifth lacks a modality; the labels are a function of the text vector."""
    rng = np.random.default_rng(seed)
    lacking = [("audio",), ("vision",), ("text",)]
    clips = [
        clip(f"{prefix}{i:03d}", rng, lacking[i // 5 % 3] if i % 5 == 4 else ())
        for i in range(count)
    ]
    vectors = np.stack([np.zeros(6) if c.pooled is None else c.pooled for c in clips])
    labels = 1 / (1 + np.exp(-vectors))
    table = pd.DataFrame(labels, columns=list(EMOTIONS), index=[c.clip_id for c in clips])
    table.insert(0, "split", "train")
    return ClipDataset(MemoryStore(clips), MemoryManifest(table), "train", audio_average)


def batch(size=4, seed=0, audio_steps=9, vision_steps=7, tokens=4):
    """A complete batch of random numbers."""
    draw, words = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1000)
    return Batch(
        {
            "audio": torch.randn(size, audio_steps, DIMS["audio"], generator=draw),
            "vision": torch.randn(size, vision_steps, DIMS["vision"], generator=draw),
            "text": torch.randn(size, tokens, DIMS["text"], generator=words),
        },
        pooled=torch.randn(size, DIMS["text"], generator=draw),
        labels=torch.rand(size, 6, generator=draw),
    )

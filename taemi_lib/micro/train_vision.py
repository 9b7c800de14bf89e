"""Train the micro vision encoder: a small ViT that learns to read the nine expression parameters of
drawn faces.

Every face is fresh: identities and expressions are drawn during training, so there is nothing
to memorise.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTModel

from taemi_lib.data.synthmimic import face, world
from taemi_lib.micro.optimise import fit

PIXELS = 72
CONFIG = ViTConfig(
    hidden_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=192,
    image_size=PIXELS,
    patch_size=12,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.08,  # with the default .02 a model this small does not start to learn
)
PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "image_processor_type": "ViTImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": PIXELS, "width": PIXELS},
}


def faces(seed: int, count: int = 256, pool: str = "encoder") -> tuple[np.ndarray, np.ndarray]:
    """(count, 72, 72, 3) uint8 faces of fresh identities of `pool` and (count, 9) what they do."""
    rng = np.random.default_rng([seed, 5])
    values = rng.normal(0, 0.12, size=(count, len(world.EXPRESSION)))
    for value in values:
        kind = rng.random()
        if (
            kind < 0.6
        ):  # one of the six expressions, at any strength, or on the way from one to another
            value += rng.uniform(0, 1) * np.array(world.FACE[world.EMOTIONS[rng.integers(6)]])
        elif kind < 0.85:  # any mixture of movements
            value += rng.uniform(-1, 1, size=len(value))
    values[:, 4] = np.maximum(values[:, 4], 0) + 0.45 * rng.uniform(0, 1, count) * (
        rng.random(count) < 0.7
    )  # speech
    values[:, 2] = np.where(rng.random(count) < 0.06, -1.3, values[:, 2])  # blinks
    values[:, 8] = np.where(rng.random(count) < 0.5, 0.8, -0.8) + rng.normal(
        0, 0.1, count
    )  # glances
    pictures = []
    for value in values:
        identity = face.Identity.draw(world.identity(pool, int(rng.integers(1_000_000))))
        picture = face.paint(identity, value, tuple(rng.normal(0, 0.05, 2)))
        pictures.append(
            np.asarray(Image.fromarray(picture).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR))
        )
    return np.stack(pictures), values.astype(np.float32)


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 as the preprocessor would give."""
    return ((torch.from_numpy(pictures).float() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)


class ExpressionModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.vit = ViTModel(CONFIG, add_pooling_layer=False)
        self.read = torch.nn.Linear(
            CONFIG.hidden_size, len(world.EXPRESSION)
        )  # used in training only

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.read(self.vit(images).last_hidden_state.mean(dim=1))

    def save(self, folder: Path) -> None:
        self.vit.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


def train(
    folder: Path, steps: int = 5000, batch: int = 64, seed: int = 0, progress: bool = True
) -> list[float]:
    """Train from nothing and write `folder`. Returns the loss history."""
    torch.manual_seed(seed)
    model = ExpressionModel()
    per_chunk = 256
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) // 2), mp_context=context) as executor:
        ahead: list[Future] = []
        chunk: list[np.ndarray] = []
        order = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))
        draw = partial(faces, count=per_chunk)

        def loss(step: int) -> torch.Tensor:
            offset = step * batch % per_chunk
            if offset == 0:
                while len(ahead) < 4:  # painted by other processes while this one learns
                    ahead.append(executor.submit(draw, next(order)))
                chunk[:] = ahead.pop(0).result()
            images, target = (part[offset : offset + batch] for part in chunk)
            return (model(pixels(images)) - torch.from_numpy(target)).pow(2).mean()

        history = fit(model, steps, 1.5e-3, loss, progress, "vision")
    model.save(folder)
    return history

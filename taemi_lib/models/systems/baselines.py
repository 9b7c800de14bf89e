"""The challenge's three baselines (first rows of Table 2): a masked mean over time and one linear
layer."""

from __future__ import annotations

import torch
from torch import nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import masked_mean
from taemi_lib.models.base import Output, Sizes, System
from taemi_lib.models.temporal import Features


class MeanBaseline(System):
    """Masked mean of each modality's features, concatenated, one linear layer: y = W [mean_t x_t;
    ...] + b.

    Source: the challenge's baselines, first rows of Table 2. Faithful: pooling and layer. Reduced:
    the features are those of the project's frozen encoders, and those of sound hold its emotion
    logits, which the challenge's do not (131 wide in micro). Added: a token where a modality is
    absent, and the profile's input dropout.
    """

    modalities: tuple[str, ...]

    def build(self, sizes: Sizes) -> None:
        self.features = nn.ModuleDict({name: Features(name, sizes) for name in self.modalities})
        self.linear = nn.Linear(
            sum(getattr(sizes, f"{name}_dim") for name in self.modalities), sizes.outputs
        )

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        means = []
        for features in self.features.values():
            values, mask, _ = features(batch)
            means.append(masked_mean(values, mask))
        return Output(
            self.linear(torch.cat(means, dim=-1)),
            kept={name: batch.present[name] for name in self.modalities},
        )


class ViTBaseline(MeanBaseline):
    """The challenge's vision baseline: mean of the frames' ViT features -> linear 6 (Table 2, row
    1)."""

    name, modalities = "vit_baseline", ("vision",)


class Wav2Vec2Baseline(MeanBaseline):
    """The challenge's audio baseline: mean of the wav2vec 2.0 features -> linear 6 (Table 2, row
    2)."""

    name, modalities = "wav2vec2_baseline", ("audio",)


class ViTWav2Vec2Baseline(MeanBaseline):
    """The challenge's two-modality baseline: both means concatenated -> linear 6 (Table 2, row
    3)."""

    name, modalities = "vit_wav2vec2_baseline", ("vision", "audio")

"""Zhang et al. 2024: a temporal transformer for each of the three modalities, concatenated, one
regressor."""

from __future__ import annotations

import torch
from torch import nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import masked_mean
from taemi_lib.models.base import Output, Sizes, System, head
from taemi_lib.models.temporal import Features, TemporalTransformer
from taemi_lib.profiles import MODALITIES


class Zhang2024(System):
    """Three sequences (sound, face, words), each through its own temporal transformer, pooled,
    concatenated (Zhang et al. 2024).

    Source: [38] in the paper, Table 2. Faithful: separate temporal transformers, fusion by
    concatenation only, one regressor. Open in our facts: depth (one layer, as TAEMI) and pooling
    (masked mean). Reduced: the original's encoders were a masked autoencoder for the face, wav2vec
    2.0 and a large language model; here they are the project's, frozen: what those encoders were
    worth is not measured. Added: tokens where a modality is absent, time features (configurable),
    the profile's input dropout.
    """

    name = "zhang2024"

    def build(self, sizes: Sizes) -> None:
        self.features = nn.ModuleDict({name: Features(name, sizes) for name in MODALITIES})
        self.transformers = nn.ModuleDict(
            {name: TemporalTransformer(getattr(sizes, f"{name}_dim"), sizes) for name in MODALITIES}
        )
        self.head = head(len(MODALITIES) * sizes.width, sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        pooled = []
        for name, transformer in self.transformers.items():
            values, mask, times = self.features[name](batch)
            pooled.append(masked_mean(transformer(values, mask, times), mask))  # (B, d)
        return Output(self.head(torch.cat(pooled, dim=-1)), kept=dict(batch.present))

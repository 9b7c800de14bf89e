"""Features at mean 0 and deviation 1, as measured on the training clips: for features that others
extracted, whose scale may be anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch, ClipDataset

# A feature that never varies in training (padding columns exist in the field) only loses its mean.
_CONSTANT = 1e-6


class Standard(nn.Module):
    """x -> (x - mean) / deviation for each feature of sound, face, tokens and the text vector.

    Buffers, so that they stand in every checkpoint: {name}_mean and {name}_deviation (D,), of
    `audio`, `vision`, `text` (its tokens) and `pooled` (its vector). Padding is never read, so what
    becomes of it does not matter.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        """widths: D of each modality"""
        super().__init__()
        for name, width in {**widths, "pooled": widths["text"]}.items():
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_deviation", torch.ones(width))

    def _apply_to(self, name: str, values: Tensor) -> Tensor:
        mean, deviation = getattr(self, f"{name}_mean"), getattr(self, f"{name}_deviation")
        return (values.to(mean.dtype) - mean) / deviation

    def forward(self, batch: Batch) -> Batch:
        """The same batch with standardised features."""
        values = {name: self._apply_to(name, steps) for name, steps in batch.values.items()}
        pooled, partner = (
            None if vectors is None else self._apply_to("pooled", vectors)
            for vectors in (batch.pooled, batch.partner)
        )
        return dataclasses.replace(batch, values=values, pooled=pooled, partner=partner)

    @torch.no_grad()
    def fit(self, train: ClipDataset) -> None:
        """Measure mean and deviation over all real steps of the training clips, clip by clip: in
        float64, so that the order of clips does not show."""
        count: dict[str, int] = {}
        total: dict[str, np.ndarray] = {}
        square: dict[str, np.ndarray] = {}
        for features, _ in (train[index] for index in range(len(train))):
            found = {"audio": features.audio, "vision": features.vision, "text": features.tokens}
            rows = {name: part.values for name, part in found.items() if part is not None}
            if features.pooled is not None:
                rows["pooled"] = features.pooled[None]
            for name, values in rows.items():
                exact = np.asarray(values, np.float64)
                count[name] = count.get(name, 0) + len(exact)
                total[name] = total.get(name, 0) + exact.sum(axis=0)
                square[name] = square.get(name, 0) + (exact**2).sum(axis=0)
        for name, number in count.items():
            mean = total[name] / number
            deviation = np.sqrt(np.maximum(square[name] / number - mean**2, 0))
            deviation[deviation <= _CONSTANT * np.maximum(np.abs(mean), 1)] = 1
            getattr(self, f"{name}_mean").copy_(torch.from_numpy(mean))
            getattr(self, f"{name}_deviation").copy_(torch.from_numpy(deviation))

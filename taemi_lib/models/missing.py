"""What a model does about a modality that is not there: trainable stand-ins, and leaving modalities
out in training.

Both work on `kept` masks {modality: (B,) bool}: present in the clip and not left out.
(docs/paper.md rows 6 to 8.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ModalityDropout(nn.Module):
    """In training, leave out each present modality with probability p; never the last one that a
    clip has.

    present {modality: (B,) bool} -> kept, same keys. Every modality gets one uniform number; it
    goes when the number is below p, unless it is the largest among the clip's present modalities.
    So a clip with one modality keeps it, with three the effective rate is p - p^3 / 3 (training
    logs the measured one).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"modality dropout must be in [0, 1), not {p}")
        self.p = p

    def forward(self, present: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.training or self.p == 0:
            return present
        there = torch.stack(list(present.values()), dim=1)  # (B, modalities)
        draw = torch.rand(there.shape, device=there.device)
        largest = draw.masked_fill(~there, -1.0).amax(dim=1, keepdim=True)
        kept = there & ((draw >= self.p) | (draw == largest))
        return dict(zip(present, kept.unbind(dim=1), strict=True))


class MissingToken(nn.Module):
    """A trainable vector that stands in for an absent modality: as a vector, or as a sequence of
    length 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(0.02 * torch.randn(width))

    def in_vector(self, values: Tensor | None, kept: Tensor) -> Tensor:
        """(B, D) with the token in every row that is not kept; None: the token for everybody."""
        if values is None:
            return self.vector.expand(len(kept), -1)
        return torch.where(kept.unsqueeze(-1), values.to(self.vector.dtype), self.vector)

    def in_sequence(
        self, values: Tensor | None, mask: Tensor | None, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, T, d), (B, T) with the token as only step of every row that is not kept; None: for
        everybody, T = 1."""
        if values is None or mask is None:
            return self.vector.expand(len(kept), 1, -1), kept.new_ones(len(kept), 1)
        kept = kept.unsqueeze(-1)
        only_first = torch.zeros_like(mask)
        only_first[:, 0] = True
        values = torch.where(kept.unsqueeze(-1), values, self.vector.to(values.dtype))
        return values, torch.where(kept, mask, only_first)

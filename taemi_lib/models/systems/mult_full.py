"""MulT at its published size, beside the reduced `mult`: four layers a direction and a target, wide
feed-forward networks, positions and a final norm in every encoder, a mask of the future."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import TimeFeatures
from taemi_lib.models.base import Output, Sizes, System
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.models.systems.mult import CrossModalLayer, ProjectedSequence
from taemi_lib.models.temporal import last_step
from taemi_lib.profiles import MODALITIES

LAYERS = 4


@dataclass(frozen=True)
class Steps:
    """A sequence as an encoder reads it: values (B, T, d), mask (B, T) with at least one real step
    in every row, positions (B, T, d) or None."""

    values: Tensor
    mask: Tensor
    positions: Tensor | None


def seen_steps(target: Tensor, source: Tensor) -> Tensor:
    """Which real steps of a source each step of a target may read: masks (B, T), (B, S) -> (B, 1,
    T, S) bool.

    Step i of T real ones reads j <= i + |S - T| of S: nothing later for sequences of one length,
    and everything for the last step. Counted over real steps, so padding changes nothing.
    """
    counts = [mask.sum(dim=1)[:, None, None] for mask in (target, source)]
    # A step before the first real one is never read, but must look somewhere.
    here, there = ((mask.long().cumsum(dim=1) - 1).clamp(min=0) for mask in (target, source))
    reach = here.unsqueeze(-1) + (counts[1] - counts[0]).abs()  # (B, T, 1)
    return ((there.unsqueeze(1) <= reach) & source.unsqueeze(1)).unsqueeze(1)


class WideLayer(CrossModalLayer):
    """A cross-modal layer whose feed-forward network is 4 d wide, with dropout inside."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )


class Encoder(nn.Module):
    """MulT's transformer encoder, of one sequence that looks into another: (B, T, d) -> (B, T, d).

    Both times sqrt(d), + positions, dropout; layers; a final norm.
    """

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.layers = nn.ModuleList(
            WideLayer(width, sizes.heads, sizes.dropout) for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(width)

    def embed(self, values: Tensor, positions: Tensor | None) -> Tensor:
        values = self.scale * values
        return self.dropout(values if positions is None else values + positions)

    def forward(self, target: Steps, source: Steps) -> Tensor:
        seen = seen_steps(target.mask, source.mask)
        # the source is the same, the lowest level's, for all layers
        values, read = (self.embed(steps.values, steps.positions) for steps in (target, source))
        for layer in self.layers:
            values = layer(values, read, seen)
        return self.norm(values)


class LastStepEncoder(Encoder):
    """The same of a sequence that looks into itself, at its last real step: (B, T, d) -> (B, d)."""

    def forward(self, steps: Steps) -> Tensor:  # type: ignore[override]
        values, seen = self.embed(steps.values, steps.positions), seen_steps(steps.mask, steps.mask)
        *below, top = self.layers
        for layer in below:
            values = layer(values, values, seen)
        # Nothing but the last step is read, so only it asks on top; it may read every real step.
        asking = last_step(values, steps.mask).unsqueeze(1)  # (B, 1, d)
        return self.norm(top(asking, values, steps.mask)).squeeze(1)


class MulTFull(System):
    """MulT at its published size: four layers in each of six directions and for each target (Tsai
    2019).

        X_m: sound, face and the text's tokens in model space                     (B, T_m, d)
        X_(s -> m) = Encoder(X_m looks into X_s) for the six ordered pairs        (B, T_m, d)
        Z_m = Encoder([X_(s -> m); X_(s' -> m)]), its last real step              (B, 2 d)
        z = [Z_a; Z_v; Z_t];  y = W_y (z + W_2 Dropout(ReLU(W_1 z)))              (B, 6 d) -> (B,
                                                                                  outputs)
        Encoder: sqrt(d) x + positions, pre-norm layers with feed-forward 4 d, final norm
    Source: Tsai et al. 2019, public code. Faithful: what `mult` lacks: four layers a direction and
    a target (the code: four or five and at least three), feed-forward networks of 4 d with dropout,
    sqrt(d) and positions in every encoder, final norms, the mask of the future, a residual block of
    full width, a linear output. Reduced: no dropout on attention weights (the code: 0.1 for the
    text, 0 for sound and face); one dropout, the profile's, for the code's four; MSE instead of L1,
    as for all systems here. Added: tokens and modality dropout as in TAEMI; positions are times in
    seconds, and the mask counts real steps, so padding, which the code reads, changes nothing.
    """

    name = "mult_full"

    def build(self, sizes: Sizes) -> None:
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        # positions come in each encoder, after the scaling
        placeless = replace(sizes, time_features=False)
        self.sequences = nn.ModuleDict(
            {name: ProjectedSequence(name, placeless) for name in MODALITIES}
        )
        self.times = nn.ModuleList(
            TimeFeatures(width) for width in (sizes.width, 2 * sizes.width) if sizes.time_features
        )
        self.cross = nn.ModuleDict(
            {f"{s}_to_{m}": Encoder(sizes.width, sizes) for s, m in permutations(MODALITIES, 2)}
        )
        self.attend = nn.ModuleDict(
            {name: LastStepEncoder(2 * sizes.width, sizes) for name in MODALITIES}
        )
        wide = 2 * len(MODALITIES) * sizes.width
        self.residual = nn.Sequential(
            nn.Linear(wide, wide), nn.ReLU(), nn.Dropout(sizes.dropout), nn.Linear(wide, wide)
        )
        self.output = nn.Linear(wide, sizes.outputs)

    def positions(self, batch: Batch, name: str, mask: Tensor, kept: Tensor) -> list[Tensor | None]:
        """Of a modality's steps, d and 2 d wide. A token, and a text vector without tokens, stands
        at 0 s."""
        if not len(self.times):
            return [None, None]
        times = batch.times[name] if name in batch.values else torch.zeros_like(mask).float()
        times = times.masked_fill(~(mask & kept.unsqueeze(-1)), 0)
        return [encode(times) for encode in self.times]

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        steps, wide_positions = {}, {}
        for name, sequence in self.sequences.items():
            values, mask = sequence(batch, kept[name])
            positions, wide_positions[name] = self.positions(batch, name, mask, kept[name])
            steps[name] = Steps(values, mask, positions)
        parts = []
        for target, own in steps.items():
            seen = [self.cross[f"{s}_to_{target}"](own, steps[s]) for s in steps if s != target]
            both = Steps(torch.cat(seen, dim=-1), own.mask, wide_positions[target])
            parts.append(self.attend[target](both))
        z = torch.cat(parts, dim=-1)  # (B, 6 d)
        return Output(self.output(z + self.residual(z)), kept=kept)

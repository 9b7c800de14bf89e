"""Savchenko 2025: statistics over time instead of sequences, a small network for each modality,
late fusion with searched weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.base import Output, Sizes, System
from taemi_lib.models.temporal import features, text_vector
from taemi_lib.profiles import MODALITIES, Training


def statistics(values: Tensor, mask: Tensor) -> Tensor:
    """Mean, standard deviation, minimum and maximum over the real steps: (B, T, D), (B, T) -> (B, 4
    D). No real step: zeros."""
    real = mask.unsqueeze(-1)  # (B, T, 1)
    count = real.sum(dim=1).clamp(min=1)
    mean = (values * real).sum(dim=1) / count
    # A clip's own number of steps, not one less: a single step has deviation 0. The root is kept
    # away from 0, where it has no slope.
    deviation = (((values - mean.unsqueeze(1)) ** 2 * real).sum(dim=1) / count + 1e-8).sqrt()
    low = values.masked_fill(~real, torch.inf).amin(dim=1)
    high = values.masked_fill(~real, -torch.inf).amax(dim=1)
    return torch.cat([mean, deviation, low, high], dim=-1).masked_fill(
        ~mask.any(dim=1, keepdim=True), 0
    )


def correlations(prediction: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    """Pearson's r per column over these rows: (..., N, C), (N, C), (N,) bool -> (..., C), or
    (N, C) bool where columns have rows of their own. A constant column gives 0."""
    weight = rows.to(prediction.dtype)
    weight = weight.unsqueeze(-1) if weight.ndim == 1 else weight  # (N, 1) or (N, C)
    count = weight.sum(dim=0).clamp(min=1)
    prediction = (prediction - (prediction * weight).sum(dim=-2, keepdim=True) / count) * weight
    target = (target - (target * weight).sum(dim=-2, keepdim=True) / count) * weight
    spread = (prediction.square().sum(dim=-2) * target.square().sum(dim=-2)).clamp(min=1e-12).sqrt()
    return (prediction * target).sum(dim=-2) / spread


def _rows(rows: Tensor, known: Tensor | None) -> Tensor:
    """(N,) clips that count, or (N, C) where labels are missing."""
    return rows if known is None or known.all() else rows.unsqueeze(-1) & known


class Savchenko2025(System):
    """Statistics over time, a small network a modality, trained for correlation; weights for each
    emotion searched (Savchenko 2025).

        s_m = [mean; std; min; max over time]                            (B, 4 D), text (B, D)
        p_m = sigmoid(W2 GELU(W1 s_m))                                   (B, 64) -> (B, 6)
        loss = mean over m of 1 - mean rho(p_m, y)
        y_e = sum over m of w_me p_me                                    (B,) for each emotion
        w_me: in steps of 0.1, adding up to 1 over m, the best on the selection split
    Source: [28] in the paper, Table 2. Faithful: statistics, network, sigmoid, Pearson loss of a
    batch, late fusion, searched weights; a large batch and Adam, which is AdamW without weight
    decay (`preset`). The learning rate (1e-3 there) is searched as for every system, and so is the
    hidden layer: its own size `hidden` is 64 as there, 0 (none, the other choice there) or wider.
    Reduced: the project's frozen encoders; the three networks share their epochs, so that they stop
    at one that suits their sum, and their hidden layer. Text is one vector: its mean,
    minimum and maximum are itself. Added: a correlation knows neither level nor scale, so
    `calibrate` gives each p_m the labels' mean and spread (the mean alone where no spread is
    known); an absent modality leaves its weight to the others, a clip with none gets the mean
    label.
    """

    name = "savchenko2025"
    own = {"hidden": (64, 0, 256)}
    own_beyond = {"hidden": {256: 1024}}
    smallest_batch = 128
    weights: Tensor  # (3, 6) of each modality for each emotion
    level: Tensor  # (3, 6) and
    spread: Tensor  # (3, 6) of each modality's predictions
    label_level: Tensor  # (6,)
    label_spread: Tensor  # (6,)

    def build(self, sizes: Sizes) -> None:
        outputs = sizes.outputs
        counts = {name: 1 if name == "text" else 4 for name in MODALITIES}
        self.networks = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Dropout(sizes.input_dropout),
                    *self._layers(count * getattr(sizes, f"{name}_dim"), sizes),
                    nn.Sigmoid(),
                )
                for name, count in counts.items()
            }
        )
        even = torch.full((len(MODALITIES), outputs), 1 / len(MODALITIES))
        self.register_buffer("weights", even)
        self.register_buffer("level", torch.zeros(len(MODALITIES), outputs))
        self.register_buffer("spread", torch.ones(len(MODALITIES), outputs))
        self.register_buffer("label_level", torch.zeros(outputs))
        self.register_buffer("label_spread", torch.ones(outputs))

    def _layers(self, inputs: int, sizes: Sizes) -> list[nn.Module]:
        """From a modality's statistics to the outputs."""
        hidden = self.own_sizes["hidden"]
        if hidden == 0:
            return [nn.Linear(inputs, sizes.outputs)]
        return [
            *(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(sizes.dropout)),
            nn.Linear(hidden, sizes.outputs),
        ]

    @classmethod
    def preset(cls, training: Training) -> Training:
        return dataclasses.replace(
            training, batch_size=max(training.batch_size, cls.smallest_batch), weight_decay=0.0
        )

    def describe(self, batch: Batch, name: str) -> Tensor:
        """What a modality's network sees: (B, 4 D), text (B, D); zeros where it is absent."""
        width = getattr(self.sizes, f"{name}_dim")
        if name == "text":
            return text_vector(batch, width)
        values, mask, _ = features(batch, name, width)
        return statistics(values, mask)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        parts = {
            name: network(self.describe(batch, name)) for name, network in self.networks.items()
        }
        there = torch.stack([batch.present[name] for name in parts], dim=1)  # (B, 3)
        return Output(
            self.fuse(torch.stack(list(parts.values()), dim=1), there, self.weights),
            kept=dict(batch.present),
            parts=parts,
        )

    def fuse(self, parts: Tensor, there: Tensor, weights: Tensor) -> Tensor:
        """Predictions (B, 3, 6) at the labels' level and scale, weighted (..., 3, 6) among those
        that are there (B, 3): (..., B, 6)."""
        # A modality that got no weight speaks where it is the only one.
        weights = weights.clamp(min=1e-6).unsqueeze(-3) * there.unsqueeze(-1)  # (..., B, 3, 6)
        weights = weights / weights.sum(dim=-2, keepdim=True).clamp(min=1e-12)
        standard = (parts - self.level) / self.spread
        return self.label_level + self.label_spread * (weights * standard).sum(dim=-2)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Mean over the modalities of 1 - mean rho of its own predictions, over the clips of the
        batch that have it."""
        assert batch.labels is not None
        labels, known = batch.labels.float(), batch.known
        losses = [
            1 - correlations(prediction.float(), labels, _rows(batch.present[name], known)).mean()
            for name, prediction in output.parts.items()
        ]
        return torch.stack(losses).mean() + sum(output.losses.values())

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Level and spread of each modality's predictions, then for each emotion the weights with
        the best rho."""
        found = []
        for batch in batches:
            assert batch.labels is not None
            said_by_each = torch.stack(list(self(batch).parts.values()), dim=1)
            present = torch.stack([batch.present[name] for name in MODALITIES], dim=1)
            found.append((said_by_each, present, batch.labels, batch.labelled))
        # (N, 3, 6), (N, 3), (N, 6), (N, 6)
        parts, there, labels, known = (torch.cat(each) for each in zip(*found, strict=True))
        parts, labels = parts.float(), labels.float()
        if known.all():
            self.label_level.copy_(labels.mean(dim=0))
            self.label_spread.copy_(labels.std(dim=0, unbiased=False))
        else:
            for column in range(labels.shape[1]):
                real = labels[known[:, column], column]
                self.label_level[column] = real.mean()
                self.label_spread[column] = real.std(unbiased=False)
        for index in range(len(MODALITIES)):
            said = parts[there[:, index], index]  # (n, 6)
            if not len(said):
                said = parts.new_zeros(1, parts.shape[-1])
            self.level[index] = said.mean(dim=0)
            # Where a modality says the same of all clips that have it, its scale is unknown: it
            # then adds nothing to the mean label.
            spread = said.std(dim=0, unbiased=False)
            self.spread[index] = torch.where(spread > 1e-4, spread, torch.inf)
        tenths = [(a, v, 10 - a - v) for a, v in product(range(11), repeat=2) if a + v <= 10]
        grid = torch.tensor(tenths) / 10  # (66, 3)
        # the most even first: it wins a tie
        grid = grid[(grid - 1 / 3).square().sum(dim=1).argsort(stable=True)].to(parts)
        weights = grid.unsqueeze(-1).expand(-1, -1, self.sizes.outputs)
        fused = self.fuse(parts, there, weights)  # (66, N, 6)
        best = correlations(fused, labels, _rows(there.any(dim=1), known)).argmax(dim=0)  # (6,)
        self.weights.copy_(grid[best].T)

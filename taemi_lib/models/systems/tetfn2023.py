"""TETFN: cross-modal attention in which sound and face reach each other through the text (Wang
2023)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import TimeFeatures
from taemi_lib.models.base import Output, Sizes
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.models.pseudo_labels import FUSED, SelfSupervised, Tower
from taemi_lib.models.systems.mult import CrossModalLayer
from taemi_lib.models.temporal import LSTM, Features, in_front, last_step
from taemi_lib.profiles import MODALITIES

Steps = tuple[Tensor, Tensor]  # values (B, T, d) and their mask (B, T)


class Reader(nn.Module):
    """A modality in model space, a step from each of its steps: (B, T, d), mask (B, T), times (B,
    T) s. Sound and face pass an LSTM first."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        super().__init__()
        self.features = Features(name, sizes)
        self.lstm = None if name == "text" else LSTM(self.features.width, sizes.width)
        inputs = self.features.width if self.lstm is None else sizes.width
        self.project = nn.Linear(inputs, sizes.width, bias=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        values, mask, times = self.features(batch)
        if self.lstm is not None:
            times = in_front(times.unsqueeze(-1), mask)[0].squeeze(-1)  # as the LSTM's steps
            values, mask = self.lstm(values, mask)
        return self.project(values), mask, times


class Direction(nn.Module):
    """A target looks into a source, several times, the last time normed: (B, T, d)."""

    def __init__(self, sizes: Sizes, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CrossModalLayer(sizes.width, sizes.heads, sizes.dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, target: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            target = layer(target, source, mask)
        return self.norm(target)


class TextEnhanced(nn.Module):
    """A target looks into what another modality found in the text: (B, T, d).

    c = Direction(other looks into text)   (B, S, d), a step for each of the other's
    Direction(target looks into c)         the text's values, at the other's times
    """

    def __init__(self, sizes: Sizes, layers: int) -> None:
        super().__init__()
        self.enhance = Direction(sizes, 1)
        self.look = Direction(sizes, layers)

    def forward(self, target: Tensor, other: Steps, text: Steps) -> Tensor:
        return self.look(target, self.enhance(other[0], *text), other[1])


class End(nn.Module):
    """What a target has seen, as one vector: self-attention, several times, and the last real step,
    normed: (B, T, 2 d), (B, T) -> (B, 2 d)."""

    def __init__(self, sizes: Sizes, layers: int) -> None:
        super().__init__()
        width = 2 * sizes.width
        made = [CrossModalLayer(width, sizes.heads, sizes.dropout) for _ in range(layers)]
        self.before, self.final = nn.ModuleList(made[:-1]), made[-1]
        self.norm = nn.LayerNorm(width)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        for layer in self.before:
            steps = layer(steps, steps, mask)
        # only this step's output is read, so only it asks
        last = last_step(steps, mask).unsqueeze(1)  # (B, 1, 2 d)
        return self.norm(self.final(last, steps, mask)).squeeze(1)


class TETFN2023(SelfSupervised):
    """MulT in which sound and face reach each other through the text, with a label for each
    modality (TETFN, Wang 2023).

        X_m: LSTM (sound, face), linear, + time                                  (B, T_m, d)
        X_(s -> t), X_(t -> s): Direction, for s = sound and face                (B, T, d)
        X_(v -> a): TextEnhanced(X_a, X_v, X_t), X_(a -> v) likewise             (B, T, d)
        Z_m = SelfAttention([X_(s -> m); X_(s' -> m)]), its last real step       (B, 2 d)
        p = Tower([Z_t; Z_a; Z_v]);  p_m = Tower(max over time of X_m)           (B, K)
        loss and labels as in self_mm2021 (SelfSupervised, PseudoLabels)
    Source: Wang et al. 2023, and its code in thuiar/MMSA. Faithful: the six directions, the text as
    keys and values of the inner attention, norms, last step, maximum over time, towers, labels and
    loss (in the public code those of Self-MM to the letter). Changed for labels between 0 and 1 as
    in self_mm2021. Reduced: as `mult` is, LAYERS of 1 instead of 2, a feed-forward d wide instead
    of 4 d, no mask of the future; convolutions of one step, as the code has them for MOSI and
    MOSEI; the last layer of the self-attention asks for the last step only, which alone is read; a
    frozen text encoder, one learning rate. Added: tokens and modality dropout as in TAEMI; times in
    seconds, in all directions, instead of positions in the inner attention only.
    """

    name = "tetfn2023"
    LAYERS = 1  # 2 as published

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        width = sizes.width
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.readers = nn.ModuleDict({name: Reader(name, sizes) for name in MODALITIES})
        self.time = TimeFeatures(width) if sizes.time_features else None
        directions = ("text_to_audio", "audio_to_text", "text_to_vision", "vision_to_text")
        self.cross = nn.ModuleDict({name: Direction(sizes, self.LAYERS) for name in directions})
        self.enhanced = nn.ModuleDict(
            {
                name: TextEnhanced(sizes, self.LAYERS)
                for name in ("vision_to_audio", "audio_to_vision")
            }
        )
        self.end = nn.ModuleDict({name: End(sizes, self.LAYERS) for name in MODALITIES})
        self.towers = nn.ModuleDict({name: Tower(width, sizes) for name in MODALITIES})
        self.fused = Tower(2 * len(MODALITIES) * width, sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        shown = dataclasses.replace(batch, present=kept)
        sequences: dict[str, Steps] = {}
        vectors, parts = {}, {}
        for name, reader in self.readers.items():
            values, mask, times = reader(shown)
            highest = values.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=1)  # (B, d)
            vectors[name], parts[name] = self.towers[name](highest)
            if self.time is not None:
                values = values + self.time(times)
            sequences[name] = values, mask
        ends = [self._end(name, sequences) for name in MODALITIES]
        vectors[FUSED], prediction = self.fused(torch.cat(ends, dim=-1))
        return Output(prediction, kept=kept, parts=parts, vectors=vectors)

    def _end(self, target: str, sequences: dict[str, Steps]) -> Tensor:
        """Z of a target: (B, 2 d)."""
        values, mask = sequences[target]
        seen = []
        for source in MODALITIES:
            way = f"{source}_to_{target}"
            if way in self.cross:
                seen.append(self.cross[way](values, *sequences[source]))
            elif way in self.enhanced:
                seen.append(self.enhanced[way](values, sequences[source], sequences["text"]))
        return self.end[target](torch.cat(seen, dim=-1), mask)

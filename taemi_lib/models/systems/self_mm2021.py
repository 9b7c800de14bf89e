"""Self-MM: late fusion whose modalities learn from labels that training makes for each of them (Yu
2021)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.base import Output, Sizes, TextVector
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.models.pseudo_labels import FUSED, SelfSupervised, Tower
from taemi_lib.models.temporal import LSTM, Features, last_step
from taemi_lib.profiles import MODALITIES


class LastState(nn.Module):
    """A sequence modality as one vector: LSTM, its last state, dropout, linear; (B, width). The
    batch's `present` says who is shown; the others are the token."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        super().__init__()
        self.features = Features(name, sizes)
        self.lstm = LSTM(self.features.width, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.project = nn.Linear(sizes.width, sizes.width)

    def forward(self, batch: Batch) -> Tensor:
        values, mask, _ = self.features(batch)
        return self.project(self.dropout(last_step(*self.lstm(values, mask))))


class SelfMM2021(SelfSupervised):
    """Late fusion of three vectors, trained with a label for each modality that training itself
    makes (Self-MM, Yu 2021).

        h_a, h_v = W LSTM(x)'s last state                              (B, d); h_t: the text vector
        p, p_m = Tower([h_t; h_a; h_v]), Tower(h_m) for each modality  (B, K)
        loss: weighted absolute errors of all four, see SelfSupervised; labels: see PseudoLabels
    Source: Yu et al. 2021, and its code in thuiar/MMSA. Faithful: networks, order of the layers,
    class centres over all training clips as last seen, relative distances, momentum, weights of the
    losses, no update in the first epoch (in which every weight is 0). Changed for labels between 0
    and 1: distances and tanh in the original's units (SPAN), the zero of the classes is each
    output's mean; each output has classes of its own. Reduced: text is the frozen encoder's vector
    instead of a BERT that is trained along; one learning rate instead of four, batches as
    everywhere instead of four batches a step; all widths are the profile's. Added: tokens and
    modality dropout as in TAEMI (a modality that is left out is neither taught nor moves a centre),
    labels that are not known move nothing.
    """

    name = "self_mm2021"

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.sequences = nn.ModuleDict(
            {name: LastState(name, sizes) for name in ("audio", "vision")}
        )
        self.text = TextVector(sizes)
        widths = {"audio": sizes.width, "vision": sizes.width, "text": sizes.text_dim}
        self.towers = nn.ModuleDict({name: Tower(widths[name], sizes) for name in MODALITIES})
        self.fused = Tower(sum(widths.values()), sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        shown = dataclasses.replace(batch, present=kept)
        read = {name: sequence(shown) for name, sequence in self.sequences.items()}
        read["text"] = self.text(batch, kept["text"])
        vectors, parts = {}, {}
        for name in MODALITIES:
            vectors[name], parts[name] = self.towers[name](read[name])
        vectors[FUSED], prediction = self.fused(
            torch.cat([read[name] for name in MODALITIES], dim=-1)
        )
        return Output(prediction, kept=kept, parts=parts, vectors=vectors)

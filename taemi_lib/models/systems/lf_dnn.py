"""LF-DNN: late fusion of averages and an LSTM, the weak baseline of the sentiment field's
tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taemi_lib.batches import Batch
from taemi_lib.models.attention import masked_mean
from taemi_lib.models.base import Output, Sizes, System
from taemi_lib.models.missing import MissingToken, ModalityDropout
from taemi_lib.models.temporal import LSTM, features, last_step


class ClipNorm(nn.Module):
    """Batch norm over the clips that have a modality: (B, D), kept (B,) -> (B, D). Rows that are
    not kept come back finite and count for nothing.

    In training mean and spread are those of the kept rows, else the running ones; so, too, where a
    batch has fewer than two such rows, from which no spread can be told.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, values: Tensor, kept: Tensor) -> Tensor:
        if self.training and kept.sum() > 1:
            normed = torch.zeros_like(values)
            normed[kept] = self.norm(values[kept])
            return normed
        norm = self.norm
        return functional.batch_norm(
            values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )


class AverageNet(nn.Module):
    """One modality's average through three layers: batch -> (B, d).

        x = mean_t X over the real steps, batch norm, dropout           (B, D)
        ReLU(W3 ReLU(W2 ReLU(W1 x)))                                    (B, d)
    The token stands in for the normed average.
    """

    def __init__(self, name: str, sizes: Sizes) -> None:
        super().__init__()
        self.name, self.inputs = name, getattr(sizes, f"{name}_dim")
        width = sizes.width
        self.norm = ClipNorm(self.inputs)
        self.dropout = nn.Dropout(sizes.input_dropout)
        self.token = MissingToken(self.inputs)
        self.layers = nn.Sequential(
            nn.Linear(self.inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )

    def forward(self, batch: Batch, kept: Tensor) -> Tensor:
        values, mask, _ = features(batch, self.name, self.inputs)
        normed = self.dropout(self.norm(masked_mean(values, mask), kept))
        return self.layers(self.token.in_vector(normed, kept))


class TokenNet(nn.Module):
    """An LSTM over the text's tokens, its state after the last real one, a linear map: batch ->
    (B, d)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.inputs = sizes.text_dim
        self.dropout = nn.Dropout(sizes.input_dropout)
        self.token = MissingToken(self.inputs)
        self.lstm = LSTM(self.inputs, sizes.width)
        self.project = nn.Linear(sizes.width, sizes.width)

    def forward(self, batch: Batch, kept: Tensor) -> Tensor:
        values, mask, _ = features(batch, "text", self.inputs)
        values, mask = self.token.in_sequence(self.dropout(values), mask, kept)
        return self.project(last_step(*self.lstm(values * mask.unsqueeze(-1), mask)))


class LFDNN(System):
    """Late fusion: averages of sound and face through layers with batch norm, an LSTM over the
    words, concatenated (LF-DNN).

        z_a, z_v = AverageNet(A), AverageNet(V);  z_t = TokenNet(T)                 (B, d)
        y = W3 ReLU(W2 ReLU(W1 Dropout([z_a; z_v; z_t])))                   (B, 3 d) -> (B, outputs)
    Source: the public code of MMSA (after Williams et al. 2018), whose tables have it for every
    data set. Faithful: the three subnetworks (a norm of the average, three ReLU layers; one LSTM
    layer, its last state, a linear map), nothing but concatenation before two ReLU layers. Reduced:
    one width d for all subnetworks, the profile's for the layers after (MMSA: chosen for each data
    set, such as 128, 16, 128 and 256); MSE instead of L1, as for all systems here. Different: the
    average is over real steps and the LSTM ends at the last real token, where MMSA reads the
    padding along. Added: tokens and modality dropout as in TAEMI; batch norm's statistics are of
    clips that have the modality; the profile's dropout on the tokens, too.
    """

    name = "lf_dnn"

    def build(self, sizes: Sizes) -> None:
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.averages = nn.ModuleDict(
            {name: AverageNet(name, sizes) for name in ("audio", "vision")}
        )
        self.text = TokenNet(sizes)
        self.fuse = nn.Sequential(
            nn.Dropout(sizes.dropout),
            nn.Linear(3 * sizes.width, sizes.mlp_width),
            nn.ReLU(),
            nn.Linear(sizes.mlp_width, sizes.mlp_width),
            nn.ReLU(),
            nn.Linear(sizes.mlp_width, sizes.outputs),
        )

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        parts = [net(batch, kept[name]) for name, net in self.averages.items()]
        parts.append(self.text(batch, kept["text"]))
        return Output(self.fuse(torch.cat(parts, dim=-1)), kept=kept)

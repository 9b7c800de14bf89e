"""Parts of the compared systems that read a sequence step by step: features with a token, LSTM,
convolutions, transformer.

All take values (B, T, D) and a mask (B, T) in which every row has at least one real step:
`Features` sees to that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taemi_lib.batches import Batch
from taemi_lib.models.attention import TimeFeatures
from taemi_lib.models.base import Sizes, check_text
from taemi_lib.models.missing import MissingToken


def features(batch: Batch, name: str, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """A modality's features as float32 (B, T, width), their mask (B, T) and times (B, T). An absent
    modality has no real step.

    Whatever stands in padding or in an absent modality (noise, NaN, inf) is zero afterwards. Text
    is its token sequence, or, where a batch has no tokens, its vector as a single step.
    """
    present = batch.present[name]
    if name in batch.values:
        values, mask, times = (
            batch.values[name],
            batch.mask[name] & present.unsqueeze(-1),
            batch.times[name],
        )
    else:
        vector = (
            text_vector(batch, width)
            if name == "text"
            else torch.zeros(len(batch), width, device=present.device)
        )
        values, mask = vector.unsqueeze(1), present.unsqueeze(-1)  # (B, 1, D), (B, 1)
        times = torch.zeros(mask.shape, device=mask.device)
    return values.masked_fill(~mask.unsqueeze(-1), 0).float(), mask, times.masked_fill(~mask, 0)


def text_vector(batch: Batch, width: int) -> Tensor:
    """The text vector as float32 (B, width), zeros where text is absent. Raises ValueError for
    tokens without a vector."""
    present = batch.present["text"]
    if batch.pooled is None:
        check_text(batch)
        return torch.zeros(len(batch), width, device=present.device)
    return batch.pooled.float().masked_fill(~present.unsqueeze(-1), 0)


class Features(nn.Module):
    """One modality's features as the encoder gave them, with a trainable token as the only step
    where it is absent.

    batch -> values (B, T, D) with zeros in the padding, mask (B, T), times (B, T) s
    """

    def __init__(self, name: str, sizes: Sizes) -> None:
        super().__init__()
        self.name, self.width = name, getattr(sizes, f"{name}_dim")
        self.dropout = nn.Dropout(sizes.input_dropout)
        self.token = MissingToken(self.width)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        values, mask, times = features(batch, self.name, self.width)
        values, mask = self.token.in_sequence(self.dropout(values), mask, batch.present[self.name])
        # the token was also written into the padding of its rows
        return values * mask.unsqueeze(-1), mask, times


def in_front(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The real steps moved to the front, in their order: (B, T, D), and how many there are: (B,).
    Most batches have them there."""
    order = (~mask).long().argsort(dim=1, stable=True)  # (B, T)
    return values.gather(1, order.unsqueeze(-1).expand_as(values)), mask.sum(dim=1)


class LSTM(nn.Module):
    """An LSTM over the real steps only, (B, T, D) -> (B, T, width, or twice that in both
    directions).

    Outputs stand in front, whatever the mask looked like; the mask that comes back says so.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        layers: int = 1,
        dropout: float = 0.0,
        both_directions: bool = False,
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            inputs,
            width,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
            bidirectional=both_directions,
        )

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        values, lengths = in_front(values, mask)
        mask = torch.arange(values.shape[1], device=mask.device) < lengths.unsqueeze(-1)
        if not self.lstm.bidirectional:
            # what comes after the last real step cannot change it
            return self.lstm(values)[0] * mask.unsqueeze(-1), mask
        packed = nn.utils.rnn.pack_padded_sequence(
            values, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        output, _ = nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=values.shape[1]
        )
        return output, mask


def last_step(values: Tensor, mask: Tensor) -> Tensor:
    """The last real step of each row: (B, T, D), (B, T) -> (B, D)."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).argmax(dim=1)
    return values[torch.arange(len(values), device=values.device), last]


class CausalConvolutions(nn.Module):
    """A temporal convolutional network (TCN): (B, T, D) -> (B, T, d), each step from itself and
    those before it.

    Residual blocks of two dilated convolutions of 3 steps; the dilation doubles from block to block
    (1, 2: an output sees 13 steps). Padding is zero again after every convolution, as if the
    sequence began and ended there.
    """

    def __init__(self, inputs: int, width: int, dropout: float, blocks: int = 2) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.Conv1d(width, width, kernel_size=3, dilation=2**block) for _ in range(2)
            )
            for block in range(blocks)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        real = mask.unsqueeze(1)  # (B, 1, T)
        values = self.project(values).transpose(1, 2) * real  # (B, d, T)
        for number, block in enumerate(self.blocks):
            before = 2 * 2**number  # zeros in front, none behind: causal
            inner = values
            for convolution in block.children():
                inner = convolution(functional.pad(inner, (before, 0)))
                inner = self.dropout(functional.gelu(inner)) * real
            values = values + inner
        return values.transpose(1, 2)


class TemporalTransformer(nn.Module):
    """A transformer encoder over time: (B, T, D) -> (B, T, d). Linear, + time features, then layers
    with feed-forward (2 d wide)."""

    def __init__(self, inputs: int, sizes: Sizes, layers: int = 1) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, sizes.width)
        self.time = TimeFeatures(sizes.width) if sizes.time_features else None
        layer = nn.TransformerEncoderLayer(
            sizes.width,
            sizes.heads,
            2 * sizes.width,
            sizes.dropout,
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(sizes.width), enable_nested_tensor=False
        )

    def forward(self, values: Tensor, mask: Tensor, times: Tensor) -> Tensor:
        values = self.project(values)
        if self.time is not None:
            values = values + self.time(times)
        return self.layers(values, src_key_padding_mask=~mask)

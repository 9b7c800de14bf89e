"""Other anchors than text (paper, Table 4; docs/paper.md row 9c): TAEMI's block with the roles
exchanged.

The anchor's vector is the query and is concatenated; the two others are asked. Text then is a
sequence, its tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import LearnedQuery, SingleQueryAttention, masked_mean
from taemi_lib.models.base import Output, Sizes, Stream, System, head
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.profiles import MODALITIES


class TokenStream(Stream):
    """The text's tokens in model space, like sound and face; a token's place is its time.

    Where a batch has no tokens, its text vector is a single step.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__("text", sizes)

    def forward(self, batch: Batch, kept: Tensor) -> tuple[Tensor, Tensor]:
        if "text" not in batch.values and batch.pooled is not None:
            step = batch.pooled.unsqueeze(1)  # (B, 1, text_dim)
            batch = replace(batch, values=batch.values | {"text": step})
        return super().forward(batch, kept)


def sequence_streams(sizes: Sizes) -> nn.ModuleDict:
    """All three modalities as self-attended sequences, each with its own token."""
    return nn.ModuleDict(
        {name: TokenStream(sizes) if name == "text" else Stream(name, sizes) for name in MODALITIES}
    )


class Anchored(System):
    """One modality's vector is the query over the two others.

        S'_m = SelfAttention(W_m S_m + time)                        (B, T, d) for audio, vision and
                                                                    the text's tokens
        q = mean of the anchor's S' over its real steps             (B, d)
        h_m = CrossAttention_m(q, S'_m) for the two others          (B, d)
        y = head([q; h; h])                                         (B, 3 d) -> (B, 6)
    Source: paper, section 4.3 (Table 4), which does not say how a sequence becomes a query:
    docs/paper.md row 9c decides. Faithful: one modality asks the two others; self-attention,
    tokens, modality dropout and head are TAEMI's. Different from TAEMI beside the anchor: the
    concatenated anchor is in model space (TAEMI's is the raw text vector), and text is averaged or
    asked token by token. Reduced: text loses its encoder's own summary, which TAEMI has.
    """

    anchor: ClassVar[str]

    def build(self, sizes: Sizes) -> None:
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.streams = sequence_streams(sizes)
        self.cross = nn.ModuleDict(
            {
                name: SingleQueryAttention(sizes.width, sizes.heads)
                for name in MODALITIES
                if name != self.anchor
            }
        )
        self.head = head(3 * sizes.width, sizes)

    def summary(self, values: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The anchor's sequence as one vector (B, d), and the attention that made it, if any."""
        return masked_mean(values, mask), {}

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        sequences = {name: stream(batch, kept[name]) for name, stream in self.streams.items()}
        query, attention = self.summary(*sequences[self.anchor])
        parts = [query]
        for name, cross in self.cross.items():
            pooled, attention[name] = cross(query, *sequences[name])  # (B, d), (B, H, T)
            parts.append(pooled)
        return Output(self.head(torch.cat(parts, dim=-1)), attention, kept)


class AttentionPooled(Anchored):
    """An anchor made by attention with a learned query: a mean dilutes the anchor's own short
    events (docs/paper.md row 9c)."""

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        self.query = LearnedQuery(sizes.width)
        self.pool = SingleQueryAttention(sizes.width, sizes.heads)

    def summary(self, values: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        pooled, weights = self.pool(self.query(values), values, mask)
        return pooled, {self.anchor: weights}


class VisionAnchored(Anchored):
    """The face asks the sound and the words; its query is the mean of its self-attended sequence
    (Table 4)."""

    name, anchor = "vision_anchored", "vision"


class AudioAnchored(Anchored):
    """The sound asks the face and the words; its query is the mean of its self-attended sequence
    (Table 4)."""

    name, anchor = "audio_anchored", "audio"


class VisionAnchoredPooled(AttentionPooled):
    """The face asks the sound and the words; its query is pooled by attention with a learned query.
    Not in the paper."""

    name, anchor = "vision_anchored_pooled", "vision"


class AudioAnchoredPooled(AttentionPooled):
    """The sound asks the face and the words; its query is pooled by attention with a learned query.
    Not in the paper."""

    name, anchor = "audio_anchored_pooled", "audio"

"""TAEMI: what is said decides where to look. Text-anchored dual cross-attention over sound and face
(paper, section 3).

docs/paper.md rows 3, 4, 6, 7, 10, 11, 13 and 20 decide what the paper leaves open.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import SingleQueryAttention
from taemi_lib.models.base import Output, Sizes, Stream, System, TextVector, head
from taemi_lib.models.missing import ModalityDropout


class TAEMI(System):
    """Text-anchored dual cross-attention: the clip's text vector is the query over its sound and
    over its face.

        A' = SelfAttention(W_a A + time), V' = SelfAttention(W_v V + time)          (B, T, d)
        q = W_t t;  h_a = CrossAttention_a(q, A'),  h_v = CrossAttention_v(q, V')   (B, d)
        f = [t; h_a; h_v]                                   (B, text_dim + 2 d): 768 + 2 * 512 =
                                                            1792 in the paper
        y = W2 Dropout(GELU(W1 f))                                                  (B, 6)
    A missing modality is replaced by its token: in A', V' as a sequence of length 1, in t before
    W_t. In training each modality is left out with probability `modality_dropout`, but never all
    that a clip has.

    Source: the paper, section 3. Faithful: projection, one self-attention a sequence, the text
    vector as single query of two cross-attentions, the 1792 numbers of f and the head. Decided,
    where the paper is silent: f holds the raw text vector; a token for text, too; the time
    features; what is normalised (docs/paper.md). Reduced: the encoders are frozen and their
    features stored, while the paper seems to tune those of sound and text.
    """

    name = "taemi"

    def build(self, sizes: Sizes) -> None:
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.text = TextVector(sizes)
        self.streams = nn.ModuleDict({name: Stream(name, sizes) for name in ("audio", "vision")})
        self.query = self.build_query(sizes)
        self.cross = nn.ModuleDict(
            {name: SingleQueryAttention(sizes.width, sizes.heads) for name in self.streams}
        )
        self.head = head(sizes.text_dim + 2 * sizes.width, sizes)

    def build_query(self, sizes: Sizes) -> nn.Module:
        """What turns the text vectors (B, text_dim) into queries (B, d)."""
        return nn.Linear(sizes.text_dim, sizes.width)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        text = self.text(batch, kept["text"])  # (B, text_dim)
        found, attention = self.look(self.query(text), batch, kept)
        return Output(self.head(torch.cat([text, *found], dim=-1)), attention, kept)

    def look(
        self, query: Tensor, batch: Batch, kept: dict[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What a query (B, d) finds in sound and face: [h_a, h_v], each (B, d), and with which
        attention."""
        found, attention = [], {}
        for name, stream in self.streams.items():
            values, mask = stream(batch, kept[name])  # (B, T, d), (B, T)
            pooled, attention[name] = self.cross[name](query, values, mask)  # (B, d), (B, H, T)
            found.append(pooled)
        return found, attention

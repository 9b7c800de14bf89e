"""The controls without which no claim about text anchoring stands (docs/paper.md row 5): TAEMI's
parts, one idea removed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import LearnedQuery, masked_mean
from taemi_lib.models.base import Output, Sizes, Stream, System, TextVector, head
from taemi_lib.models.taemi import TAEMI


class ConstantQuery(TAEMI):
    """TAEMI with one learned query for all clips; the text vector is still concatenated.

    What TAEMI gains over it is what letting the words choose the moment is worth. Source: ours
    (docs/paper.md row 5). Faithful: all but the query is TAEMI's. Reduced: nothing else.
    """

    name = "constant_query"

    def build_query(self, sizes: Sizes) -> nn.Module:
        return LearnedQuery(sizes.width)


class TextOnly(System):
    """The text vector alone, through the same head. No modality is left out in training: it has
    only this one.

    Source: ours. Faithful: text vector, token and head are TAEMI's. Reduced: sound and face are
    gone, on purpose.
    """

    name = "text_only"

    def build(self, sizes: Sizes) -> None:
        self.text = TextVector(sizes)
        self.head = head(sizes.text_dim, sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        return Output(
            self.head(self.text(batch, batch.present["text"])), kept={"text": batch.present["text"]}
        )


class StreamOnly(System):
    """One self-attended sequence, averaged over its real steps (no text asks), through the same
    head.

    No modality is left out in training: it has only this one. Source: ours. Faithful: projection,
    time, self-attention, token and head are TAEMI's. Reduced: the other modalities are gone, on
    purpose.
    """

    modality: str

    def build(self, sizes: Sizes) -> None:
        self.stream = Stream(self.modality, sizes)
        self.head = head(sizes.width, sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        present = batch.present[self.modality]
        return Output(
            self.head(masked_mean(*self.stream(batch, present))), kept={self.modality: present}
        )


class AudioOnly(StreamOnly):
    """The sound alone: its self-attended sequence, masked mean, the same head."""

    name, modality = "audio_only", "audio"


class VisionOnly(StreamOnly):
    """The face alone: its self-attended sequence, masked mean, the same head."""

    name, modality = "vision_only", "vision"


class TextGated(ConstantQuery):
    """A constant query, and the text scales what it finds: "how much" without "where to look".

        h_m = CrossAttention_m(constant, M')                        (B, d)
        g_m = 2 sigmoid(W_m t + b_m)                                (B, d) between 0 and 2
        y = head([t; g_a * h_a; g_v * h_v])                         (B, text_dim + 2 d) -> (B, 6)
    Source: ours; nothing in the paper. Faithful: all but query and gates is TAEMI's. Reduced:
    nothing else. What TAEMI gains over it is not the product of text and sound as such. (Gates over
    what several heads found can select, too: notebook 06.)
    """

    name = "text_gated"

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        self.gates = nn.ModuleList([nn.Linear(sizes.text_dim, sizes.width) for _ in self.streams])

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        text = self.text(batch, kept["text"])  # (B, text_dim)
        found, attention = self.look(self.query(text), batch, kept)
        # each (B, d)
        scaled = [2 * gate(text).sigmoid() * pooled for gate, pooled in zip(self.gates, found)]
        return Output(self.head(torch.cat([text, *scaled], dim=-1)), attention, kept)


class NoText(ConstantQuery):
    """TAEMI without text: a learned query looks over sound and face, and nothing else is
    concatenated.

    Modality dropout leaves out sound or face, never both. Source: ours. Faithful: streams,
    attention, tokens and head are TAEMI's. Reduced: the words are gone, on purpose.
    """

    name = "no_text"

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        del self.text
        self.head = head(2 * sizes.width, sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout({name: batch.present[name] for name in self.streams})
        query = self.query(kept["audio"])  # it only counts the clips
        found, attention = self.look(query, batch, kept)
        return Output(self.head(torch.cat(found, dim=-1)), attention, kept)


class NoTimeFeatures(TAEMI):
    """TAEMI whose steps do not know their time: the query can choose by what happens, not by when
    (docs/paper.md row 20).

    Source: ours. Faithful: everything else is TAEMI's. Reduced: nothing else.
    """

    name = "no_time_features"

    def build(self, sizes: Sizes) -> None:
        self.sizes = replace(sizes, time_features=False)
        super().build(self.sizes)


class ShuffledText(TAEMI):
    """TAEMI that is told another clip's words, as query and in the concatenation, in training and
    test.

    The other clip is of the same split (ClipDataset.with_partners); a clip without text stays
    without. What it keeps over `no_text` is chance; what TAEMI gains over it is what the right
    words are worth. A batch without partners, such as a single clip to predict, is treated as one
    without text. Source: ours. Faithful: the network is TAEMI's. Reduced: nothing.
    """

    name, needs_partner = "shuffled_text", True

    def forward(self, batch: Batch) -> Output:
        return super().forward(told_by_partner(batch))


class ShuffledQuery(TAEMI):
    """TAEMI with the true words in the concatenation and another clip's as the query, in training
    and test.

    It has all of the text's information and a query that varies; only the query does not belong to
    the clip. Partners as in `shuffled_text`. Source: ours. Faithful: the network is TAEMI's.
    Reduced: nothing.
    """

    name, needs_partner = "shuffled_query", True

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        other = told_by_partner(batch)
        query = self.query(self.text(other, kept["text"] & other.present["text"]))
        found, attention = self.look(query, batch, kept)
        return Output(
            self.head(torch.cat([self.text(batch, kept["text"]), *found], dim=-1)), attention, kept
        )


def told_by_partner(batch: Batch) -> Batch:
    """The same clips with their partners' text vectors, where they have text; without partners,
    nobody has."""
    if batch.partner is None:
        return replace(
            batch, present=batch.present | {"text": torch.zeros_like(batch.present["text"])}
        )
    return replace(batch, pooled=batch.partner)

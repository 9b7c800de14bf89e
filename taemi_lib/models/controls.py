"""The controls without which no claim about text anchoring stands (PAPER.md row 5): TAEMI's parts, one idea removed."""

from __future__ import annotations

from torch import nn

from taemi_lib.models.attention import LearnedQuery, masked_mean
from taemi_lib.models.base import Output, Sizes, Stream, System, TextVector, head
from taemi_lib.models.batch import Batch
from taemi_lib.models.taemi import TAEMI


class ConstantQuery(TAEMI):
    """TAEMI with one learned query for all clips; the text vector is still concatenated.

    What TAEMI gains over it is what letting the words choose the moment is worth.
    """

    name = "constant_query"

    def build_query(self, sizes: Sizes) -> nn.Module:
        return LearnedQuery(sizes.width)


class TextOnly(System):
    """The text vector alone, through the same head. No modality is left out in training: it has only this one."""

    name = "text_only"

    def build(self, sizes: Sizes) -> None:
        self.text = TextVector(sizes)
        self.head = head(sizes.text_dim, sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        return Output(self.head(self.text(batch, batch.present["text"])), kept={"text": batch.present["text"]})


class StreamOnly(System):
    """One self-attended sequence, averaged over its real steps (there is no text to ask), through the same head.

    No modality is left out in training: it has only this one.
    """

    modality: str

    def build(self, sizes: Sizes) -> None:
        self.stream = Stream(self.modality, sizes)
        self.head = head(sizes.width, sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        present = batch.present[self.modality]
        return Output(self.head(masked_mean(*self.stream(batch, present))), kept={self.modality: present})


class AudioOnly(StreamOnly):
    """The sound alone: its self-attended sequence, masked mean, the same head."""

    name, modality = "audio_only", "audio"


class VisionOnly(StreamOnly):
    """The face alone: its self-attended sequence, masked mean, the same head."""

    name, modality = "vision_only", "vision"

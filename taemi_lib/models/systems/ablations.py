"""The four ablations of the paper's Table 3: TAEMI with one part taken out (docs/paper.md rows 8, 9
and 9b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import masked_mean
from taemi_lib.models.base import Output, Sizes, Stream, System, TextVector, head
from taemi_lib.models.missing import MissingToken, ModalityDropout
from taemi_lib.models.taemi import TAEMI


class SelfAttentionOnly(System):
    """TAEMI without cross-attention (Table 3, row 2): the self-attended sequences are averaged
    instead of asked.

    Source: paper, section 4.3. Faithful: projection, self-attention, text vector, tokens, modality
    dropout and head are TAEMI's. Decided (docs/paper.md row 9): the average is over the real steps.
    Reduced: nothing beyond TAEMI's own reductions.
    """

    name = "self_attention_only"

    def build(self, sizes: Sizes) -> None:
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.text = TextVector(sizes)
        self.streams = nn.ModuleDict({name: Stream(name, sizes) for name in ("audio", "vision")})
        self.head = head(sizes.text_dim + 2 * sizes.width, sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        means = [
            masked_mean(*stream(batch, kept[name])) for name, stream in self.streams.items()
        ]  # each (B, d)
        return Output(
            self.head(torch.cat([self.text(batch, kept["text"]), *means], dim=-1)), kept=kept
        )


class Unattended(nn.Module):
    """In the place of self-attention: every step stays as it is."""

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        return values


class Concat(SelfAttentionOnly):
    """Simple concatenation (Table 3, row 1): projected sequences, averaged, beside the text vector,
    through the same head.

    Source: paper, section 4.3. Faithful: projected sound and face, no attention of any kind, the
    same head. Decided: the paper's sequences are "flattened", which lengths that vary do not allow,
    so the average over the real steps is taken (docs/paper.md row 9); the text vector is the raw
    one, as in TAEMI (row 3); tokens and modality dropout stay on (row 9b). Reduced: the time
    features go with the attention that they serve, since the average of a clip's own clock says
    nothing but how long it is.
    """

    name = "concat"

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        for stream in self.streams.values():
            assert isinstance(stream, Stream)
            stream.time, stream.attend = None, Unattended()


class TAEMIWithoutMissingTokens(TAEMI):
    """TAEMI with zeros where a modality is missing, instead of trainable tokens (Table 3, row 3).
    Modality dropout stays on.

    Source: paper, section 4.3. Faithful: everything else is TAEMI's. Decided: zeros, exactly where
    the tokens stood (docs/paper.md row 8). Reduced: nothing beyond TAEMI's own reductions.
    """

    name = "taemi_no_missing_tokens"

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        for token in [part for part in self.modules() if isinstance(part, MissingToken)]:
            zeros = torch.zeros_like(token.vector)
            del token.vector
            token.register_buffer("vector", zeros, persistent=False)


class TAEMIWithoutModalityDropout(TAEMI):
    """TAEMI that is shown everything a clip has, in training too (Table 3, row 4). Only clips that
    lack a modality train its token.

    Source: paper, section 4.3. Faithful: everything else is TAEMI's. Reduced: nothing beyond
    TAEMI's own reductions.
    """

    name = "taemi_no_modality_dropout"

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        self.modality_dropout = ModalityDropout(0.0)

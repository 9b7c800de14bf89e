"""ALMT: what is said, read at three depths, guides what is taken from sound and face into one
further modality, which then is fused with the text (Zhang et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taemi_lib.batches import Batch
from taemi_lib.models.attention import check_heads
from taemi_lib.models.base import Output, Sizes, System
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.models.systems.mult import ProjectedSequence
from taemi_lib.profiles import MODALITIES

TOKENS = 8  # vectors that a modality's whole sequence becomes
DEPTHS = 3  # of the text that guide, one layer of the hyper-modality each
FUSION_LAYERS = 2  # the public code's for MOSI; 4 for its larger data


def transformer_layer(sizes: Sizes) -> nn.TransformerEncoderLayer:
    """Pre-norm self-attention and a feed-forward network, both d wide, as everywhere in ALMT."""
    return nn.TransformerEncoderLayer(
        sizes.width,
        sizes.heads,
        sizes.width,
        sizes.dropout,
        "gelu",
        batch_first=True,
        norm_first=True,
    )


class Condense(nn.Module):
    """A sequence as eight vectors: (B, T, d), mask (B, T) -> (B, 8, d).

    Eight learned tokens stand before the steps in one transformer layer; what becomes of them is
    kept.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(TOKENS, sizes.width))
        self.layer = transformer_layer(sizes)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        tokens = self.tokens.expand(len(values), -1, -1)
        values = torch.cat([tokens, values], dim=1)  # (B, 8 + T, d)
        real = torch.cat([mask.new_ones(tokens.shape[:2]), mask], dim=1)
        return self.layer(values, src_key_padding_mask=~real)[:, :TOKENS]


class HyperLayer(nn.Module):
    """One step of the hyper-modality, all (B, 8, d): h + W_o (Attention(t -> a) + Attention(t ->
    v)).

    Guide t asks sound and face with the same query; each has keys and values of its own. All three
    pass a norm first. The guide itself is not added: only what it finds.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        check_heads(width, sizes.heads)
        self.heads = sizes.heads
        self.norm = nn.ModuleDict({name: nn.LayerNorm(width) for name in MODALITIES})
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.ModuleDict(
            {name: nn.Linear(width, 2 * width, bias=False) for name in ("audio", "vision")}
        )
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, hyper: Tensor, guide: Tensor, sources: dict[str, Tensor]) -> Tensor:
        query = self._split(self.query(self.norm["text"](guide)))
        found = []
        for name, key_value in self.key_value.items():
            key, value = key_value(self.norm[name](sources[name])).chunk(2, dim=-1)
            found.append(
                functional.scaled_dot_product_attention(query, self._split(key), self._split(value))
            )  # (B, H, 8, d / H)
        both = torch.stack(found).sum(dim=0).transpose(1, 2).flatten(2)  # (B, 8, d)
        return hyper + self.dropout(self.output(both))

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, 8, H e) -> (B, H, 8, e)


class FusionLayer(nn.Module):
    """The text looks into the hyper-modality: target and source (B, 9, d) -> (B, 9, d).

    x = target + Attention(norm(target), norm(source));  x + MLP(norm(x))
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.norm_target, self.norm_source = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, sizes.heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(sizes.dropout),
            nn.Linear(width, width),
        )
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask (B, places of the source): which of them are real, where not all are."""
        source, ignored = self.norm_source(source), None if mask is None else ~mask
        found, _ = self.attend(
            self.norm_target(target), source, source, ignored, need_weights=False
        )
        target = target + self.dropout(found)
        return target + self.dropout(self.mlp(target))


class ALMT2023(System):
    """Language guides, at three depths, what a further modality learns from sound and face; then it
    meets the text (ALMT, Zhang et al. 2023).

        h_m = Condense(W_m X_m + time) for sound, face and the text's tokens        (B, 8, d)
        t^1 = h_t + positions, t^2 and t^3 = a transformer layer each on the one before
        h^0 learned, the same for all clips; for the depths j = 1, 2, 3             (B, 8, d)
        h^j = h^(j-1) + W_o (Attention(t^j -> h_a) + Attention(t^j -> h_v))
        z = CrossTransformer([0; t^3] looks into [0; h^3]), both + positions        (B, 9, d)
        y = W mean_i z_i                                            (B, d) -> (B, outputs)
    Source: Zhang et al. 2023, equations and public code. Faithful: eight vectors a modality, the
    three depths, one query over sound and face with their own keys and values, a sum into a
    hyper-modality that starts at ones, a fusion in which text asks, two layers deep, one linear
    output, MSE. Decided: the mean of the nine places is read; the code reads z_0, which meets no
    other place and so never the words (`almt2023_first_place` does that, too); h^(j-1) is added as
    the equation has it, while the code normalises it before. Reduced: frozen encoders (the original
    tunes BERT); heads share the width (the code's transformers have 64 numbers a head whatever the
    width); keys and values of the fusion share a norm. Added: masks (the code has none), tokens and
    modality dropout as in TAEMI, times in seconds instead of learned positions of steps, the
    profile's dropouts (the code: 0).
    """

    name = "almt2023"

    def build(self, sizes: Sizes) -> None:
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.sequences = nn.ModuleDict(
            {name: ProjectedSequence(name, sizes) for name in MODALITIES}
        )
        self.condense = nn.ModuleDict({name: Condense(sizes) for name in MODALITIES})
        self.text_positions = nn.Parameter(torch.randn(TOKENS, sizes.width))
        self.text_layers = nn.ModuleList(transformer_layer(sizes) for _ in range(DEPTHS - 1))
        self.hyper = nn.Parameter(torch.ones(TOKENS, sizes.width))
        self.hyper_layers = nn.ModuleList(HyperLayer(sizes) for _ in range(DEPTHS))
        # of the place that is read and of the eight vectors behind it
        self.positions = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(1 + TOKENS, sizes.width)) for name in ("text", "hyper")}
        )
        self.fusion_layers = nn.ModuleList(FusionLayer(sizes) for _ in range(FUSION_LAYERS))
        self.output = nn.Linear(sizes.width, sizes.outputs)

    def depths(self, text: Tensor) -> list[Tensor]:
        """The text (B, 8, d) at its three depths, each (B, 8, d)."""
        depths = [text + self.text_positions]
        for layer in self.text_layers:
            depths.append(layer(depths[-1]))
        return depths

    def guides(self, texts: list[Tensor]) -> list[Tensor]:
        """What asks sound and face at each depth, each (B, 8, d), from the text at these depths."""
        return texts

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        condensed = {
            name: self.condense[name](*sequence(batch, kept[name]))
            for name, sequence in self.sequences.items()
        }
        return Output(self.answer(condensed), kept=kept)

    def answer(self, condensed: dict[str, Tensor]) -> Tensor:
        """From the three modalities as eight vectors each (B, 8, d) to the prediction (B, K)."""
        texts = self.depths(condensed["text"])
        hyper = self.hyper.expand(len(texts[0]), -1, -1)
        for layer, guide in zip(self.hyper_layers, self.guides(texts), strict=True):
            hyper = layer(hyper, guide, condensed)
        return self.output(self.fuse(texts[-1], hyper))

    def fuse(self, text: Tensor, hyper: Tensor) -> Tensor:
        """Text and hyper-modality, both (B, 8, d), as one vector (B, d)."""
        # (B, 9, d): zeros and a position in front
        target = functional.pad(text, (0, 0, 1, 0)) + self.positions["text"]
        source = functional.pad(hyper, (0, 0, 1, 0)) + self.positions["hyper"]
        for layer in self.fusion_layers:
            target = layer(target, source)
        return self.read(target)

    def read(self, places: Tensor) -> Tensor:
        """What of the fused places (B, 9, d) is read: (B, d)."""
        return places.mean(dim=1)


class ALMT2023FirstPlace(ALMT2023):
    """ALMT as its public code reads it: the first of the fused places, which never meets the
    words'.

        y = W z_0
    Places ask the hyper-modality and never each other, so what is said decides only what is taken
    from sound and face, and is not read itself. Source: the public code of Zhang et al. 2023.
    Faithful: as `almt2023`, and what is read. Reduced: as there.
    """

    name = "almt2023_first_place"

    def read(self, places: Tensor) -> Tensor:
        return places[:, 0]


class ALMT2023Learned(ALMT2023):
    """ALMT's control: learned tokens, the same for every clip, ask sound and face in the text's
    place.

        h^j = h^(j-1) + W_o (Attention(g^j -> h_a) + Attention(g^j -> h_v)), g^j learned (8, d)
    The text still meets the hyper-modality in the fusion. What `almt2023` gains over it is what
    guidance by language is worth there, as TAEMI's gain over `constant_query` is in TAEMI. Source:
    ours. Faithful: everything but the guides is ALMT's. Reduced: nothing else.
    """

    name = "almt2023_learned"

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        self.learned = nn.ParameterList(torch.randn(TOKENS, sizes.width) for _ in range(DEPTHS))

    def guides(self, texts: list[Tensor]) -> list[Tensor]:
        return [guide.expand_as(text) for guide, text in zip(self.learned, texts, strict=True)]

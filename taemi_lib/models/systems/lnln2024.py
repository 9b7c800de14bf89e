"""LNLN: what sound and face suggest stands in for the text, as far as words are lost (Zhang et al.
2024)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from taemi_lib.batches import Batch
from taemi_lib.models.base import Output, Sizes
from taemi_lib.models.systems.almt2023 import ALMT2023, TOKENS, FusionLayer, transformer_layer
from taemi_lib.models.temporal import in_front
from taemi_lib.profiles import MODALITIES

# For targets between -3 and 3; ours lie between 0 and 1: squared errors are 36 times smaller, so
# are these beside them.
WEIGHTS = {"completeness": 0.9 / 36, "adversarial": 0.8 / 36, "reconstruction": 0.1 / 36}
WHOLE = 0.5  # of the training clips keep all of a modality


def lose_steps(batch: Batch) -> Batch:
    """The masked view: the same clips without a part of their steps, drawn anew at every call.

    In each modality, and apart from the others, WHOLE of the clips keep everything; the rest have a
    rate, uniform from 0 to 1, and lose each step with that probability. A modality may go as a
    whole; a clip that would lose everything loses nothing. The tokens that are left move up, as in
    a sentence that was heard without the others; sound and face keep their clock.
    """
    left, times = {}, dict(batch.times)
    for name, mask in batch.mask.items():
        real = mask & batch.present[name].unsqueeze(-1)
        draw = torch.rand(2, len(batch), 1, device=mask.device)
        rate = draw[0] * (draw[1] >= WHOLE)
        left[name] = real & (torch.rand(mask.shape, device=mask.device) >= rate)
    empty = ~torch.cat(list(left.values()), dim=1).any(dim=1, keepdim=True)
    left = {name: steps | (batch.mask[name] & empty) for name, steps in left.items()}
    if "text" in left:
        clock, _ = in_front(batch.times["text"].unsqueeze(-1), batch.mask["text"])
        place = (left["text"].cumsum(dim=1) - 1).clamp(min=0)
        times["text"] = clock.squeeze(-1).gather(1, place)
    return dataclasses.replace(batch, mask=left, times=times)


class Reverse(torch.autograd.Function):
    """The values as they are; of their gradient, the negative."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


class Reader(nn.Module):
    """Transformer layers, learned vectors in front: (B, T, d) -> (B, keep, d), what has become of
    the first of all of these.

    front     how many vectors
    places    T, where the values are not told apart by their times: each place has a vector of its
              own then, which is added
    """

    def __init__(
        self, sizes: Sizes, layers: int, front: int, places: int = 0, keep: int = TOKENS
    ) -> None:
        super().__init__()
        self.keep = keep
        self.front = nn.Parameter(torch.randn(front, sizes.width)) if front else None
        self.places = nn.Parameter(torch.randn(places, sizes.width)) if places else None
        self.layers = nn.ModuleList(transformer_layer(sizes) for _ in range(layers - 1))
        self.last = FusionLayer(sizes)  # what is kept looks at everything: no other place asks

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.places is not None:
            values = values + self.places
        if self.front is not None:
            front = self.front.expand(len(values), -1, -1)
            values = torch.cat([front, values], dim=1)
            if mask is not None:
                mask = torch.cat([mask.new_ones(front.shape[:2]), mask], dim=1)
        for layer in self.layers:
            values = layer(values, src_key_padding_mask=None if mask is None else ~mask)
        return self.last(values[:, : self.keep], values, mask)


def judge(inputs: int, outputs: int) -> nn.Sequential:
    """Two linear layers, the inner one half as wide."""
    narrow = max(1, inputs // 2)
    return nn.Sequential(nn.Linear(inputs, narrow), nn.LeakyReLU(0.1), nn.Linear(narrow, outputs))


class LNLN2024(ALMT2023):
    """ALMT whose text is mended first: by as much as is lost of it, a proxy made from sound and
    face takes its place (LNLN, Zhang et al. 2024).

        h_m = Reader(W_m X_m + time) for sound, face and the text's tokens          (B, 8, d)
        w = sigmoid(judge(Reader(h_t)))          how complete the text is, 0 to 1   (B,)
        p = Reader([h_a; h_v]), its first eight                                     (B, 8, d)
        h_d = w h_t + (1 - w) p                                                     (B, 8, d)
        y = ALMT with h_d as its text                                               (B, K)
    In training all of this reads a masked view of the clips (`lose_steps`), and h'_m is the
    complete one. Beside the squared error, weighted by WEIGHTS:
        completeness     (w - share of the tokens left)^2; 0 is left of a text that is not shown
        adversarial      cross-entropy of judge(h_d or h'_t?), vector by vector; p's gradient of it
                         is reversed, so that p is to be taken for text
        reconstruction   (Reader(h_m) - h'_m)^2, over the modalities that the clip has
    Source: Zhang et al. 2024, equations and public code (Haoyu-ha/LNLN; line by line). Faithful:
    two layers a Reader (`layers`), learned vectors (the proxy has eight that are read and eight
    that are not), both heads, the blend, weights, the four losses, both views through the same
    encoders with gradients through both, half of the clips whole in each modality, which the paper
    does not say; the mean of the eight places behind the first is read, as the code has it.
    Where paper and code differ, `reversal` has both. Code ("proxy", the default): gradients are
    turned round at p itself, so that p, and sound and face through it, learn to make the prediction
    worse, too. Paper, equation 10 ("judge"): only the discriminator's gradient is turned round.
    Changed: steps that are lost are masked, not zeros (in the code padding is zeros, too) and not
    [UNK]; so w has to be guessed from what is left, without places that say that a word was
    there. Its label is the share that is left; the code has 1 - the rate, and keeps a sentence's
    first and last token. Masks are drawn anew in every batch; in the code most of them stay the
    same in all epochs (only the loader's process that gets clip 0 draws again, and the numbers that
    are compared with the rate have one seed). What could be called a handicap: the frozen encoder
    read the whole sentence, so tokens that are left know of those that are lost; the code's BERT
    reads what is left and is tuned. At the demo's learning rate, .002, w goes to 1 for every clip
    and no proxy is heard, in the one run that was looked at. The search on the demo chose a tenth
    of the losses' weights; w then lies between .57 and .62 in all five seeds, whether all words are
    there or none (correlation with the share that is left at most .45): that judge does not judge.
    The code has a learning rate of .0001, for 200 epochs. Its checkpoint is the best on the test
    clips at a rate of .5, one for each score; here it is the best on selection clips, of which
    nothing is masked. Reduced: as `almt2023`; two fusion layers (4 for its larger data). Added: as
    there; what modality dropout leaves out is lost as well. `losses` multiplies the weights.
    """

    name = "lnln2024"
    own = {
        "layers": (2, 1),
        "losses": (1.0, 0.1, 10.0),
        "reversal": ("proxy", "judge"),
    }
    own_beyond = {"layers": {2: 4}, "losses": {0.1: 0.01, 10.0: 100.0}}

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        layers = self.own_sizes["layers"]
        self.condense = nn.ModuleDict({name: Reader(sizes, layers, TOKENS) for name in MODALITIES})
        self.completeness_reader = Reader(sizes, layers, 1, TOKENS, keep=1)
        self.complete = judge(sizes.width, 1)
        # eight vectors that become the proxy, and eight that it may read
        self.proxy = Reader(sizes, layers, 2 * TOKENS, 2 * TOKENS)
        self.discriminate = judge(sizes.width, 2)
        self.rebuild = nn.ModuleDict(
            {name: Reader(sizes, layers, 0, TOKENS) for name in MODALITIES}
        )

    def completeness(self, text: Tensor) -> Tensor:
        """w: how much of the text is there, (B, 8, d) -> (B,), between 0 and 1."""
        return self.complete(self.completeness_reader(text)[:, 0]).squeeze(-1).sigmoid()

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        view = lose_steps(batch) if self.training else batch
        kept = self.modality_dropout(view.present)
        found = self.condensed(view, kept)
        score = self.completeness(found["text"])
        proxy = self.proxy(torch.cat([found["audio"], found["vision"]], dim=1))
        turned = Reverse.apply(proxy)
        stands_in = turned if self.own_sizes["reversal"] == "proxy" else proxy
        text = blend(found["text"], stands_in, score)
        output = Output(
            self.answer(found | {"text": text}),
            kept=kept,
            vectors={"completeness": score.unsqueeze(-1)},
        )
        if self.training:
            judged = blend(found["text"], turned, score)
            losses = self._losses(batch, found, judged) | {
                "completeness": functional.mse_loss(score.float(), left_of(batch, view, kept))
            }
            times = self.own_sizes["losses"]
            output.losses = {name: times * WEIGHTS[name] * losses[name] for name in WEIGHTS}
        return output

    def condensed(self, batch: Batch, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each modality as eight vectors, {modality: (B, 8, d)}."""
        return {
            name: self.condense[name](*sequence(batch, kept[name]))
            for name, sequence in self.sequences.items()
        }

    def _losses(self, batch: Batch, found: dict[str, Tensor], judged: Tensor) -> dict[str, Tensor]:
        """What compares the masked view with the complete one: two scalars."""
        whole = self.condensed(batch, batch.present)
        rebuilt = torch.stack(
            [(self.rebuild[m](found[m]) - whole[m]).float().square().mean((1, 2)) for m in whole]
        )  # (3, B)
        there = torch.stack([batch.present[name] for name in whole])
        said = self.discriminate(torch.cat([judged, whole["text"]])).float()  # (2 B, 8, 2)
        kind = (torch.arange(2 * len(batch), device=said.device) < len(batch)).long()
        doubt = functional.cross_entropy(
            said.transpose(1, 2), kind.unsqueeze(-1).expand(-1, TOKENS), reduction="none"
        )  # (2 B, 8)
        # a clip without text has none that could be told from another's
        spoken = torch.cat([torch.ones_like(batch.present["text"]), batch.present["text"]])
        return {
            "reconstruction": _mean(rebuilt, there),
            "adversarial": _mean(doubt.mean(dim=1), spoken),
        }

    def read(self, places: Tensor) -> Tensor:
        return places[:, 1:].mean(dim=1)


def blend(text: Tensor, proxy: Tensor, score: Tensor) -> Tensor:
    """w h_t + (1 - w) p, for w (B,): (B, 8, d)."""
    score = score[:, None, None]
    return score * text + (1 - score) * proxy


def left_of(batch: Batch, view: Batch, kept: dict[str, Tensor]) -> Tensor:
    """(B,) share of the clips' tokens that the view shows; 0 where it shows no text."""
    if "text" not in batch.mask:
        return torch.zeros(len(batch), device=kept["text"].device)
    shown, there = (
        (given.mask["text"] & whose.unsqueeze(-1)).sum(dim=1)
        for given, whose in ((view, kept["text"]), (batch, batch.present["text"]))
    )
    return shown / there.clamp(min=1)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the entries that count; 0 where none does."""
    return torch.where(where, values, 0).sum() / where.sum().clamp(min=1)

"""MISA: what the modalities share and what each has alone, kept apart by three extra losses
(Hazarika 2020)."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taemi_lib.batches import Batch
from taemi_lib.models.base import Output, Sizes, System, head
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.models.systems.fusion import ModalityVectors
from taemi_lib.profiles import MODALITIES

# For targets between -3 and 3; ours lie between 0 and 1: squared errors are 36 times smaller, so
# are these. The public code's defaults are 1, 0.3 and 1.
WEIGHTS = {"similarity": 0.7 / 36, "difference": 0.3 / 36, "reconstruction": 0.7 / 36}
MOMENTS = 5


def central_moment_discrepancy(x: Tensor, y: Tensor, moments: int = MOMENTS) -> Tensor:
    """CMD of two samples (N, d) and (M, d) with values in [0, 1]: how different their distributions
    are; a scalar, 0 for equal ones.

    Distance of the means plus distances of the central moments from the 2nd to the 5th, each over
    all d columns. In float32: in half precision the small moments, and the guard of the root, are
    zero.
    """
    x, y = x.float(), y.float()
    means = x.mean(dim=0), y.mean(dim=0)
    centred = x - means[0], y - means[1]
    total = _distance(*means)
    for order in range(2, moments + 1):
        total = total + _distance(*(values.pow(order).mean(dim=0) for values in centred))
    return total


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b).square().sum() + 1e-12).sqrt()  # the gradient of a norm at 0 would be NaN


def orthogonality(x: Tensor, y: Tensor) -> Tensor:
    """How much two representations (N, d) of the same clips say the same: mean squared entry of X^T
    Y, a scalar.

    X and Y: columns centred over the clips, then each clip's vector at length 1. 0 when no column
    of one goes with a column of the other.
    """
    x, y = (
        functional.normalize(values - values.mean(dim=0), dim=-1)
        for values in (x.float(), y.float())
    )
    return (x.T @ y).square().mean()


class MISA(System):
    """Shared and private representations, three extra losses, a transformer over the six vectors
    (MISA, Hazarika 2020).

        u_m = norm(ReLU(W_m h_m))               (B, d), h_m from ModalityVectors
        c_m = sigmoid(W_c u_m), one W_c for all modalities                      (B, d)
        p_m = sigmoid(W_m' u_m)                                                 (B, d)
        y = head(Transformer([c_a c_v c_t p_a p_v p_t]))    (B, 6, d) -> (B, 6 d) -> (B, 6)
        similarity       CMD between the c of each pair of modalities
        difference       orthogonality of c_m and p_m, and of the p of each pair of modalities
        reconstruction   mean squared error of W_m''(c_m + p_m) against u_m
    Source: Hazarika et al. 2020 and its public code (declare-lab/MISA). Faithful: the two spaces,
    the three losses (their weights: see WEIGHTS), the transformer over six vectors. Reduced: the
    unimodal networks (see fusion.py; the code: two bidirectional LSTMs each, BERT for the text);
    feed-forward part of the transformer 2 d (2048 there); everybody's head (there 6 d -> 3 d ->
    outputs). The code lets no gradient through the lengths of the difference loss, ours does.
    Modality dropout and tokens as in TAEMI. Each loss reads only clips that have its modalities:
    tokens are the same in every clip and would teach the wrong distribution. Its own sizes:
    `losses` multiplies the three weights, `feedforward` is the inner layer's width in d.
    """

    name = "misa"
    own = {"losses": (1.0, 0.1, 10.0), "feedforward": (2, 8)}
    own_beyond = {"losses": {0.1: 0.01, 10.0: 100.0}, "feedforward": {2: 1, 8: 32}}

    def build(self, sizes: Sizes) -> None:
        d = sizes.width
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.vectors = ModalityVectors(sizes)
        self.project = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.LayerNorm(d))
                for name in MODALITIES
            }
        )
        self.shared = nn.Sequential(nn.Linear(d, d), nn.Sigmoid())
        self.private = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(d, d), nn.Sigmoid()) for name in MODALITIES}
        )
        self.reconstruct = nn.ModuleDict({name: nn.Linear(d, d) for name in MODALITIES})
        self.transformer = nn.TransformerEncoderLayer(
            d,
            sizes.heads,
            self.own_sizes["feedforward"] * d,
            sizes.dropout,
            batch_first=True,
        )
        self.head = head(2 * len(MODALITIES) * d, sizes)

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        vectors, attention = self.vectors(batch, kept)
        projected = {name: self.project[name](vectors[name]) for name in MODALITIES}
        shared = {name: self.shared(projected[name]) for name in MODALITIES}
        private = {name: self.private[name](projected[name]) for name in MODALITIES}
        six = torch.stack([*shared.values(), *private.values()], dim=1)  # (B, 6, d)
        prediction = self.head(self.transformer(six).flatten(1))
        return Output(prediction, attention, kept, self._losses(projected, shared, private, kept))

    def _losses(
        self, projected: dict, shared: dict, private: dict, kept: dict
    ) -> dict[str, Tensor]:
        """The three extra losses, weighted. A term that fewer than two clips can say anything about
        is 0."""
        similarity, difference, reconstruction = [], [], []
        for name in MODALITIES:
            if (rows := kept[name]).sum() < 2:
                continue
            difference.append(orthogonality(shared[name][rows], private[name][rows]))
            again = self.reconstruct[name]((shared[name] + private[name])[rows])
            reconstruction.append(functional.mse_loss(again, projected[name][rows]))
        for one, other in combinations(MODALITIES, 2):
            if (rows := kept[one] & kept[other]).sum() < 2:
                continue
            similarity.append(central_moment_discrepancy(shared[one][rows], shared[other][rows]))
            difference.append(orthogonality(private[one][rows], private[other][rows]))
        none = next(iter(projected.values())).new_zeros(())
        times = self.own_sizes["losses"]
        return {
            "similarity": times * WEIGHTS["similarity"] * sum(similarity, none) / 3,
            "difference": times * WEIGHTS["difference"] * sum(difference, none),
            "reconstruction": times * WEIGHTS["reconstruction"] * sum(reconstruction, none) / 3,
        }

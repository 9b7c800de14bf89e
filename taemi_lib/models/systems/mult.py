"""MulT: every modality looks into every other one, step by step, whatever their rates (Tsai
2019)."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taemi_lib.batches import Batch
from taemi_lib.models.attention import TimeFeatures, check_heads
from taemi_lib.models.base import Output, Sizes, System, head
from taemi_lib.models.missing import MissingToken, ModalityDropout
from taemi_lib.models.temporal import features, last_step
from taemi_lib.profiles import MODALITIES


class CrossModalLayer(nn.Module):
    """A transformer layer whose keys and values come from another sequence: target (B, T, d),
    source (B, S, d) -> (B, T, d).

    x = target + Attention(norm(target), norm(source));  x + MLP(norm(x))
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, target: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """mask (B, S): the real steps of the source, at least one in every row; or (B, 1, T, S):
        those that each step of the target may read, at least one for each."""
        seen = mask if mask.ndim == 4 else mask[:, None, None, :]
        both = self.key_value(self.norm(source)).chunk(2, dim=-1)
        key, value = map(self._split, both)  # each (B, H, S, d / H)
        query = self._split(self.query(self.norm(target)))  # (B, H, T, d / H)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        target = target + self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        return target + self.dropout(self.mlp(target))

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, H e) -> (B, H, T, e)


class ProjectedSequence(nn.Module):
    """Features to model space, + time, with the token as the only step where the modality is not
    kept: (B, T, d), (B, T)."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        super().__init__()
        self.name, self.width = name, getattr(sizes, f"{name}_dim")
        self.input_dropout = nn.Dropout(sizes.input_dropout)
        self.project = nn.Linear(self.width, sizes.width)
        self.time = TimeFeatures(sizes.width) if sizes.time_features else None
        self.token = MissingToken(sizes.width)

    def forward(self, batch: Batch, kept: Tensor) -> tuple[Tensor, Tensor]:
        values, mask, times = features(batch, self.name, self.width)
        values = self.project(self.input_dropout(values))
        if self.time is not None:
            values = values + self.time(times)
        return self.token.in_sequence(values, mask, kept)


class MulT(System):
    """Six directional cross-modal transformers on the sequences, self-attention for each target,
    concatenation (MulT, Tsai 2019).

        X_m: sound, face and the text's tokens in model space, + time             (B, T_m, d)
        X_(s -> m) = CrossModal(X_m looks into X_s) for the six ordered pairs     (B, T_m, d)
        Z_m = SelfAttention([X_(s -> m); X_(s' -> m)]), its last real step        (B, 2 d)
        z = [Z_a; Z_v; Z_t]                                                       (B, 6 d)
        y = head(z + W ReLU(W z))                                                 (B, 6)
    Source: Tsai et al. 2019. Faithful: sequences that are never aligned, all six directions,
    pre-norm layers with feed-forward, a norm that source and target share, last step, residual
    block. Reduced: one layer a direction and one a target instead of four or five and at least
    three (600 clips, a minute a core); feed-forward d wide instead of 4 d; no mask of the future;
    no norm after a direction's only layer (`mult_full` has all of these; `layers`, a size of its
    own, is how many a direction has). Added: tokens and modality dropout as in TAEMI; times in
    seconds instead of positions.
    """

    name = "mult"
    own = {"layers": (1, 2)}
    own_beyond = {"layers": {2: 4}}

    def build(self, sizes: Sizes) -> None:
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.sequences = nn.ModuleDict(
            {name: ProjectedSequence(name, sizes) for name in MODALITIES}
        )
        self.cross = nn.ModuleDict(
            {
                f"{s}_to_{m}{layer}": CrossModalLayer(sizes.width, sizes.heads, sizes.dropout)
                for s, m in permutations(MODALITIES, 2)
                for layer in self._layers
            }
        )
        self.attend = nn.ModuleDict(
            {
                name: CrossModalLayer(2 * sizes.width, sizes.heads, sizes.dropout)
                for name in MODALITIES
            }
        )
        self.norm = nn.ModuleDict({name: nn.LayerNorm(2 * sizes.width) for name in MODALITIES})
        wide = 2 * len(MODALITIES) * sizes.width
        self.residual = nn.Sequential(
            nn.Linear(wide, sizes.mlp_width), nn.ReLU(), nn.Linear(sizes.mlp_width, wide)
        )
        self.head = head(wide, sizes)

    @property
    def _layers(self) -> list[str]:
        """How the names of a direction's layers end."""
        return ["", *(f"_{number}" for number in range(2, self.own_sizes["layers"] + 1))]

    def _look(self, source: str, target: str, sequences: dict) -> Tensor:
        """The target's sequence after all layers of one direction; each reads the same source."""
        values, _ = sequences[target]
        for layer in self._layers:
            values = self.cross[f"{source}_to_{target}{layer}"](values, *sequences[source])
        return values

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        sequences = {name: sequence(batch, kept[name]) for name, sequence in self.sequences.items()}
        parts = []
        for target, (_, mask) in sequences.items():
            seen = [self._look(s, target, sequences) for s in MODALITIES if s != target]
            both = torch.cat(seen, dim=-1)  # (B, T, 2 d)
            # (B, 1, 2 d): only this step's output is read, so only it asks
            last = last_step(both, mask).unsqueeze(1)
            parts.append(self.norm[target](self.attend[target](last, both, mask)).squeeze(1))
        z = torch.cat(parts, dim=-1)  # (B, 6 d)
        return Output(self.head(z + self.residual(z)), kept=kept)

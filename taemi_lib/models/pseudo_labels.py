"""Labels that a system makes for single modalities while it trains (Self-MM, Yu 2021).

A clip has one label, but its face alone may say something else. How near a modality's
representation lies to clips with high and with low labels, compared with the fused representation,
gives a label for that modality. It is kept for each training clip from epoch to epoch, beside the
weights (`System.observe`, `System.training_state`); prediction needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.base import Output, Sizes, System
from taemi_lib.profiles import MODALITIES

# Sources' labels lie between -3 and 3. Distances of representations are added to labels, and tanh
# is taken of their differences: both are done in those units.
SPAN = 6.0
FUSED = "fused"
SPACES = (FUSED, *MODALITIES)  # the four representations of a clip


class PseudoLabels:
    """A label of each modality for each training clip, and what they are made of.

    For output k and representation f (one of SPACES), of all training clips as last seen:
        c+ = mean of f over the clips whose label is above its zero, c- over those below     (d,)
        delta = (|f - c-| - |f - c+|) / |f - c+|
        u = ((delta_m / delta_fused) y + (y + delta_m - delta_fused)) / 2, clipped
        label_m <- (n - 1) / (n + 1) label_m + 2 / (n + 1) u     in a clip's n-th epoch, from n = 2
    y is the clip's label minus the zero, times SPAN; in the first epoch all labels are y. The zero
    is each output's mean over the training clips: the sources' is their scale's neutral point,
    which lies near the mean of their labels, and intensities have none. A modality's classes
    follow its own labels, those of `fused` the given ones; a clip exactly at zero is in neither.
    What is left out or not labelled changes nothing, and an output without clips in both classes
    keeps its labels.

    outputs   K
    width     d, of all four representations
    """

    def __init__(self, outputs: int, width: int) -> None:
        self.outputs, self.width = outputs, width
        self._rows: dict[str, int] = {}  # clip id -> row
        self._seen = torch.zeros(0)  # epochs in which a clip was shown
        self._given = torch.zeros(0, outputs)  # the clips' labels
        self._known = torch.zeros(0, outputs, dtype=torch.bool)
        self._labels = {name: torch.zeros(0, outputs) for name in MODALITIES}
        self._vectors = {name: torch.zeros(0, width) for name in SPACES}
        self._there = {name: torch.zeros(0, dtype=torch.bool) for name in SPACES}

    def labels(self, batch: Batch, name: str) -> Tensor:
        """The labels of a modality (B, K), between 0 and 1: the given ones for a clip that is not
        known yet. What stands where a label is missing is to be masked."""
        assert batch.labels is not None
        given = batch.labels.float()
        rows = self._find(batch)
        if not self._rows:
            return given
        kept = self._labels[name].to(given.device)[rows.clamp(min=0)]
        return torch.where(rows.unsqueeze(-1) >= 0, kept, given)

    @torch.no_grad()
    def observe(self, output: Output, batch: Batch) -> None:
        """Make the labels of these clips anew from Output.vectors (four of (B, d)), then keep these
        vectors. A batch has each clip once."""
        assert batch.labels is not None
        vectors = {name: output.vectors[name].detach().float() for name in SPACES}
        self._add_new(batch, vectors[FUSED].device)
        rows = self._find(batch)
        everyone = torch.ones_like(rows, dtype=torch.bool)
        there = {FUSED: everyone} | {name: output.kept[name] for name in MODALITIES}
        self._seen[rows] += 1
        self._update(rows, vectors, there)
        for name in SPACES:
            shown = rows[there[name]]
            self._vectors[name][shown] = vectors[name][there[name]]
            self._there[name][shown] = True

    def _update(self, rows: Tensor, vectors: dict[str, Tensor], there: dict[str, Tensor]) -> None:
        """The momentum step of every clip that was shown in an earlier epoch, too."""
        n = self._seen[rows].unsqueeze(-1)  # (B, 1)
        zero = self._zero()
        y = SPAN * (self._given[rows] - zero)  # (B, K)
        fused = self._nearness(FUSED, vectors[FUSED], zero)
        for name in MODALITIES:
            own = self._nearness(name, vectors[name], zero)
            made = (own / (fused + 1e-8) * y + y + own - fused) / 2
            made = (zero + made / SPAN).clamp(0, 1)
            old = self._labels[name][rows]
            new = (n - 1) / (n + 1) * old + 2 / (n + 1) * made
            usable = (n > 1) & there[name].unsqueeze(-1) & self._known[rows] & new.isfinite()
            self._labels[name][rows] = torch.where(usable, new, old)

    def _zero(self) -> Tensor:
        """(K,) mean of the known labels of each output."""
        count = self._known.sum(dim=0).clamp(min=1)
        return torch.where(self._known, self._given, 0).sum(dim=0) / count

    def _nearness(self, name: str, vectors: Tensor, zero: Tensor) -> Tensor:
        """delta of these vectors: (B, d) -> (B, K). NaN where a class has no clip."""
        labels = self._given if name == FUSED else self._labels[name]
        counts = self._known & self._there[name].unsqueeze(-1)  # (N, K)
        distances = []
        for members in (counts & (labels > zero), counts & (labels < zero)):
            weights = members.float() / members.sum(dim=0)  # 0 / 0: NaN
            centre = weights.T @ self._vectors[name]  # (K, N) x (N, d) -> (K, d)
            distances.append((vectors.unsqueeze(1) - centre).norm(dim=-1))
        high, low = distances
        return (low - high) / (high + 1e-8)

    def _find(self, batch: Batch) -> Tensor:
        """(B,) rows of the batch's clips, -1 for those that are not known yet."""
        assert batch.clip_id is not None and batch.labels is not None
        found = [self._rows.get(clip_id, -1) for clip_id in batch.clip_id]
        return torch.tensor(found).to(batch.labels.device)

    def _add_new(self, batch: Batch, device: torch.device) -> None:
        assert batch.clip_id is not None and batch.labels is not None
        new = [row for row, clip_id in enumerate(batch.clip_id) if clip_id not in self._rows]
        if not new:
            return
        self._rows |= {batch.clip_id[row]: len(self._rows) + i for i, row in enumerate(new)}
        given = batch.labels[new].float()
        known = batch.labelled[new]
        given = torch.where(known, given, 0)

        def longer(old: Tensor, more: Tensor) -> Tensor:
            return torch.cat([old.to(device), more])

        self._seen = longer(self._seen, given.new_zeros(len(new)))
        self._given, self._known = longer(self._given, given), longer(self._known, known)
        for name in MODALITIES:
            self._labels[name] = longer(self._labels[name], given)
        for name in SPACES:
            nothing = given.new_zeros(len(new), self.width)
            self._vectors[name] = longer(self._vectors[name], nothing)
            self._there[name] = longer(self._there[name], known.new_zeros(len(new)))

    # --- beside the weights

    def state(self) -> dict[str, Any]:
        """Everything that is kept: names of clips and tensors, for `load`. Empty before the first
        batch."""
        if not self._rows:
            return {}
        return {
            "clip_ids": list(self._rows),
            "seen": self._seen,
            "given": self._given,
            "known": self._known,
            "labels": dict(self._labels),
            "vectors": dict(self._vectors),
            "there": dict(self._there),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Put a `state` back. Raises ValueError when it is none, or one of other sizes."""
        names = state.get("clip_ids")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("no labels of single modalities are kept there")
        count, wide, single = len(names), (self.outputs,), (self.width,)
        if len(set(names)) < count:
            raise ValueError("a clip has two rows")
        self._seen = _checked(state, "seen", torch.float32, (count,))
        self._given = _checked(state, "given", torch.float32, (count, *wide))
        self._known = _checked(state, "known", torch.bool, (count, *wide))
        kept = {part: state.get(part) for part in ("labels", "vectors", "there")}
        for part, content in kept.items():
            if not isinstance(content, dict):
                raise ValueError(f"{part} is missing")
        for name in MODALITIES:
            shape = count, *wide
            self._labels[name] = _checked(kept["labels"], name, torch.float32, shape)
        for name in SPACES:
            shape = count, *single
            self._vectors[name] = _checked(kept["vectors"], name, torch.float32, shape)
            self._there[name] = _checked(kept["there"], name, torch.bool, (count,))
        self._rows = {name: row for row, name in enumerate(names)}


def _checked(state: Any, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    found = state.get(name)
    if not isinstance(found, Tensor) or found.dtype != dtype or found.shape != shape:
        said = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else found
        raise ValueError(f"{name} is {said}; expected {shape} of {dtype}")
    return found


class Tower(nn.Module):
    """What the sources put on each of the four vectors: (B, inputs) -> representation (B, d),
    prediction (B, K).

    f = ReLU(W1 Dropout(x));  y = W3 ReLU(W2 f)
    """

    def __init__(self, inputs: int, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.mlp_width
        self.represent = nn.Sequential(
            nn.Dropout(sizes.dropout), nn.Linear(inputs, width), nn.ReLU()
        )
        self.predict = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, sizes.outputs)
        )

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        represented = self.represent(values)
        return represented, self.predict(represented)


class SelfSupervised(System):
    """A fused prediction and one of each modality, which learns labels of its own.

    loss = |y - p| + sum over m of w_m |label_m - p_m|, w_m = tanh(SPAN |label_m - y|)
    each a mean over clips and outputs, over the clips that have m and the labels that are known: a
    modality is taught by its own label the more, the more that differs from the clip's.

    `forward` returns the four representations as Output.vectors and p_m as Output.parts.
    """

    def build(self, sizes: Sizes) -> None:
        # no module and no buffer: nothing of it is in a checkpoint
        self.pseudo_labels = PseudoLabels(sizes.outputs, sizes.mlp_width)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        assert batch.labels is not None
        given, known = batch.labels.float(), batch.labelled
        total = _mean((output.prediction.float() - given).abs(), known)
        for name in MODALITIES:
            own = self.pseudo_labels.labels(batch, name)
            error = (output.parts[name].float() - own).abs()
            weight = (SPAN * (own - given).abs()).tanh()
            total = total + _mean(weight * error, known & output.kept[name].unsqueeze(-1))
        return total

    def observe(self, output: Output, batch: Batch) -> None:
        self.pseudo_labels.observe(output, batch)

    def training_state(self) -> dict[str, Any]:
        return self.pseudo_labels.state()

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.pseudo_labels.load(state)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the entries that count; 0 where none does."""
    return torch.where(where, values, 0).sum() / where.sum().clamp(min=1)

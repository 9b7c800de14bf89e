"""Hallmen et al.: recurrent readers of the features, of the sound alone (2024) and of all three
modalities (2025)."""

from __future__ import annotations

import torch
from torch import nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import masked_mean
from taemi_lib.models.base import Output, Sizes, System, TextVector
from taemi_lib.models.temporal import LSTM, Features, last_step


class Hallmen2024(System):
    """Sound alone: two LSTM layers, the last real step joined with the features' mean, tanh layer
    (Hallmen et al. 2024).

        h_1..h_T = LSTM(A), as wide as A
        f = [h_T; mean_t A_t]                                   (B, 2054), 2054 = 2 * 1027
        y = W2 tanh(W1 f), W1 to 2054                           (B, 6)
    Source: [3] in the paper, Table 2, and its public code (Skyy93/CVPR2024_abaw, branch blackimgs).
    Faithful: two layers at the features' own width, last step with the mean of the features, a
    tanh layer as wide as f, MSE, as in the code. Its own sizes are there because a reader of the
    paper may take the mean over what the LSTM made of the features (`average`), and because the
    demo's features are narrow (`hidden` and `lstm`, times their width). Reduced: the wav2vec 2.0
    model stays frozen, the code trains it. Added: a token where a clip has no sound, the profile's
    dropout on the features, between the layers and before the output; the code has none of the
    three.
    """

    name = "hallmen2024"
    own = {"average": ("features", "outputs"), "hidden": (2, 1), "lstm": (1, 2)}
    own_beyond = {"hidden": {2: 4}, "lstm": {2: 4}}

    def build(self, sizes: Sizes) -> None:
        width = sizes.audio_dim
        steps = self.own_sizes["lstm"] * width
        averaged = steps if self.own_sizes["average"] == "outputs" else width
        hidden = self.own_sizes["hidden"] * width
        self.features = Features("audio", sizes)
        self.lstm = LSTM(width, steps, layers=2, dropout=sizes.dropout)
        self.head = nn.Sequential(
            nn.Linear(steps + averaged, hidden),
            nn.Tanh(),
            nn.Dropout(sizes.dropout),
            nn.Linear(hidden, sizes.outputs),
        )

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        values, mask, _ = self.features(batch)
        steps, mask = self.lstm(values, mask)  # (B, T, width of the LSTM)
        averaged = steps if self.own_sizes["average"] == "outputs" else values
        joined = torch.cat([last_step(steps, mask), masked_mean(averaged, mask)], dim=-1)
        return Output(self.head(joined), kept={"audio": batch.present["audio"]})


class Hallmen2025(System):
    """Text vector, LSTM over the face, LSTM over the sound, last real steps, concatenated, tanh
    layer (Hallmen et al. 2025).

    Source: the winner of ABAW-8 ("Semantic Matters"), missing from the paper's Table 2.
        f = [t; LSTM(V)_last; LSTM(A)_last]                     (B, 2563), 768 + 768 + 1027
        y = W2 tanh(W1 f), W1 to 1027                           (B, 6)
    Faithful: the parts and their widths (each LSTM as wide as its features, the tanh layer as the
    sound's). Reduced: the encoders stay frozen. Added: tokens where a modality is absent, and the
    profile's dropout on the features and before the output. Its own sizes `hidden` and `lstm`
    multiply these widths, which are small where the demo's features are. Its public code was not
    read: the branch that holds it was not within our reach.
    """

    name = "hallmen2025"
    own = {"hidden": (1, 2), "lstm": (1, 2)}
    own_beyond = {"hidden": {2: 4}, "lstm": {2: 4}}

    def build(self, sizes: Sizes) -> None:
        widths = {"vision": sizes.vision_dim, "audio": sizes.audio_dim}
        self.text = TextVector(sizes)
        self.features = nn.ModuleDict({name: Features(name, sizes) for name in widths})
        times, hidden = self.own_sizes["lstm"], self.own_sizes["hidden"] * sizes.audio_dim
        self.lstms = nn.ModuleDict(
            {name: LSTM(width, times * width) for name, width in widths.items()}
        )
        self.head = nn.Sequential(
            nn.Linear(sizes.text_dim + times * sum(widths.values()), hidden),
            nn.Tanh(),
            nn.Dropout(sizes.dropout),
            nn.Linear(hidden, sizes.outputs),
        )

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        parts = [self.text(batch, batch.present["text"])]
        for name, lstm in self.lstms.items():
            values, mask, _ = self.features[name](batch)
            parts.append(last_step(*lstm(values, mask)))
        return Output(self.head(torch.cat(parts, dim=-1)), kept=dict(batch.present))

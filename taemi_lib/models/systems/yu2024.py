"""Yu et al. 2024: a temporal convolutional network, then a transformer, for face and sound each;
the two predictions are averaged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import masked_mean
from taemi_lib.models.base import Output, Sizes, System, head
from taemi_lib.models.temporal import CausalConvolutions, Features, TemporalTransformer


class Regressor(nn.Module):
    """One modality to six intensities: TCN -> transformer encoder -> masked mean -> head. (B, T, D)
    -> (B, 6)."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        super().__init__()
        self.features = Features(name, sizes)
        self.convolutions = CausalConvolutions(
            getattr(sizes, f"{name}_dim"), sizes.width, sizes.dropout
        )
        self.transformer = TemporalTransformer(sizes.width, sizes)
        self.head = head(sizes.width, sizes)

    def forward(self, batch: Batch) -> Tensor:
        values, mask, times = self.features(batch)
        return self.head(
            masked_mean(self.transformer(self.convolutions(values, mask), mask, times), mask)
        )


class Yu2024(System):
    """Late fusion of face and sound: TCN, transformer and regressor each, mean of the two
    predictions (Yu et al. 2024).

    Source: [33] in the paper, Table 2. Faithful: the order of the parts, no text, the plain mean.
    Open in our facts: depths and widths (two TCN blocks, one transformer layer of the profile's
    width), pooling (masked mean), the loss (MSE of the mean). Reduced: the encoders stay frozen.
    Added: where one of the two is absent the other one's prediction stands alone; where both are,
    tokens speak.
    """

    name = "yu2024"

    def build(self, sizes: Sizes) -> None:
        self.regressors = nn.ModuleDict(
            {name: Regressor(name, sizes) for name in ("vision", "audio")}
        )

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        parts = {name: regressor(batch) for name, regressor in self.regressors.items()}
        kept = {name: batch.present[name] for name in parts}
        present = torch.stack(list(kept.values()), dim=1)  # (B, 2)
        counts = present | ~present.any(dim=1, keepdim=True)  # neither is there: both tokens
        both = torch.stack(list(parts.values()), dim=1)  # (B, 2, 6)
        return Output(masked_mean(both, counts), kept=kept, parts=parts)

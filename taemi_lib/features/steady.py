"""An encoder must give the same answer twice.

A model that draws random numbers when it is used (a masked autoencoder; dropout that is never
switched off) would give features that no second run can repeat, and nothing would say so.
"""

from __future__ import annotations

import torch

from taemi_lib.errors import EncoderError

# of the largest value: below what a GPU's order of summation changes, far below any random choice
_ROUNDING = 1e-4


def check_steady(first: torch.Tensor, second: torch.Tensor, source: str, role: str) -> None:
    """Compare two encodings of one input, made when an encoder is loaded. Raises EncoderError when
    they differ or are not numbers."""
    setting = f"encoders.{role} = {source!r}"
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise EncoderError(
            f"{setting}: the model gives values that are not finite numbers; its weights are "
            "damaged: get them again, or use another model"
        )
    largest = first.abs().max().item()
    if first.shape != second.shape or (first - second).abs().max().item() > _ROUNDING * largest:
        raise EncoderError(
            f"{setting}: the model answers randomly, two encodings of the same input differ. "
            "Use a model (or settings of its processor) without random choices when it is used"
        )

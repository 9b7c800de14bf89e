"""Frames -> sequence: one vector of a vision model per frame (docs/paper.md, "vision"), its CLS
token or the mean of its patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel

from taemi_lib.data.media import Frames
from taemi_lib.errors import EncoderError
from taemi_lib.features.loading import HERE_ONLY, check_complete, loading
from taemi_lib.features.pixels import SETTINGS, TRIALS, Preprocessing, noise
from taemi_lib.features.sequences import Sequence
from taemi_lib.features.sources import Source, locate
from taemi_lib.features.steady import check_steady

# frames per forward pass: bounds the memory, and is the same whatever the number of processes
_AT_ONCE = 32
# parameters that are tokens before those of the patches: CLS, and what may follow it
_CLS = ("cls_token", "class_embedding")
_MORE = ("distillation_token", "register_tokens")
# parts that no feature comes from: weights without them are complete
_UNUSED = ("pooler.", "mask_token")


class VisionEncoder:
    """One clip's frames to a sequence.

    source: folder or hub id of a vision model that transformers has (ViT, DeiT, BEiT, DINO, MAE,
    Swin, ConvNeXt, the picture half of CLIP and SigLIP ...) with its preprocessor_config.json.
    pooling of the last hidden state: "cls" or "mean" over patches. Raises EncoderError when the
    model is not there, when it cannot do what its settings or the pooling ask, and when it answers
    the same frames differently; ValueError for another pooling.
    """

    def __init__(self, source: str, device: str = "cpu", pooling: str = "cls"):
        if pooling not in ("cls", "mean"):
            raise ValueError(f"vision pooling is {pooling!r}, expected 'cls' or 'mean'")
        self.device, self.pooling = torch.device(device), pooling
        place = locate(source, "vision")
        self.identity = place.identity
        with loading(source, "vision", place):
            self.model: Any = _load(place, source).to(self.device).eval()
            try:
                self._first, self._has_cls = _before_patches(self.model)
                self._prepare = Preprocessing(place, self.device)
                tried = self._try_out()
            except (EncoderError, ImportError, AttributeError) as error:
                raise EncoderError(f"vision encoder {source!r}: {error}") from error
            for first, second in tried:
                check_steady(first, second, source, "vision")
            self.dim = tried[0][0].shape[1]

    @torch.inference_mode()
    def encode(self, frames: Frames) -> Sequence:
        """images (T, H, W, 3) uint8 -> values (T, D) float32, at the frames' own times."""
        pooled = [
            self._pool(self._hidden(self._prepare(frames.images[start : start + _AT_ONCE])))
            for start in range(0, len(frames.images), _AT_ONCE)
        ]
        return Sequence(torch.cat(pooled).cpu().numpy(), frames.times)

    def _hidden(self, pixels: torch.Tensor) -> Any:
        """(t, 3, h, w) -> (t, tokens, D), or (t, D, rows, columns) of a convolutional network; None
        of a model that has no such thing."""
        output = self.model(pixel_values=pixels, **_own_order(self.model, len(pixels)))
        return getattr(output, "last_hidden_state", None)

    def _pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """-> (t, D)"""
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self.pooling == "cls" else hidden[:, self._first :].mean(dim=1)

    @torch.inference_mode()
    def _try_out(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Run over frames of odd sizes, so that what fails is said now and not at some clip. Gives
        what comes out (t, D), twice for the same frames."""
        tried = []
        for size in TRIALS:
            pixels = self._prepare(noise(2, size))
            try:
                hidden, repeated = self._hidden(pixels), self._hidden(pixels)
            except (ValueError, RuntimeError, TypeError, IndexError) as error:
                raise EncoderError(
                    f"its {SETTINGS} makes pixel values {tuple(pixels.shape)} of two frames of "
                    f"{size[0]} x {size[1]}, which its model does not take ({error}); frames come "
                    "in any size, so do_resize, size and do_center_crop have to lead to the model's"
                ) from error
            self._check(pixels, hidden)
            tried.append((self._pool(hidden), self._pool(repeated)))
        return tried

    def _check(self, pixels: torch.Tensor, hidden: Any) -> None:
        """That the tokens are those that pooling takes them for."""
        name, axes = type(self.model).__name__, getattr(hidden, "ndim", 0)
        if axes not in (3, 4):
            raise EncoderError(f"a {name} gives no hidden states of pictures")
        if self.pooling == "cls" and not (axes == 3 and self._has_cls):
            raise EncoderError(
                f"a {name} has no CLS token; use the mean of its patches: "
                "--set encoders.vision_pooling=mean"
            )
        if axes == 3 and hidden.shape[1] - self._first not in _grids(self.model.config, pixels):
            raise EncoderError(
                f"a {name} gives {hidden.shape[1]} tokens for {pixels.shape[2]} x "
                f"{pixels.shape[3]} pixels; which of them are patches is not known here"
            )


def _load(place: Source, source: str) -> nn.Module:
    config = AutoConfig.from_pretrained(place.where, **HERE_ONLY)
    # a model of pictures and texts: its picture half
    config = getattr(config, "vision_config", config)
    if type(config) not in MODEL_MAPPING:
        raise EncoderError(
            f"vision encoder {source!r}: transformers loads no {config.model_type} by itself"
        )
    if hasattr(config, "mask_ratio"):  # masked autoencoders mask at random in evaluation mode, too
        config.mask_ratio = 0.0
    model, info = AutoModel.from_pretrained(
        place.where, config=config, dtype=torch.float32, output_loading_info=True, **HERE_ONLY
    )
    check_complete(info, source, "vision", optional=_UNUSED)
    return model


def _before_patches(model: nn.Module) -> tuple[int, bool]:
    """(tokens that come before those of the patches, whether the first is a CLS token)"""
    found = {name.rpartition(".")[2]: value for name, value in model.named_parameters()}
    counts = {
        name: found[name].shape[-2] if found[name].ndim > 1 else 1
        for name in (*_CLS, *_MORE)
        if name in found
    }
    return sum(counts.values()), any(name in counts for name in _CLS)


def _grids(config: Any, pixels: torch.Tensor) -> set[int]:
    """How many patches pictures (t, 3, h, w) can have: some networks halve their grid from stage to
    stage, and round up or down."""
    patch = getattr(config, "patch_size", 1)
    steps = patch if isinstance(patch, (list, tuple)) else (patch, patch)
    height, width = pixels.shape[2:]
    found = set()
    for halvings in range(8):
        down, across = (step * 2**halvings for step in steps[-2:])
        found |= {(height // down) * (width // across), -(-height // down) * -(-width // across)}
    return found


def _own_order(model: Any, count: int) -> dict[str, torch.Tensor]:
    """ViTMAE also shuffles its patches, by `noise`: with rising numbers they stay as they are."""
    if getattr(model.config, "model_type", "") != "vit_mae":
        return {}
    patches = model.embeddings.patch_embeddings.num_patches
    return {"noise": torch.arange(patches, device=model.device).expand(count, -1)}

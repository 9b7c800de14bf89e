"""Frames -> sequence: one ViT vector per frame (docs/paper.md, "vision"), its CLS token or the mean
of its patches."""

from __future__ import annotations

import json

import torch
from torch.nn import functional
from transformers import AutoModel
from transformers.utils import cached_file

from taemi_lib.data.media import Frames
from taemi_lib.features.loading import check_complete, loading
from taemi_lib.features.sequences import Sequence
from taemi_lib.features.sources import locate

# frames per forward pass: bounds the memory, and is the same whatever the number of processes
_AT_ONCE = 32
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as preprocessor_config.json gives them


class VisionEncoder:
    """One clip's frames to a sequence.

    source: folder or hub id of a ViT-like model with its preprocessor_config.json. pooling: "cls"
    or "mean". Raises EncoderError when the model is not there, ValueError for another pooling.
    """

    def __init__(self, source: str, device: str = "cpu", pooling: str = "cls"):
        if pooling not in ("cls", "mean"):
            raise ValueError(f"vision pooling is {pooling!r}, expected 'cls' or 'mean'")
        self.device, self.pooling = torch.device(device), pooling
        place = locate(source, "vision")
        with loading(source, "vision"):
            self.model, info = AutoModel.from_pretrained(
                place.where, revision=place.revision, dtype=torch.float32, output_loading_info=True
            )
            check_complete(info, source, "vision", optional=("pooler.",))  # the pooler is not used
            path = cached_file(place.where, "preprocessor_config.json", revision=place.revision)
            with open(path, encoding="utf-8") as file:
                self._read_preprocessing(json.load(file))
        self.model.to(self.device).eval()
        self.dim = self.model.config.hidden_size
        self.identity = place.identity

    def _read_preprocessing(self, settings: dict) -> None:
        size = settings["size"]
        size = {"height": size, "width": size} if isinstance(size, int) else size
        if not {"height", "width"} <= size.keys():
            raise ValueError(
                f"its preprocessor_config.json has size {size}, expected height and width"
            )
        self.size = (size["height"], size["width"])
        self.mode = _RESAMPLE.get(settings.get("resample", 2), "bilinear")
        per_channel = {
            name: torch.tensor(settings[name]).view(1, 3, 1, 1)
            for name in ("image_mean", "image_std")
        }
        self.mean, self.std = (
            per_channel["image_mean"].to(self.device),
            per_channel["image_std"].to(self.device),
        )
        self.scale = settings.get("rescale_factor", 1 / 255)

    @torch.inference_mode()
    def encode(self, frames: Frames) -> Sequence:
        """images (T, H, W, 3) uint8 -> values (T, D) float32, at the frames' own times."""
        pooled = []
        for start in range(0, len(frames.images), _AT_ONCE):
            images = torch.from_numpy(frames.images[start : start + _AT_ONCE]).to(self.device)
            hidden = self.model(self._prepare(images)).last_hidden_state  # (t, 1 + patches, D)
            pooled.append(hidden[:, 0] if self.pooling == "cls" else hidden[:, 1:].mean(dim=1))
        return Sequence(torch.cat(pooled).cpu().numpy(), frames.times)

    def _prepare(self, images: torch.Tensor) -> torch.Tensor:
        """(t, H, W, 3) uint8 -> (t, 3, height, width), as the model's own image processor does."""
        pixels = images.permute(0, 3, 1, 2).float()  # (t, 3, H, W)
        if pixels.shape[-2:] != self.size:
            pixels = (
                functional.interpolate(pixels, self.size, mode=self.mode, antialias=True)
                .round()
                .clamp(0, 255)
            )
        return (pixels * self.scale - self.mean) / self.std

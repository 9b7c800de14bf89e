"""Frames -> pixel values, as a vision model's preprocessor_config.json asks.

transformers' own image processors do it, on numpy and PIL: they know the settings of each model.
What they would pass over in silence is refused when loading, naming the setting.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor

from taemi_lib.errors import EncoderError
from taemi_lib.features.loading import HERE_ONLY
from taemi_lib.features.sources import Source

SETTINGS = "preprocessor_config.json"
# (height, width) of pictures that settings are tried on: lying, standing, smaller than any model's
TRIALS = ((97, 131), (131, 97), (13, 11))
_LARGEST = 4096  # pixels a side: before memory is taken for what a file asks
_BILINEAR = 2  # PIL's number
_GREY_LEVELS = 1.05  # PIL rounds after each axis, torch once: one grey level and the arithmetic


class Preprocessing:
    """What turns pictures (t, H, W, 3) uint8 into a model's pixel values (t, 3, h, w) float32.

    Raises EncoderError naming the setting that is not honoured, and what transformers raises for
    settings that it refuses itself.
    """

    def __init__(self, place: Source, device: torch.device):
        self.device = device
        self.processor = AutoImageProcessor.from_pretrained(
            place.where,
            config=AutoConfig.from_pretrained(place.where, **HERE_ONLY),  # for names of old files
            backend="pil",  # torchvision is not everywhere, and rounds otherwise
            **HERE_ONLY,
        )
        raw, _ = self.processor.get_image_processor_dict(place.where, local_files_only=True)
        self._refuse_what_is_passed_over(raw)
        for size in TRIALS:
            self._check(size)
        self._quick = self._quick_way()

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        """(t, H, W, 3) uint8 -> (t, 3, h, w) float32 on the device."""
        return self._quick(images) if self._quick else self.exact(images)

    def exact(self, images: np.ndarray) -> torch.Tensor:
        """As __call__, always by the processor itself."""
        found = self._processed(images)["pixel_values"]
        return torch.from_numpy(np.ascontiguousarray(found, np.float32)).to(self.device)

    def _processed(self, images: np.ndarray):
        # told where the channels are: of a picture three pixels high it would guess wrong
        return self.processor(list(images), return_tensors="np", input_data_format="channels_last")

    def _refuse_what_is_passed_over(self, raw: dict) -> None:
        name, known = self._name(), self.processor.valid_kwargs.__annotations__
        asked = raw.get("image_processor_type") or raw.get("feature_extractor_type") or name
        if asked.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor") != name:
            raise EncoderError(
                f"its {SETTINGS} has image_processor_type = {asked!r}, for which transformers "
                f"offers {name} only"
            )
        for key, value in raw.items():
            if key.startswith("do_") and value and key not in known:
                raise EncoderError(
                    f"its {SETTINGS} has {key} = {value!r}, which {name} of transformers ignores"
                )
        for key in ("size", "crop_size", "pad_size"):
            asked = dict(getattr(self.processor, key, None) or {})
            if any(pixels and pixels > _LARGEST for pixels in asked.values()):
                raise EncoderError(f"its {SETTINGS} has {key} = {asked}, more than {_LARGEST}")
        if not (raw.get("resample") is None or raw["resample"] in range(6)):
            raise EncoderError(
                f"its {SETTINGS} has resample = {raw['resample']!r}, expected a number of PIL: "
                "0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming"
            )

    def _check(self, size: tuple[int, int]) -> None:
        try:
            found = self._processed(noise(2, size))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            given = {key: value for key, value in self.processor.to_dict().items() if "size" in key}
            raise EncoderError(
                f"{self._name()} cannot follow its {SETTINGS} ({given}): {error}"
            ) from error
        shapes = {key: np.shape(value) for key, value in found.items()}
        if [*shapes] != ["pixel_values"] or len(shapes["pixel_values"]) != 4:
            raise EncoderError(
                f"{self._name()} of its {SETTINGS} makes {shapes} of two frames, expected "
                "pixel_values of (2, 3, height, width) alone"
            )

    def _name(self) -> str:
        return type(self.processor).__name__.removesuffix("Pil")

    def _quick_way(self) -> Callable[[np.ndarray], torch.Tensor] | None:
        """The same in torch, which rounds once where PIL does after each axis (as transformers with
        torchvision does, too): stored features were made this way, and stay as they are. Where the
        processor does more than resizing to one size, rescaling and normalising, the pictures
        differ by more than a grey level: None, found by trying, not by reading its settings."""
        about = self.processor
        size, plain = about.size, about.image_mean and about.image_std
        if not (plain and size.height and size.width and about.resample == _BILINEAR):
            return None
        target, scale = (size.height, size.width), about.rescale_factor
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)
            for values in (about.image_mean, about.image_std)
        )

        def quick(images: np.ndarray) -> torch.Tensor:
            pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()
            if pixels.shape[-2:] != target:
                resized = functional.interpolate(pixels, target, mode="bilinear", antialias=True)
                pixels = resized.round().clamp(0, 255)
            return (pixels * scale - mean) / std

        close = _GREY_LEVELS * scale / std.abs().min()
        for shape in (*TRIALS, target):
            ours, theirs = quick(noise(2, shape)), self.exact(noise(2, shape))
            if ours.shape != theirs.shape or (ours - theirs).abs().max() > close:
                return None
        return quick


def noise(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Pictures (count, *size, 3) uint8 to try an encoder on."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)

"""Noise in the picture, before any encoder sees it: Frames in, new Frames out, of the same size and
with the same times or fewer of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from taemi_lib.data.media import Frames
from taemi_lib.data.noise.strengths import checked, in_lost_pieces

_GREY = 128  # of the box that hides
_STILL = (0.2, 0.6)  # s that the picture stands still at a time, at least
# photons that make a pixel white in full light; a phone's sensor collects some thousands
_PHOTONS = 2000.0
_GAMMA = 2.2  # pixel values are light to the power of 1 / 2.2, nearly


def occlusion(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """A grey box (as in Zeiler and Fergus, 2014) of the picture's proportions that stays where it
    is; strength: its share of the area. The box is always wholly in the picture, and within the box
    of a larger share."""
    share = checked("occlusion", strength)
    images = frames.images.copy()
    (top, bottom), (left, right) = (
        # from the drawn place the box grows to both sides, until it fills the picture
        (round(place * (1 - share**0.5) * side), round((place + (1 - place) * share**0.5) * side))
        for place, side in zip(rng.random(2), images.shape[1:3])
    )
    images[:, top:bottom, left:right] = _GREY
    return replace(frames, images=images)


def blur(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Out of focus: Gaussian blur (ImageNet-C's gaussian_blur, Hendrycks and Dietterich, 2019);
    strength: the standard deviation as a share of the picture's smaller side. Nothing is drawn."""
    sigma = checked("blur", strength) * min(frames.images.shape[1:3])
    if sigma == 0:
        return replace(frames, images=frames.images.copy())
    return _each(
        frames,
        lambda image: cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE),
    )


def low_light(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """A dark room: less light, and the noise of the few photons that are left (ImageNet-C's
    shot_noise, but in proportion to the light and not to pixel values); strength: stops of light
    lost, 0 to 12, each of which halves it.

    Nothing brightens the picture again, as a camera does not beyond its longest exposure. 0 stops
    give the clip back: what noise the full light has is in it already.
    """
    stops = checked("low_light", strength, 0, 12, "stops")
    if stops == 0:
        return replace(frames, images=frames.images.copy())
    # of each pixel value: the photons that are expected
    expected = (np.arange(256) / 255) ** _GAMMA * _PHOTONS * 2.0**-stops

    def taken(image: np.ndarray) -> np.ndarray:
        light = rng.poisson(expected[image]) / _PHOTONS
        return (255 * light ** (1 / _GAMMA)).round().clip(0, 255).astype(np.uint8)

    return _each(frames, taken)


def frozen(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """The picture stands still now and then, as in a video call, while time goes on; strength: the
    share of the time, in pieces of .2 to .6 s that may follow each other, met as nearly as they
    allow. In a piece every frame shows the last picture before it; the first frame shows its own.
    Frames that show another picture do so at a larger share, too."""
    share = checked("frozen", strength)
    times = frames.times - frames.times[0]
    still = in_lost_pieces(times, float(times[-1]), share, *_STILL, rng)
    own = np.arange(len(frames.times))
    return replace(frames, images=frames.images[np.maximum.accumulate(np.where(still, 0, own))])


def dropped(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Frames lost, with their times; strength: the share of the frames, rounded to whole ones. At
    least one stays. What is lost at a smaller share is lost at a larger one, too."""
    share, count = checked("dropped", strength), len(frames.times)
    lost = rng.permutation(count)[: min(round(share * count), count - 1)]
    kept = np.setdiff1d(np.arange(count), lost)
    return replace(frames, images=frames.images[kept], times=frames.times[kept])


def recompression(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Each frame saved as JPEG and read again (ImageNet-C's jpeg_compression); strength: JPEG's
    quality, 100 to 1, lower is worse; fractions are rounded.

    Not H.264: x264's choices depend on the state of memory with pictures as small as the
    generator's, and a noisy clip must be the same every time. Nothing is drawn; no quality gives
    the clip back bit for bit.
    """
    quality = round(checked("recompression", strength, 1, 100, "a quality"))

    def saved(image: np.ndarray) -> Any:
        colours = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)

    return _each(frames, saved)


def _each(frames: Frames, change: Callable[[np.ndarray], Any]) -> Frames:
    """Every image (H, W, 3) changed by itself, one at a time: a long clip fills memory as it is."""
    images = np.empty_like(frames.images)
    for index, image in enumerate(frames.images):
        images[index] = change(image)
    return replace(frames, images=images)

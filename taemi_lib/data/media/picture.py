"""The picture of a file: RGB frames as a player shows them, with their times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from taemi_lib.data.media.container import LONGEST, Decoder, Unreadable, choose, opened

LONGEST_SIDE = 512  # pixels; encoders see 224 at most, and 400 frames of full HD would take 2.5 GB
LARGEST = 150_000_000  # pixels of a frame; the decoder holds several of them, of 225 MB each
_SAME = 1e-4  # s by which a frame's time may differ from that of its packet
_PIXEL_SHAPES = (Fraction(1, 4), Fraction(4))  # width : height; what lies outside is no camera's
_ROUNDED = 1e-3  # s by which a time that was kept as float32 may lie beside the frame's


@dataclass(frozen=True)
class Frames:
    """Pictures: images (T, H, W, 3) uint8 RGB, times (T,) float32 in s; `damage` and `note` as in
    Audio."""

    images: np.ndarray
    times: np.ndarray
    damage: str = ""
    note: str = ""


def read_frames(
    path: str | Path, maximum: int = 400, choice: str | Sequence[float] = "first"
) -> Frames:
    """At most `maximum` frames: the "first" ones, or "uniform" over the time of the clip; or, for
    times in s, the frame that stands at each or comes next. Times are the frames' own, in s.

    Frames are turned and mirrored as the file says, their pixels made square, and what is larger
    than LONGEST_SIDE is scaled down as it comes. Raises Unreadable, and ValueError for another
    choice.
    """
    if isinstance(choice, str) and choice not in ("first", "uniform"):
        raise ValueError(f"frame choice is {choice!r}, expected 'first' or 'uniform'")
    targets = _evenly(path, maximum) if choice == "uniform" else None
    if not isinstance(choice, str):  # a little earlier, for times that were rounded on the way
        targets = sorted(time - _ROUNDED for time in choice)
    images: list[np.ndarray] = []
    times: list[float] = []
    misplaced = 0
    with opened(path) as container:
        stream, note = choose(container, "video")
        wide, high = stream.codec_context.width, stream.codec_context.height
        if wide * high > LARGEST:
            raise Unreadable(f"pictures of {wide} x {high} pixels: too large")
        decoder = Decoder(container, stream)
        wanted = _Wanted(maximum, targets)
        for frame in decoder:
            time = decoder.time(frame)
            if not _may_follow(times, time):
                misplaced += 1
                continue
            if not wanted.takes(time):
                if wanted.done:
                    break
                continue
            # all frames in the size of the first, even if the stream changes it midway
            if not images:
                size, strange = _size(frame, stream.sample_aspect_ratio)
                matrix, askew = _matrix(frame)
                note = "; ".join(filter(None, [note, strange, askew]))
            # one thread, as in the decoder: to start more takes longer than the work
            scaled = frame.reformat(*size, format="rgb24", interpolation="AREA", threads=1)
            images.append(_as_shown(scaled.to_ndarray(), matrix))
            times.append(max(time, 0.0))
        damage = decoder.damage(wanted.done)
    if misplaced:
        left_out = f"{misplaced} frames with impossible times are left out"
        damage = "; ".join(filter(None, [damage, left_out]))
    if not images:
        raise Unreadable(damage or "no frames in the video track")
    return Frames(np.stack(images), np.asarray(times, np.float32), damage, note)


def _may_follow(times: list[float], time: float) -> bool:
    """Whether a frame at `time` s can be shown after those at `times`: the file starts at 0, as its
    sound does, and also as float32 a later frame has a later time."""
    if not times:
        return time >= -_SAME
    return bool(np.float32(times[-1]) < np.float32(time)) and time < times[-1] + LONGEST


class _Wanted:
    """Which frames are kept, asked one after the other: the first ones, or those at `targets` s."""

    def __init__(self, maximum: int, targets: list[float] | None):
        self._left, self._targets = maximum, targets
        self.done = False  # no frame after this one is wanted

    def takes(self, time: float) -> bool:
        if self._targets is None:
            self.done = self._left <= 0
            self._left -= 1
            return not self.done
        self.done = not self._targets
        if self.done or time < self._targets[0] - _SAME:
            return False
        while self._targets and self._targets[0] <= time + _SAME:
            self._targets.pop(0)
        return True


def _evenly(path: str | Path, maximum: int) -> list[float]:
    """Times, in s, of frames evenly spread over the time of the clip; reading the packets' time
    stamps is quick, as nothing is decoded."""
    with opened(path) as container:
        stream, _ = choose(container, "video")
        decoder = Decoder(container, stream)
        times = np.array(sorted(_stamps(container, stream, decoder)))
        if times.size:
            decoder.check_start(times[0])
            times += decoder.early
    # what another clock has stamped is left out when it is decoded, too
    if (jumps := np.flatnonzero(np.diff(times) >= LONGEST)).size:
        times = times[: jumps[0] + 1]
    times = times[times >= -_SAME]
    if len(times) <= maximum:
        return times.tolist()
    goals = np.linspace(times[0], times[-1], maximum)
    right = np.searchsorted(times, goals).clip(1, len(times) - 1)
    left = goals - times[right - 1] <= times[right] - goals
    # two goals may share a frame where frames are rare: it is taken once
    return np.unique(times[right - left]).tolist()


def _stamps(container, stream, decoder: Decoder) -> Iterator[float]:
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                yield decoder.time(packet)
                decoder.end = decoder.time(packet) + decoder.frame_seconds
    except av.FFmpegError:
        return  # decoding comes to the same damage, and says so


def _size(frame: av.VideoFrame, pixel: Fraction | None) -> tuple[tuple[int, int], str]:
    """(width, height) of the frame with square pixels, the longer side at most LONGEST_SIDE; and a
    note if its pixels have a shape that cannot be."""
    width, height, note = float(frame.width), float(frame.height), ""
    if pixel and not _PIXEL_SHAPES[0] <= pixel <= _PIXEL_SHAPES[1]:
        note = f"pixels of the shape {pixel.numerator}:{pixel.denominator} are taken for square"
    elif pixel:
        width *= float(pixel)
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    return (max(1, round(width * scale)), max(1, round(height * scale))), note


def _matrix(frame: av.VideoFrame) -> tuple[tuple[int, int, int, int], str]:
    """(a, b, c, d) of the file's display matrix: a pixel at (x, y) is shown at (a x + c y,
    b x + d y); and a note if that is not by quarters of a turn."""
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return (1, 0, 0, 1), ""
    a, b, _, c, d, *_ = np.frombuffer(bytes(found), np.int32).tolist()
    turn = float(np.degrees(np.arctan2(b, a)))
    askew = abs(turn - 90 * round(turn / 90)) > 1
    return (a, b, c, d), f"turned by {turn:.0f} degrees: shown by the nearest quarter" * askew


def _as_shown(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W, 3) turned and mirrored, by the nearest of the eight ways in which this keeps the
    pixels' grid."""
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):  # rows become columns
        picture, across, down = picture.swapaxes(0, 1), c, b
    else:
        across, down = a, d
    picture = picture[::-1] if down < 0 else picture
    return np.ascontiguousarray(picture[:, ::-1] if across < 0 else picture)

"""Decoding with PyAV: a file becomes 16 kHz mono sound and RGB frames with their times, on one
clock.

What cannot be decoded raises `Unreadable` with a short reason, which the extraction writes into its
report: a modality that is absent is never zeros and never noise. Of a damaged file the part before
the damage is kept; `damage` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 16_000  # Hz, what wav2vec2 and Whisper were trained on
SILENCE = 2e-4  # peak amplitude, about 7 steps of 16-bit sound: below it there is nothing to hear
LONGEST_SIDE = 512  # pixels; encoders see 224 at most, and 400 frames of full HD would take 2.5 GB
# s, how much earlier than its header says a stream may end before it counts as truncated
_LATE = 0.25
_CUT = "a packet is cut off"
# containers whose header knows the true duration (others estimate it)
_EXACT_HEADERS = ("mov,", "wav")


class Unreadable(Exception):
    """A modality that a file does not give; `reason` is short and goes into the report."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Audio:
    """Mono sound: samples (N,) float32 at 16 kHz, duration in s; `damage` is "" for a sound file;
    `note` says what was chosen where a file left a choice ("" where it left none)."""

    samples: np.ndarray
    duration: float
    damage: str = ""
    note: str = ""


@dataclass(frozen=True)
class Frames:
    """Pictures: images (T, H, W, 3) uint8 RGB, times (T,) float32 in s; `damage` and `note` as in
    Audio."""

    images: np.ndarray
    times: np.ndarray
    damage: str = ""
    note: str = ""


def read_audio(path: str | Path, seconds: float | None = None) -> Audio:
    """The first `seconds` of the sound (all of it by default), channels averaged, resampled to 16
    kHz.

    Sample 0 is the start of the file, also where the sound sets in later. Raises Unreadable.
    """
    limit = None if seconds is None else round(seconds * SAMPLE_RATE)
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    chunks: list[np.ndarray] = []
    count, ended_early = 0, False
    with _opened(path) as container:
        stream = _only(container.streams.audio, "no audio track")
        decoder = _Decoder(container, stream)
        for frame in decoder:
            if not chunks and (late := round(decoder.time(frame) * SAMPLE_RATE)) > 0:
                chunks.append(np.zeros(late, np.float32))
                count += late
            for part in resampler.resample(frame):
                chunks.append(part.to_ndarray().reshape(-1))
                count += chunks[-1].size
            if limit is not None and count >= limit:
                ended_early = True
                break
        if not ended_early and chunks:
            chunks += [part.to_ndarray().reshape(-1) for part in resampler.resample(None)]
        damage = decoder.damage(ended_early)
    if not chunks:
        raise Unreadable(damage or "no sound in the audio track")
    samples = np.ascontiguousarray(np.concatenate(chunks)[:limit], np.float32)
    if is_silent(samples):
        raise Unreadable("silent audio")
    return Audio(samples, samples.size / SAMPLE_RATE, damage)


def read_frames(path: str | Path, maximum: int = 400, choice: str = "first") -> Frames:
    """At most `maximum` frames: the "first" ones, or "uniform" over the clip. Times are the frames'
    own, in s.

    Frames larger than LONGEST_SIDE are scaled down as they come, and turned as the camera was held.
    Raises Unreadable, and ValueError for another choice.
    """
    if choice not in ("first", "uniform"):
        raise ValueError(f"frame choice is {choice!r}, expected 'first' or 'uniform'")
    wanted = _uniform(path, maximum) if choice == "uniform" else set(range(maximum))
    images: list[np.ndarray] = []
    times: list[float] = []
    ended_early = False
    with _opened(path) as container:
        decoder = _Decoder(container, _picture(container))
        for index, frame in enumerate(decoder):
            if index > max(wanted):
                ended_early = True
                break
            if index not in wanted:
                continue
            # all frames in the size of the first, even if the stream changes it midway
            if not images:
                size, quarter_turns = _size(frame), round(frame.rotation / 90)  # counterclockwise
            picture = frame.reformat(*size, format="rgb24", interpolation="AREA").to_ndarray()
            images.append(np.rot90(picture, quarter_turns))
            times.append(decoder.time(frame))
        damage = decoder.damage(ended_early)
    if not images:
        raise Unreadable(damage or "no frames in the video track")
    return Frames(np.stack(images), np.asarray(times, np.float32), damage)


def is_silent(samples: np.ndarray) -> bool:
    """Whether there is nothing to hear in samples (N,) in [-1, 1]."""
    return samples.size == 0 or float(np.abs(samples).max()) < SILENCE


class _Decoder:
    """The frames of one stream, up to its end or to the first damage after something was
    decoded."""

    def __init__(self, container, stream):
        self.container, self.stream = container, stream
        self.trouble = ""
        self.end = 0.0  # s, end of what was decoded
        # both streams are timed from the file's start
        self._start = (container.start_time or 0) / av.time_base
        # One thread: the clips are what is run in parallel.
        stream.codec_context.thread_count = 1

    def __iter__(self) -> Iterator:
        packets = self.container.demux(self.stream)
        decoded = False
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                if packet.is_corrupt:  # the file ends in the middle of it
                    self.trouble = _CUT
                    # what the decoder still holds back
                    frames = self.stream.codec_context.decode(None)
                else:
                    frames = packet.decode()
            except av.FFmpegError as error:
                self.trouble = error.strerror or type(error).__name__
                if decoded:
                    return
                continue  # some files begin with rubbish and are sound after it
            for frame in frames:
                if frame.is_corrupt:
                    self.trouble = "a frame is corrupt"
                    return
                decoded = True
                length = (
                    frame.samples / frame.sample_rate
                    if self.stream.type == "audio"
                    else 1 / float(self.stream.average_rate or 25)
                )
                self.end = max(self.end, self.time(frame) + length)
                yield frame
            if packet.is_corrupt:
                return

    def time(self, frame) -> float:
        """Seconds from the start of the file; a frame without a time stamp follows the one before
        it."""
        if frame.pts is None:
            return self.end
        # frames that the decoder had held back come without one
        clock = frame.time_base or self.stream.time_base
        return frame.pts * clock.numerator / clock.denominator - self._start

    def damage(self, ended_early: bool) -> str:
        """What is wrong with the stream, "" if nothing. Known once it was read to its end."""
        if ended_early:
            return ""
        declared = None
        if self.stream.duration and self.container.format.name.startswith(_EXACT_HEADERS):
            first = (self.stream.start_time or 0) + self.stream.duration
            declared = float(first * self.stream.time_base) - self._start
        if declared is not None and declared - self.end > _LATE:
            return f"truncated: {self.end:.1f} of {declared:.1f} s decode"
        if self.trouble == _CUT:
            return f"truncated: decodes up to {self.end:.1f} s"
        return f"damaged: decodes up to {self.end:.1f} s ({self.trouble})" if self.trouble else ""


@contextmanager
def _opened(path: str | Path):
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    if not head:
        raise Unreadable("empty file")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        is_mp4 = head[4:8] == b"ftyp"
        raise Unreadable(
            "truncated: the file's index is missing" if is_mp4 else "not a media file"
        ) from error
    with container:
        # FFmpeg renders a .txt as the screen of a terminal, and cannot say what is in a file of
        # unknown content.
        if container.format.name == "tty" or not (
            container.streams.audio or container.streams.video
        ):
            raise Unreadable("not a media file")
        yield container


def _only(streams, otherwise: str):
    if not streams:
        raise Unreadable(otherwise)
    return streams[0]


def _picture(container):
    moving = [
        s
        for s in container.streams.video
        if av.stream.Disposition.attached_pic not in s.disposition
    ]
    return _only(moving, "no video track")  # the cover of a music file is no video


def _uniform(path: str | Path, maximum: int) -> set[int]:
    """Indices of frames evenly spread over the clip; counting packets is quick, as nothing is
    decoded."""
    with _opened(path) as container:
        stream = _picture(container)
        try:
            count = sum(packet.size > 0 for packet in container.demux(stream))
        except av.FFmpegError as error:
            raise Unreadable(f"damaged: {error.strerror}") from error
    return set(
        np.linspace(0, max(count - 1, 0), min(maximum, max(count, 1))).round().astype(int).tolist()
    )


def _size(frame) -> tuple[int, int]:
    """(width, height) with the longer side at most LONGEST_SIDE."""
    scale = min(1.0, LONGEST_SIDE / max(frame.width, frame.height))
    return max(1, round(frame.width * scale)), max(1, round(frame.height * scale))

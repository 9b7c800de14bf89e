"""Damaged media files by the thousand: whatever is in a file, reading it gives right values or a
reason.

    python benchmarks/soak.py [--files 1200] [--seed 7] [--processes 1] [--keep FOLDER]

Makes a good file of every container, damages them in every way of KINDS, and reads each result
with `read_audio` and `read_frames` (both choices) in a process with limits. A value has to hold
(see `wrong_sound`, `wrong_frames`), a reason has to be a short line. All else is a failure: an
exception, a lost process, one that is still at it after SECONDS or wants more than GIGABYTES.
--keep copies the files that failed. The exit code is 1 if there was a failure.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import multiprocessing
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from pebble import ProcessExpired, ProcessPool

from taemi_lib.data.media import (
    LONGEST_SIDE,
    SAMPLE_RATE,
    Audio,
    Frames,
    Unreadable,
    read_audio,
    read_frames,
)
from taemi_lib.support import workers

try:
    import resource
except ImportError:  # Windows does not say what a process has held
    resource = None  # type: ignore[assignment]

SECONDS = 120.0  # for all readings of one file; the longest takes 10 on a free core
GIGABYTES = 2.5  # of one process; an hour of sound is 0.23, 400 pictures of 512 x 512 are 0.31
HOUR = 3600.0
LONG = 3_700  # s, of the files that last longer than what is read
LOUDEST = 1.001  # peak of sound that was not stored as floating-point numbers
REASON = 200  # characters
READINGS: dict[str, Callable[[Path], Any]] = {
    "sound": read_audio,
    "first frames": read_frames,
    "frames over the clip": lambda path: read_frames(path, 40, "uniform"),
}

# --- writing good files


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(N, C) float32: a gliding tone under noise, so that codecs have something to do."""
    at = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(at.size)
    sound = 0.3 * np.sin(2 * np.pi * (220 * at + 40 * at**2)) + 0.02 * noise
    return np.repeat(sound[:, None].astype(np.float32), channels, axis=1)


def film(seconds: float = 2.0, side: int = 48) -> np.ndarray:
    """(T, side, side + 16, 3) uint8, 10 pictures a second: stripes that move."""
    at = np.arange(round(10 * seconds))[:, None, None, None]
    across, down = np.arange(side + 16)[:, None], np.arange(side)[:, None, None]
    stripes = 5 * (across + 2 * down) + 8 * at + np.array([0, 60, 120])
    return (stripes % 256).astype(np.uint8)


@dataclass(frozen=True)
class Sound:
    """A sound track: samples (N, C) in [-1, 1]."""

    codec: str
    samples: np.ndarray
    rate: int
    layout: str = ""


def write(path: Path, pictures: tuple[str, np.ndarray] | None, sound: Sound | None) -> None:
    """A media file; pictures: (codec, images (T, H, W, 3) at 10 a second)."""
    # without "bitexact" some containers would get random numbers, and no failure would come again
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video = audio = None
        if pictures is not None:
            codec, images = pictures
            video = container.add_stream(codec, rate=10, options={"g": "5", "strict": "-2"})
            video.height, video.width = images.shape[1:3]
            kept = {"png": "rgb24", "mjpeg": "yuvj420p"}
            video.pix_fmt = kept.get(codec, "yuv420p")
            video.codec_context.thread_count = 1
        if sound is not None:
            layout = sound.layout or {1: "mono", 2: "stereo"}[sound.samples.shape[1]]
            audio = container.add_stream(
                sound.codec, rate=sound.rate, layout=layout, options={"strict": "-2"}
            )
        container.start_encoding()  # writes a header also where nothing follows
        if video is not None:
            for number, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            for at in range(0, len(sound.samples), 4096):
                part = np.ascontiguousarray(sound.samples[at : at + 4096]).reshape(1, -1)
                heard = av.AudioFrame.from_ndarray(part, format="flt", layout=layout)
                heard.sample_rate, heard.pts = sound.rate, at
                heard.time_base = Fraction(1, sound.rate)
                container.mux(audio.encode(heard))
            if len(sound.samples):  # the Vorbis encoder never ends what it never began
                container.mux(audio.encode(None))


GOOD: dict[str, tuple[str | None, str, int, int]] = {  # picture codec, sound codec, rate, channels
    "mp4": ("libx264", "aac", 44_100, 2),
    "mkv": ("libx264", "ac3", 48_000, 2),
    "webm": ("libvpx", "libopus", 48_000, 1),
    "mov": ("mpeg4", "pcm_s16le", 16_000, 1),
    "avi": ("mpeg4", "libmp3lame", 22_050, 1),
    "wav": (None, "pcm_s16le", 16_000, 1),
    "mp3": (None, "libmp3lame", 44_100, 2),
    "ogg": (None, "vorbis", 32_000, 2),
    "flac": (None, "flac", 48_000, 1),
}
_good: dict[str, bytes] = {}


def good(kind: str) -> bytes:
    """The good file of a container."""
    if kind not in _good:
        picture, codec, rate, channels = GOOD[kind]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"good.{kind}"
            write(
                path,
                None if picture is None else (picture, film()),
                Sound(codec, tone(2, rate, channels), rate),
            )
            _good[kind] = path.read_bytes()
    return _good[kind]


# --- damaging them. Each way yields (name of the file, what writes it); where chance decides, there
# is no end of them

Case = tuple[str, Callable[[Path], Any]]


def holding(data: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data)


def cut(chance: random.Random) -> Iterator[Case]:
    for share in range(0, 100, 5):
        for kind in GOOD:
            data = good(kind)
            yield f"cut at {share}%.{kind}", holding(data[: len(data) * share // 100])


def flipped(chance: random.Random) -> Iterator[Case]:
    for number in itertools.count():
        for kind in GOOD:
            data = bytearray(good(kind))
            count = chance.choice([1, 3, 10, 100, 1000])
            within = chance.choice([min(600, len(data)), len(data)])  # most headers stand in front
            for _ in range(count):
                data[chance.randrange(within)] ^= 1 << chance.randrange(8)
            yield f"{count} bits of {within} bytes {number}.{kind}", holding(bytes(data))


def zeroed(chance: random.Random) -> Iterator[Case]:
    for number in itertools.count():
        for kind in GOOD:
            data = bytearray(good(kind))
            for _ in range(chance.randint(1, 5)):
                length = chance.choice([16, 512, 4096, len(data) // 4])
                at = chance.randrange(len(data))
                data[at : at + length] = bytes(len(data[at : at + length]))
            yield f"blocks {number}.{kind}", holding(bytes(data))


def renamed(chance: random.Random) -> Iterator[Case]:
    for inside in GOOD:
        for outside in GOOD:
            if inside != outside:
                yield f"{inside} called.{outside}", holding(good(inside))
    others = {
        "text": "It was a dark and stormy night.\n" * 200,
        "subtitles": "1\n00:00:00,000 --> 00:00:02,000\nso glad\n\n",
        "page": "<!DOCTYPE html><html><body>Not found</body></html>",
        "playlist": "#EXTM3U\n#EXTINF:10,\nother.mp4\n",
        "list": "ffconcat version 1.0\nfile 'other.mp4'\n",
        "picture": "P6\n2 2\n255\n" + "a" * 12,
    }
    for name, text in others.items():
        for kind in ("mp4", "wav", "txt", "m3u8"):
            yield f"{name} called.{kind}", holding(text.encode())
    for kind in GOOD:
        yield f"chance called.{kind}", holding(chance.randbytes(20_000))


def glued(chance: random.Random) -> Iterator[Case]:
    for first in GOOD:
        yield f"{first} and rubbish.{first}", holding(good(first) + chance.randbytes(5000))
        yield f"rubbish and {first}.{first}", holding(chance.randbytes(5000) + good(first))
        for second in GOOD:
            yield f"{first} and {second}.{first}", holding(good(first) + good(second))


# where numbers stand in headers: (what is before them, how far from its first byte, bytes)
_BOXES = [
    *[(name, at, 4) for name in (b"mvhd", b"mdhd") for at in (-4, 16, 20)],
    *[(b"tkhd", at, 4) for at in (24, 44, 48, 56, 60, 80, 84)],
    *[(b"stts", at, 4) for at in (-4, 8, 12, 16)],
    *[(b"ctts", at, 4) for at in (8, 12, 16)],
    *[(b"stsz", at, 4) for at in (8, 12, 16)],
    *[(b"stsc", at, 4) for at in (8, 12, 16, 20)],
    *[(b"stco", at, 4) for at in (8, 12)],
    *[(b"elst", at, 4) for at in (8, 12, 16, 20)],
    *[(name, at, 4) for name in (b"stsd", b"moov", b"trak", b"mdat", b"ftyp") for at in (-4, 8)],
    *[(name, at, 2) for name in (b"avc1", b"mp4v") for at in (28, 30)],
    *[(name, at, 2) for name in (b"mp4a", b"sowt") for at in (20, 22, 28, 30)],
]
_MATROSKA = [
    (b"\x2a\xd7\xb1", 4, 3),  # units of time
    (b"\x44\x89", 3, 8),  # duration
    (b"\xb0", 2, 1),  # width
    (b"\xba", 2, 1),  # height
    (b"\xb5", 2, 8),  # sample rate
    (b"\x9f", 2, 1),  # channels
    (b"\x23\xe3\x83", 4, 4),  # length of a frame
    (b"\xe7", 2, 1),  # time of a cluster
    (b"\xa3", 4, 2),  # time of a block
    (b"\x18\x53\x80\x67", 4, 8),
    (b"\x1f\x43\xb6\x75", 4, 4),
    (b"\x55\xb0", 2, 1),
]
_WAVE = [(b"RIFF", 4, 4), (b"data", 4, 4)] + [
    (b"fmt ", at, width) for at, width in ((8, 2), (10, 2), (12, 4), (16, 4), (20, 2), (22, 2))
]
NUMBERS = {
    "mp4": _BOXES,
    "mov": _BOXES,
    "mkv": _MATROSKA,
    "webm": _MATROSKA,
    "avi": [
        *[(b"avih", at, 4) for at in (8, 12, 24, 32, 40, 44)],
        *[(b"strh", at, 4) for at in (28, 32, 36, 40, 52)],
        *[(b"strf", at, 4) for at in (4, 8, 12, 16)],
        *[(b"strf", at, 2) for at in (10, 20, 22)],
        *[(b"idx1", at, 4) for at in (4, 16, 20, 24)],
        *[(b"LIST", 4, 4), (b"RIFF", 4, 4), (b"00dc", 4, 4), (b"01wb", 4, 4)],
    ],
    "wav": _WAVE,
    "mp3": [
        *[(b"\xff\xfb", at, 1) for at in (1, 2, 3)],
        *[(b"Xing", at, 4) for at in (4, 8, 12)],
        *[(b"Info", at, 4) for at in (4, 8, 12)],
        *[(b"Lavc", at, 3) for at in (9, 21)],
        (b"ID3", 6, 4),
    ],
    "ogg": [
        (b"OggS", 6, 8),
        *[(b"OggS", at, 4) for at in (14, 18)],
        (b"OggS", 26, 1),
        (b"OggS", 5, 1),
        *[(b"\x01vorbis", at, 4) for at in (7, 12, 16, 20, 24)],
        *[(b"\x01vorbis", at, 1) for at in (11, 28)],
    ],
    "flac": [(b"fLaC", at, 2) for at in (8, 10)]
    + [(b"fLaC", at, 3) for at in (5, 12, 15, 18)]
    + [(b"fLaC", 21, 5)],
}
LITTLE = ("avi", "wav", "ogg")  # the lowest byte of a number stands first


def headers(chance: random.Random) -> Iterator[Case]:
    for number in itertools.count():
        for kind, places in NUMBERS.items():
            data = bytearray(good(kind))
            for _ in range(chance.choice([1, 1, 2])):
                marker, after, width = chance.choice([one for one in places if one[0] in data])
                found = [at for at in range(len(data)) if data.startswith(marker, at)]
                at = chance.choice(found[:8]) + after
                most = 256**width - 1
                edges = [0, 1, 2, 7, most, most // 2, most // 2 + 1, most // 255]
                value = chance.choice([*edges, chance.randint(0, most)])
                order = "little" if kind in LITTLE else "big"
                data[max(at, 0) : at + width] = value.to_bytes(width, order)
            yield f"header {number}.{kind}", holding(bytes(data))


def few_frames(chance: random.Random) -> Iterator[Case]:
    for kind, (picture, codec, rate, channels) in GOOD.items():
        for frames in (0, 1) if picture else (None,):
            for count in (0, 1, 1000, None):
                if frames is None and count is None:
                    continue
                name = f"{frames} frames and {count} samples.{kind}"
                images = None if picture is None else (picture, film()[:frames])
                sound = None
                if count is not None:
                    sound = Sound(codec, tone(1, rate, channels)[:count], rate)
                yield name, lambda path, images=images, sound=sound: write(path, images, sound)


def hours(chance: random.Random) -> Iterator[Case]:
    rate, seconds = 8_000, LONG

    def waves(path: Path, heard: float | None) -> None:
        """A second of sound at `heard` s, else silence: a file with holes, which takes no place."""
        size = 2 * rate * seconds
        head = struct.pack(
            "<4sI8sIHHIIHH", b"RIFF", size + 36, b"WAVEfmt ", 16, 1, 1, rate, 2 * rate, 2, 16
        )
        with path.open("wb") as file:
            file.write(head + struct.pack("<4sI", b"data", size))
            if heard is not None:
                file.seek(round(2 * rate * heard), 1)
                file.write((tone(1, rate) * 32_767).astype("<i2").tobytes())
            file.truncate(44 + size)

    for heard in (None, 0.0, min(HOUR, seconds) - 0.5, seconds - 2):
        yield f"silence but at {heard} s.wav", lambda path, heard=heard: waves(path, heard)
    silence = np.zeros((rate * seconds, 1), np.float32)
    for kind, codec in (
        ("flac", "flac"),
        ("mkv", "pcm_u8"),
        ("mov", "pcm_s16le"),
        ("au", "pcm_mulaw"),
    ):
        yield (
            f"an hour of {codec}.{kind}",
            lambda path, codec=codec: write(path, None, Sound(codec, silence, rate)),
        )
    yield (
        "an hour beside two seconds of film.mkv",
        lambda path: write(path, ("mpeg4", film()), Sound("pcm_u8", silence, rate)),
    )


def huge(chance: random.Random) -> Iterator[Case]:
    shapes = [(10_000, 16), (16, 10_000), (1, 10_000), (10_000, 10_000), (10_000, 1)]
    for height, width in shapes:
        for codec, kind in (
            ("mjpeg", "avi"),
            ("png", "mov"),
            ("mjpeg", "mkv"),
            ("rawvideo", "avi"),
        ):
            if height * width > 10**6 and codec != "mjpeg":
                continue  # takes a core for a minute to write

            def paint(path: Path, shape=(height, width), codec=codec) -> None:
                images = np.full((1 if min(shape) > 1000 else 2, *shape, 3), 90, np.uint8)
                images[:, shape[0] // 2 :] = 200
                write(path, (codec, images), Sound("pcm_s16le", tone(0.2, 16_000), 16_000))

            yield f"{height} x {width} {codec}.{kind}", paint


def rates(chance: random.Random) -> Iterator[Case]:
    """Sample rates as no recorder has them."""
    pure = [1, 100, 999, 1_000, 7_351, 11_111, 15_999, 16_001, 47_999, 384_000, 999_999, 1_000_001]
    for rate in pure:
        for kind, codec in (("wav", "pcm_s16le"), ("wav", "pcm_f32le"), ("mkv", "pcm_s16le")):
            yield (
                f"{rate} Hz {codec}.{kind}",
                lambda path, codec=codec, rate=rate: write(
                    path, None, Sound(codec, tone(max(0.5, 2 / rate), rate), rate)
                ),
            )
    for rate in (1_000, 7_351, 11_111, 96_001, 192_000):
        yield (
            f"{rate} Hz flac.flac",
            lambda path, rate=rate: write(path, None, Sound("flac", tone(0.5, rate), rate)),
        )
    for rate in (7_350, 11_025, 12_000, 64_000, 88_200, 96_000):
        yield (
            f"{rate} Hz aac.mp4",
            lambda path, rate=rate: write(path, None, Sound("aac", tone(0.5, rate), rate)),
        )


def channels(chance: random.Random) -> Iterator[Case]:
    """More channels than two, loud in one, in all and against each other."""
    formats = [
        ("wav", "pcm_s16le"),
        ("wav", "pcm_f32le"),
        ("mkv", "ac3"),
        ("mp4", "aac"),
        ("flac", "flac"),
        ("mkv", "libopus"),
    ]
    for kind, codec in formats:
        for layout, count in (("5.1", 6), ("7.1", 8), ("quad", 4)):
            if codec == "ac3" and count == 8:
                continue  # has six at most
            for name in ("all", "one", "against"):
                samples = 3 * tone(0.5, 48_000, count)
                if name == "one":
                    samples[:, 1:] = 0
                elif name == "against":
                    samples[:, ::2] *= -1
                sound = Sound(codec, samples, 48_000, layout)
                yield (
                    f"{layout} {name} {codec}.{kind}",
                    lambda path, sound=sound: write(path, None, sound),
                )


def loud(chance: random.Random) -> Iterator[Case]:
    """Sound at and beyond full scale, and samples that are no numbers."""
    for rate in (16_000, 22_050, 44_100, 48_000):
        square = np.sign(tone(1, rate))
        for codec in ("pcm_s16le", "pcm_u8", "pcm_s32le", "pcm_f32le"):
            yield (
                f"square {rate} Hz {codec}.wav",
                lambda path, codec=codec, rate=rate, square=square: write(
                    path, None, Sound(codec, square, rate)
                ),
            )
        for value in (np.nan, np.inf, -np.inf, 1e30, 99.0):
            samples = tone(1, rate)
            samples[:: 1 + chance.randrange(500)] = value
            yield (
                f"{value} {rate} Hz.wav",
                lambda path, rate=rate, samples=samples: write(
                    path, None, Sound("pcm_f32le", samples, rate)
                ),
            )


KINDS: dict[str, Callable[[random.Random], Iterator[Case]]] = {
    "truncated": cut,
    "bits flipped": flipped,
    "blocks of zeros": zeroed,
    "wrong container": renamed,
    "glued together": glued,
    "absurd headers": headers,
    "no or one frame": few_frames,
    "an hour": hours,
    "huge pictures": huge,
    "odd sample rates": rates,
    "many channels": channels,
    "too loud": loud,
}
ENDLESS = ("bits flipped", "blocks of zeros", "absurd headers")


def damaged(files: int, seed: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """(kind, file): of every kind equally many, while there are any. A file is made when it is
    asked for."""
    ways: dict[str, Iterator[Case]] = {}
    for kind, way in KINDS.items():
        chance = random.Random(f"{seed} {kind}")
        ways[kind] = way(chance)
        if kind not in ENDLESS:  # a few of them are to be a fair sample
            cases = list(ways[kind])
            ways[kind] = iter(chance.sample(cases, len(cases)))
    made = 0
    while ways:
        for kind in list(ways):
            case = next(ways[kind], None)
            if case is None:
                del ways[kind]
                continue
            if made == files:
                return
            made += 1
            # of its own folder: the name belongs to what is tried
            path = folder / str(made) / case[0]
            path.parent.mkdir()
            case[1](path)
            yield kind, path


# --- what is right


def wrong_sound(audio: Audio, floating: bool) -> str:
    """What is wrong with sound that was read, "" if nothing; floating: the file's samples may be
    beyond full scale."""
    samples = audio.samples
    if samples.dtype != np.float32 or samples.ndim != 1 or not samples.size:
        return f"samples are {samples.dtype} {samples.shape}"
    if not np.isfinite(samples).all():
        return "samples that are no numbers"
    if audio.duration != samples.size / SAMPLE_RATE:
        return f"duration {audio.duration} s of {samples.size} samples"
    if audio.duration > HOUR:
        return f"{audio.duration} s, longer than an hour"
    peak = float(np.abs(samples).max())
    return "" if floating or peak <= LOUDEST else f"a peak of {peak:.4f}"


def wrong_frames(frames: Frames) -> str:
    """What is wrong with pictures that were read, "" if nothing."""
    images, times = frames.images, frames.times
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        return f"images are {images.dtype} {images.shape}"
    if max(images.shape[1:3]) > LONGEST_SIDE:
        return f"images of {images.shape[1]} x {images.shape[2]}"
    if times.dtype != np.float32 or times.shape != images.shape[:1]:
        return f"times are {times.dtype} {times.shape} for {len(images)} images"
    if not np.isfinite(times).all() or times[0] < 0:
        return f"times from {times[0]} to {times[-1]} s"
    return "" if (np.diff(times) > 0).all() else "times that do not increase"


def wrong_reason(reason: str) -> str:
    if not reason.strip() or len(reason) > REASON or not reason.isprintable():
        return f"no short line for a reason: {reason!r}"
    return ""


def is_floating(path: Path) -> bool:
    """Whether decoding the sound gives floating-point numbers, as lossy codecs do too."""
    with av.open(str(path), metadata_errors="replace") as container:
        formats = [stream.format for stream in container.streams.audio]
    return any(one is None or one.name.startswith(("flt", "dbl")) for one in formats)


# --- reading


@dataclass(frozen=True)
class Reading:
    """What one reading of a file came to: "value", "damaged" (a value with a remark), "reason" or
    "failure"."""

    name: str
    result: str
    text: str = ""


def read(name: str, path: Path) -> Reading:
    try:
        value = READINGS[name](path)
        if name == "sound":
            wrong = wrong_sound(value, is_floating(path))
        else:
            wrong = wrong_frames(value)
    except Unreadable as error:
        wrong = wrong_reason(error.reason)
        return Reading(name, "failure" if wrong else "reason", wrong or error.reason)
    except Exception:
        return Reading(name, "failure", traceback.format_exc())
    if wrong:
        return Reading(name, "failure", f"wrong value: {wrong} ({value.damage})")
    if value.damage:
        wrong = wrong_reason(value.damage)
        return Reading(name, "failure" if wrong else "damaged", wrong or value.damage)
    return Reading(name, "value")


def start_worker(gigabytes: float) -> None:
    faulthandler.enable()
    workers.end_with_parent()
    workers.limit_memory(gigabytes)


def read_all(path: Path) -> tuple[list[Reading], float]:
    """In a worker: every reading of a file, and the most that the process has held so far, in
    GB."""
    return [read(name, path) for name in READINGS], held()


def held() -> float:
    try:  # getrusage counts what the process was forked from, too
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    except (OSError, IndexError):
        if resource is None:
            return 0.0
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@dataclass(frozen=True)
class Outcome:
    kind: str
    path: Path
    readings: list[Reading]
    gigabytes: float


def read_files(
    files: Iterable[tuple[str, Path]],
    processes: int = 1,
    seconds: float = SECONDS,
    gigabytes: float = GIGABYTES,
) -> Iterator[Outcome]:
    """What each (kind, file) came to, in the order in which they are done."""
    workers.refuse_unguarded()
    context: Any = multiprocessing.get_context("spawn")
    pool = ProcessPool(processes, initializer=start_worker, initargs=(gigabytes,), context=context)
    waiting: dict[Future, tuple[str, Path]] = {}
    files = iter(files)
    try:
        while True:
            # no more files at a time than keep the processes busy: some are large
            for kind, path in itertools.islice(files, 2 * processes - len(waiting)):
                waiting[pool.schedule(read_all, (path,), timeout=seconds)] = kind, path
            if not waiting:
                break
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                kind, path = waiting.pop(future)
                yield Outcome(kind, path, *result(future, seconds))
        pool.close()
    finally:
        pool.stop()
        pool.join()


def result(future: Future, seconds: float) -> tuple[list[Reading], float]:
    try:
        return future.result()
    except TimeoutError:
        text = f"still at it after {seconds:g} s"
    except ProcessExpired as error:
        text = f"its process died with exit code {error.exitcode}"
    return [Reading("all readings", "failure", text)], 0.0


# --- the report

COLUMNS = {"value": "values", "damaged": "damaged", "reason": "reasons", "failure": "failures"}


def table(files: Counter, readings: Counter) -> str:
    """files: {kind: number}; readings: {(kind, result): number}."""
    rows = [f"{'kind':18}{'files':>7}" + "".join(f"{name:>10}" for name in COLUMNS.values())]
    for kind in [*files, "all"]:
        chosen = list(files) if kind == "all" else [kind]
        row = f"{kind:18}{sum(files[one] for one in chosen):7}"
        for name in COLUMNS:
            row += f"{sum(readings[one, name] for one in chosen):10}"
        rows.append(row)
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=" ".join(__doc__.split(".")[0].split()))
    parser.add_argument("--files", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    asked = parser.parse_args(arguments)
    began = time.perf_counter()
    files, readings, largest = Counter(), Counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        sources = damaged(asked.files, asked.seed, Path(folder))
        for outcome in read_files(sources, asked.processes):
            files[outcome.kind] += 1
            largest = max(largest, outcome.gigabytes)
            for reading in outcome.readings:
                readings[outcome.kind, reading.result] += 1
                if reading.result == "failure":
                    print(
                        f"FAILURE {outcome.kind}: {outcome.path.name}: {reading.name}: "
                        f"{reading.text}",
                        flush=True,
                    )
            failed = any(reading.result == "failure" for reading in outcome.readings)
            if failed and asked.keep:
                kept = asked.keep / outcome.path.parent.name
                kept.mkdir(parents=True, exist_ok=True)
                shutil.copy(outcome.path, kept)
            shutil.rmtree(outcome.path.parent)
    print(table(files, readings))
    print(
        f"{sum(files.values())} files (seed {asked.seed}), {len(READINGS)} readings each; "
        f"a process held {largest:.2f} GB at most; {time.perf_counter() - began:.0f} s"
    )
    return int(any(readings[kind, "failure"] for kind in files))


if __name__ == "__main__":
    sys.exit(main())

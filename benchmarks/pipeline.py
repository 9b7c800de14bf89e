"""What one clip costs one core: making it, and turning it into features with the embedded micro
backbones, Whisper included.

    python benchmarks/pipeline.py [--clips 60] [--seed 7]

One process, one torch thread, a temporary folder. CPU time is what is held against the limits,
because it hardly depends on what else the machine is doing; wall time stands beside it. Loading the
encoders (once for every process) is reported on its own.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pandas as pd

from taemi_lib import features
from taemi_lib.data import Manifest
from taemi_lib.data.synthmimic import face, render, voice, world
from taemi_lib.features import audio, clip, extract, speech, store, text, vision
from taemi_lib.profiles import PROFILES

LIMITS = {"generation": 0.25, "extraction": 0.2}  # s of one core for one clip
PARTS = {
    "generation": {
        "voice": (voice, "speak"),
        "face": (face, "film"),
    },
    "extraction": {
        "decoding sound": (clip, "read_audio"),
        "decoding pictures": (clip, "read_frames"),
        "audio encoder": (audio.AudioEncoder, "encode"),
        "vision encoder": (vision.VisionEncoder, "encode"),
        "Whisper": (speech.SpeechToText, "transcribe"),
        "text encoder": (text.TextEncoder, "encode"),
        "writing": (store.Store, "write"),
        "loading encoders": (features, "load_encoders"),
    },
}


def cpu() -> float:
    """CPU seconds of this process and of its finished children (each utterance is spoken in one of
    its own)."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


class Clock:
    """CPU and wall seconds, added up under names."""

    def __init__(self) -> None:
        self.cpu, self.wall = Counter(), Counter()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        cpu_before, wall_before = cpu(), time.perf_counter()
        yield
        self.cpu[name] += cpu() - cpu_before
        self.wall[name] += time.perf_counter() - wall_before

    @contextlib.contextmanager
    def watching(self, step: str) -> Iterator[None]:
        """Time the whole block, and every call of the step's parts in it."""

        def timed(name, function):
            def call(*arguments, **options):
                with self(name):
                    return function(*arguments, **options)

            return call

        with contextlib.ExitStack() as stack:
            for name, (owner, attribute) in PARTS[step].items():
                stack.enter_context(
                    patch.object(owner, attribute, timed(name, getattr(owner, attribute)))
                )
            with self(step):
                yield


def measure(clips: int, seed: int, folder: Path) -> Clock:
    clock = Clock()
    voice.speak(world.draw(0, "encoder"))  # imports what it needs
    with clock.watching("generation"):
        for number in range(clips):
            render.write(
                world.draw(seed * 1_000_000 + number, "test"), folder / f"{number:05d}.mp4"
            )
    ids = [f"{number:05d}" for number in range(clips)]
    manifest = Manifest(
        pd.DataFrame({"clip_id": ids, "video": [f"{i}.mp4" for i in ids], "split": "predict"}),
        folder,
        "benchmark",
    )
    with clock.watching("extraction"):
        extract.extract(
            manifest,
            PROFILES["demo"].encoders,
            folder / "store",
            processes=0,  # here, where it can be watched
            device="cpu",
            progress=False,
        )
    for seconds in (clock.cpu, clock.wall):
        seconds["extraction"] -= seconds["loading encoders"]
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clock = measure(asked.clips, asked.seed, Path(folder))
    print(f"{asked.clips} clips, one process; seconds for one clip      CPU    wall")
    for step, limit in LIMITS.items():
        value = clock.cpu[step] / asked.clips
        verdict = "within" if value <= limit else "ABOVE"
        print(
            f"{step:44}{value:8.3f}{clock.wall[step] / asked.clips:8.3f}   "
            f"{verdict} the limit of {limit} s"
        )
        for name in PARTS[step]:
            once = name == "loading encoders"
            count = 1 if once else asked.clips
            print(
                f"  {name + ' (once)' * once:42}"
                f"{clock.cpu[name] / count:8.3f}{clock.wall[name] / count:8.3f}"
            )


if __name__ == "__main__":
    main()

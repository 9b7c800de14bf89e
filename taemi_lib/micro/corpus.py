"""Speech that the micro backbones learn from: spoken by the "encoder" pool of SynthMimic, which no
clip of any split shares."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import av
import numpy as np
from tqdm.auto import tqdm

from taemi_lib.data.synthmimic import voice, world

RATE = 16_000  # Hz, what the encoders hear


@dataclass(frozen=True)
class Utterance:
    """samples (N,) int16 at 16 kHz, with what was planted in them (times in s)."""

    latents: world.Latents
    samples: np.ndarray
    events: tuple[tuple[float, float], tuple[float, float]]
    phonemes: tuple[tuple[float, str], ...]

    @property
    def waveform(self) -> np.ndarray:
        """(N,) float32 in [-1, 1]."""
        return self.samples.astype(np.float32) / 32768


def resample(samples: np.ndarray) -> np.ndarray:
    """(N,) float32 at espeak's rate -> (M,) int16 at 16 kHz."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = voice.RATE
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    return np.concatenate(
        [part.to_ndarray()[0] for part in resampler.resample(frame) + resampler.resample(None)]
    )


def utterance(seed: int, pool: str = "encoder") -> Utterance:
    latents = world.draw(seed, pool, complete=True)
    speech = voice.speak(latents)
    return Utterance(latents, resample(speech.samples), speech.events, speech.phonemes)


def utterances(
    count: int, pool: str = "encoder", first_seed: int = 0, processes: int | None = None
) -> list[Utterance]:
    """`count` utterances of `pool`, made in parallel; the same arguments give the same list."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context) as executor:
        results = executor.map(
            partial(utterance, pool=pool), range(first_seed, first_seed + count), chunksize=16
        )
        return list(
            tqdm(
                results,
                total=count,
                desc=f"speech of pool {pool}",
                unit="clip",
                disable=count < 200,
            )
        )

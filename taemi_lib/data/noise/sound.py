"""Noise in the sound, before any encoder hears it: samples (N,) float32 at SAMPLE_RATE in, new ones
of the same number out.

Nothing is limited to [-1, 1]: a sum may rise above full scale, as in a recording of floating-point
numbers, so that only `clipping` clips. A silent clip (`is_silent`) has no power that a ratio or a
share could refer to, and no modality anyway: it comes back as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taemi_lib.data.media import SAMPLE_RATE, is_silent
from taemi_lib.data.noise.strengths import checked, in_lost_pieces
from taemi_lib.errors import ChoiceError

_FRAME = SAMPLE_RATE // 50  # 20 ms, in which speech hardly changes
# dB below the loudest frame, at which a frame still counts as sound: speech spans about 30, and the
# hiss of a quiet room lies below
_SPAN = 35.0
_VOICES = (3, 7)  # of babble
_PACKET = (0.02, 0.1)  # s
_LOUDEST_NOISE = -100.0  # dB of SNR: beyond, float32 would keep nothing of the clip


def sounding(samples: np.ndarray) -> np.ndarray:
    """Where samples (N,) hold sound, (N,) bool: the frames of 20 ms that are at most 35 dB below
    the loudest one. Nowhere, if all are silent."""
    if is_silent(samples):
        return np.zeros(samples.size, bool)
    starts = np.arange(0, samples.size, _FRAME)
    sizes = np.diff(starts, append=samples.size)
    powers = np.add.reduceat(samples.astype(np.float64) ** 2, starts) / sizes
    return np.repeat(powers >= powers.max() * 10 ** (-_SPAN / 10), sizes)


def white(samples: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian white noise; strength: SNR in dB, inf for none.

    The SNR is that of the clip's power where it sounds (`sounding`) to the noise's mean power, both
    measured, so that pauses make no clip noisier than another; it is exact. Raises ChoiceError for
    less than -100 dB.
    """
    return _mixed("white", samples, rng.standard_normal(samples.size), strength)


def babble(
    samples: np.ndarray, strength: float, rng: np.random.Generator, voices: Sequence[np.ndarray]
) -> np.ndarray:
    """Other people talking; strength: SNR in dB as in `white`.

    voices: waveforms (M,) float32 of any length, of which 3 to 7 (or all, if there are fewer) are
    drawn, begun somewhere, repeated or cut to the clip's length, made equally powerful and summed,
    as babble is made of the speech in MUSAN (Snyder et al., 2015) for training recognisers. The
    speaker of the clip should not be among them. Raises ChoiceError for a bad strength, and when no
    voice is to be heard.
    """
    wanted = int(rng.integers(_VOICES[0], _VOICES[1] + 1))
    noise, heard = np.zeros(samples.size), 0
    for index in rng.permutation(len(voices)):
        voice = voices[index]
        if not is_silent(voice):
            begun = np.roll(voice, -int(rng.integers(voice.size)))
            noise += np.resize(begun / np.sqrt(_power(voice)), samples.size)
            heard += 1
        if heard == wanted:
            break
    if not heard:
        raise ChoiceError(f"babble: none of the {len(voices)} voices is to be heard")
    return _mixed("babble", samples, noise, strength)


def clipping(samples: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Peaks cut off, as by a microphone that is too near; strength: the share of the samples, of
    those where the clip sounds, that lie above the level at which it is cut.

    As in audiomentations' ClippingDistortion the level is a quantile of the samples, and what is
    left keeps its height: it becomes quieter, not louder. Nothing is drawn.
    """
    share = checked("clipping", strength)
    where = sounding(samples)
    if share == 0 or not where.any():
        return samples.copy()
    level = np.quantile(np.abs(samples[where]), 1 - share)
    return samples.clip(-level, level)


def dropouts(samples: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Packets of 20 to 100 ms lost as on a bad line, zeros in their place; strength: the share of
    the time, met as nearly as whole packets allow. What is lost at a smaller share is lost at a
    larger one, too."""
    share = checked("dropouts", strength)
    times = np.arange(samples.size) / SAMPLE_RATE
    lost = in_lost_pieces(times, samples.size / SAMPLE_RATE, share, *_PACKET, rng)
    return np.where(lost, np.float32(0), samples)


def _power(samples: np.ndarray) -> float:
    return float(np.mean(samples[sounding(samples)].astype(np.float64) ** 2))


def _mixed(name: str, samples: np.ndarray, noise: np.ndarray, strength: float) -> np.ndarray:
    """The clip and the noise (N,), which is scaled to the SNR."""
    ratio = checked(name, strength, _LOUDEST_NOISE, np.inf, "an SNR in dB")
    # a clip of a few samples may meet zeros of all voices
    if ratio == np.inf or is_silent(samples) or not noise.any():
        return samples.copy()
    scale = np.sqrt(_power(samples) / np.mean(noise**2)) * 10 ** (-ratio / 20)
    return (samples + scale * noise).astype(np.float32)

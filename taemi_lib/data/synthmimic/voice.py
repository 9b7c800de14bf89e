"""Speech with planted prosody, spoken by espeak-ng (from the pip package espeakng-loader; GPL-3,
used at generation time only).

espeak-ng keeps state between utterances, so the same words could sound different after other words.
Every utterance is therefore spoken in a process forked for it alone: the sound depends on the
latents and on nothing else. Forking excludes native Windows.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
from dataclasses import dataclass
from html import escape

import numpy as np

from taemi_lib.data.synthmimic.world import EMOTIONS, VOICE, Latents

RATE = 22_050  # Hz, espeak-ng's own
_TREMOR = 5.5  # Hz, about the rate of laughter

_WORD, _PHONEME = 1, 7  # espeak_EVENT_TYPE
_SSML, _UTF8 = 0x10, 1
_PARAMETER = {"rate": 1, "volume": 2, "pitch": 3}


@dataclass(frozen=True)
class Speech:
    """samples (N,) float32 at RATE; starts (W,) s of each word; phonemes: (time s, name) in order;
    events: ((start, end), ...) s."""

    samples: np.ndarray
    starts: np.ndarray
    phonemes: tuple[tuple[float, str], ...]
    events: tuple[tuple[float, float], tuple[float, float]]

    @property
    def duration(self) -> float:
        return len(self.samples) / RATE


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def _percent(change: float) -> str:
    return f"{100 * change:+.0f}%"


def _markup(latents: Latents) -> tuple[str, list[int]]:
    """SSML of the sentence, and the character position (from 1, as espeak counts) at which each
    word starts."""
    text, positions = "<speak>", []
    for index, word in enumerate(latents.words):
        for event, (first, _) in enumerate(latents.clause_words):
            if index == first:
                pitch, rate, *_ = (
                    np.array(VOICE[EMOTIONS[latents.emotions[event]]])
                    * latents.voice_strength[event]
                )
                # espeak answers a pitch of +100 % with about half of that, hence the 2
                text += f'<prosody pitch="{_percent(2 * pitch)}" rate="{100 * (1 + rate):.0f}%">'
        positions.append(len(text) + 1)
        text += escape(word)
        for _, past in latents.clause_words:
            if index == past - 1:
                text += "</prosody>"
        text += ", " if index in latents.breaks else " "
    return text + "</speak>", positions


def _espeak(text: str, voice: str, rate: int, pitch: int, seed: int) -> tuple[np.ndarray, list]:
    """Speak once. Must run in a process in which espeak-ng has not spoken before."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    options = 1  # phoneme events
    if library.espeak_Initialize(1, 0, espeakng_loader.get_data_path().encode(), options) != RATE:
        raise RuntimeError(
            "espeak-ng did not start (package espeakng-loader): reinstall it with pip"
        )
    pieces, events = [], []

    def collect(samples, count, event):
        if count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        position = 0
        while event[position].type != 0:
            entry = event[position]
            name = entry.id.string.decode("utf-8", "replace") if entry.type == _PHONEME else ""
            events.append((entry.type, entry.text_position, entry.audio_position / 1000, name))
            position += 1
        return 0

    callback = _CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    library.espeak_ng_SetRandSeed(ctypes.c_long(seed % 2**31))
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice!r}")
    for name, value in {"rate": rate, "pitch": pitch, "volume": 90}.items():
        library.espeak_SetParameter(_PARAMETER[name], value, 0)
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8 | _SSML, None, None)
    library.espeak_Synchronize()
    return np.concatenate(pieces).astype(np.float32) / 32768, events


def _answer(receiver, sender, *arguments) -> None:
    # this process's copy: else it would wait forever for a parent that was killed meanwhile
    receiver.close()
    with contextlib.suppress(BrokenPipeError):
        sender.send(_espeak(*arguments))


def _espeak_alone(*arguments) -> tuple[np.ndarray, list]:
    """`_espeak` in a process forked for this one utterance."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(receiver, sender, *arguments), daemon=True)
    child.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError as error:
        raise RuntimeError(
            f"espeak-ng failed on {arguments[0]!r} with voice {arguments[1]!r}"
        ) from error
    finally:
        child.join()
    return answer


def _ramp(times: np.ndarray, start: float, end: float) -> np.ndarray:
    """1 inside [start, end], 0 outside, 50 ms cosine edges: loudness changes without clicks."""
    edge = 0.05
    rise = np.clip((times - start) / edge + 0.5, 0, 1)
    fall = np.clip((end - times) / edge + 0.5, 0, 1)
    return (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 - 0.5 * np.cos(np.pi * fall))


def speak(latents: Latents) -> Speech:
    """The sentence of the latents with its two expressive events. Raises RuntimeError if espeak-ng
    fails."""
    text, positions = _markup(latents)
    samples, events = _espeak_alone(
        text, latents.voice, latents.base_rate, latents.base_pitch, latents.seed
    )
    heard = {position: time for kind, position, time, _ in events if kind == _WORD}
    # espeak joins short words ("in the") into one event now and then: such a word starts where the
    # one before it does
    starts, last = [], 0.0
    for position in positions:
        last = heard.get(position, last)
        starts.append(last)
    voiced = np.flatnonzero(np.abs(samples) > 0.005)
    if len(voiced):  # espeak ends with up to half a second of silence
        samples = samples[: voiced[-1] + int(0.12 * RATE)]
    ends = starts[1:] + [len(samples) / RATE]
    early, late = (
        (float(starts[first]), float(ends[past - 1])) for first, past in latents.clause_words
    )
    windows = (early, late)

    times = np.arange(len(samples)) / RATE
    for window, emotion, strength in zip(windows, latents.emotions, latents.voice_strength):
        _, _, loudness, tremor = np.array(VOICE[EMOTIONS[emotion]]) * strength
        inside = _ramp(times, *window)
        wave = 0.5 - 0.5 * np.cos(2 * np.pi * _TREMOR * (times - window[0]))
        samples = samples * 10 ** (loudness * inside / 20) * (1 - tremor * inside * wave)
    rng = np.random.default_rng([latents.seed, 1])
    samples = samples * 10 ** (latents.base_gain / 20) + rng.normal(
        0, 10 ** (-rng.uniform(50, 60) / 20), len(samples)
    )
    phonemes = tuple((time, name) for kind, _, time, name in events if kind == _PHONEME)
    return Speech(np.clip(samples, -1, 1).astype(np.float32), np.array(starts), phonemes, windows)

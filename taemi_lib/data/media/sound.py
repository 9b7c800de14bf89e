"""The sound of a file: the mean of its channels at 16 kHz, every piece of it where the file's clock
says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from taemi_lib.data.media.container import LONGEST, Decoder, Unreadable, choose, opened

SAMPLE_RATE = 16_000  # Hz, what wav2vec2 and Whisper were trained on
SILENCE = 2e-4  # peak amplitude, about 7 steps of 16-bit sound: below it there is nothing to hear
# s that a time stamp may differ from the end of what came before: containers round, and pictures
# stand for longer
_JITTER = 0.05
# s by which a time stamp may go back for the sound to overlap; more is a clock that was set anew
_OVERLAP = 1.0
_MENTIONED = 0.1  # s of gaps in all, before they are worth a word
_RATES = (1_000, 1_000_000)  # Hz; what lies outside is no recording
# channels; PyAV counts those that lie apart up to a null pointer, which FFmpeg sets behind seven at
# most: beyond, to_ndarray() reads memory that is no sound, and the process dies
_MANY = 8
_LOUDEST = 100.0  # 1 is full scale; floating-point files may go beyond it, damaged ones go anywhere


@dataclass(frozen=True)
class Audio:
    """Mono sound: samples (N,) float32 at 16 kHz, duration in s; `damage` is "" for a sound file;
    `note` says what was chosen where a file left a choice ("" where it left none)."""

    samples: np.ndarray
    duration: float
    damage: str = ""
    note: str = ""


def read_audio(path: str | Path, seconds: float | None = None) -> Audio:
    """The first `seconds` of the sound (by default all of it, an hour at most: 230 MB), channels
    averaged, resampled to 16 kHz.

    Sample 0 is the start of the file, also where the sound sets in later. Gaps in the stream are
    silence, what comes a second time is left out, samples that are no numbers are silence: what
    comes to more than a breath is in `damage`. No sample is further from 0 than the file's own; but
    a decoder of AAC, MP3 or Opus knows no full scale, and what is resampled from it may rise above
    the samples by a little, as the wave between them does. Raises Unreadable.
    """
    longest = LONGEST if seconds is None else seconds
    with opened(path) as container:
        stream, note = choose(container, "audio")
        decoder = Decoder(container, stream)
        line = _Line(round(longest * SAMPLE_RATE))
        for frame in decoder:
            whole = "fl" not in frame.format.name and "db" not in frame.format.name
            line.add(_mono(frame, line), frame.sample_rate, decoder.time(frame), whole)
            if line.full:
                break
        samples = line.samples()
        damage = "; ".join(filter(None, [decoder.damage(line.full), *line.faults()]))
        cut = line.full and seconds is None
    if not samples.size:
        raise Unreadable(damage or "no sound in the audio track")
    if is_silent(samples):
        raise Unreadable(f"silent audio ({damage})" if damage else "silent audio")
    if cut:
        note = "; ".join(filter(None, [note, f"only the first {longest:g} s of sound are read"]))
    return Audio(samples, samples.size / SAMPLE_RATE, damage, note)


def is_silent(samples: np.ndarray) -> bool:
    """Whether there is nothing to hear in samples (N,) in [-1, 1]."""
    return samples.size == 0 or float(np.abs(samples).max()) < SILENCE


class _Line:
    """The sound as it is put together: pieces at their times, nothing twice, silence in between."""

    def __init__(self, longest: int):
        self.longest = longest  # samples
        self.count = 0  # samples that stand
        self.not_numbers = 0
        self.full = False
        self._chunks: list[np.ndarray] = []
        self._resampler: av.AudioResampler | None = None  # None: the sound has the rate it needs
        self._rate = 0
        self._waiting: list[np.ndarray] = []  # pieces that are to be resampled
        self._waiting_size = 0
        # of a file of whole numbers, whose scale ends somewhere: nothing may be above
        self._peak: float | None = None
        self._end: float | None = None  # s, by the file's clock, where the last piece ended
        self._behind = 0.0  # s that the clock has been set back
        self._gaps: list[float] = []
        self._set_back = 0.0
        self._twice = 0.0  # s that were left out
        self._too_late: float | None = None

    def add(self, mono: np.ndarray, rate: int, time: float, whole: bool = False) -> None:
        """One decoded piece (N,) float32 that begins at `time` s; `whole` if the file has whole
        numbers."""
        if not _RATES[0] <= rate <= _RATES[1]:
            raise Unreadable(f"a sample rate of {rate} Hz")
        time += self._behind
        if self._end is not None and time < self._end - _OVERLAP:
            self._set_back = max(self._set_back, self._end - time)
            self._behind += self._end - time
            time = self._end
        if self._end is None or abs(time - self._end) > _JITTER:
            mono, time = self._jump(mono, rate, time)
            if self.full or not mono.size:
                return
        if rate != self._rate or whole != (self._peak is not None):
            self._flush()
            self._rate, self._peak = rate, 0.0 if whole else None
            if rate != SAMPLE_RATE:
                self._resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        self._end = (time if self._end is None else self._end) + mono.size / rate
        self._keep(mono, rate)

    def _jump(self, mono: np.ndarray, rate: int, time: float) -> tuple[np.ndarray, float]:
        """The clock goes on elsewhere: what was heard already is cut off, what is missing is
        silence."""
        begins = max(self._end or 0.0, 0.0)
        if time < begins:
            heard = min(mono.size, round((begins - time) * rate))
            self._twice += heard / rate if self._end is not None else 0.0
            mono, time = mono[heard:], time + heard / rate
            if not mono.size:
                return mono, time
        if round(time * SAMPLE_RATE) >= self.longest:
            self._too_late = time
            self.full = True
            self._flush()
            return mono[:0], time
        self._flush()
        if self._end is not None and time > self._end:
            self._gaps.append(time - self._end)
        if (missing := round(time * SAMPLE_RATE) - self.count) > 0:
            self._append(np.zeros(missing, np.float32))
        self._end = time
        return mono, time

    def _keep(self, mono: np.ndarray, rate: int) -> None:
        if self._resampler is None:
            self._append(mono)
            return
        self._waiting.append(mono)
        self._waiting_size += mono.size
        # a second at a time, which is quicker than a packet at a time; the resampler holds back a
        # few samples for what follows
        if (
            self._waiting_size >= rate
            or (self._end or 0) * SAMPLE_RATE > self.longest + SAMPLE_RATE / 10
        ):
            self._resample()

    def _resample(self) -> None:
        if self._resampler is None or not self._waiting:
            return
        sound = np.concatenate(self._waiting)
        self._waiting, self._waiting_size = [], 0
        if self._peak is not None:
            self._peak = max(self._peak, float(np.abs(sound).max(initial=0)))
        frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
        frame.sample_rate = self._rate
        self._take(self._resampler.resample(frame))

    def _take(self, parts: list[av.AudioFrame]) -> None:
        for part in parts:
            samples = part.to_ndarray().reshape(-1)
            if self._peak is not None:
                samples = samples.clip(-self._peak, self._peak)
            self._append(samples)

    def _flush(self) -> None:
        """What the resampler still holds; the next piece begins with a new one."""
        if self._resampler is not None:
            self._resample()
            self._take(self._resampler.resample(None))
        self._resampler, self._rate = None, 0

    def _append(self, samples: np.ndarray) -> None:
        self._chunks.append(samples)
        self.count += samples.size
        self.full = self.full or self.count >= self.longest

    def samples(self) -> np.ndarray:
        """(N,) float32: all that was added."""
        self._flush()
        chunks = [np.zeros(0, np.float32), *self._chunks]
        return np.ascontiguousarray(np.concatenate(chunks)[: self.longest], np.float32)

    def faults(self) -> list[str]:
        """What was wrong with the pieces, for the report."""
        said = []
        if (lost := sum(self._gaps)) > _MENTIONED:
            said.append(f"gaps: {lost:.1f} s of the sound are missing and read as silence")
        if self._twice > _MENTIONED:
            said.append(f"overlaps: {self._twice:.1f} s of the sound come twice and are left out")
        if self._set_back:
            said.append(f"its time stamps go back by {self._set_back:.1f} s")
        if self._too_late is not None and not self.count:
            said.append(f"its sound begins at {self._too_late:.0f} s")
        elif self._too_late is not None and self._too_late > LONGEST:
            said.append(f"its time stamps jump to {self._too_late:.0f} s")
        if self.not_numbers:
            said.append(f"{self.not_numbers} samples are no numbers and read as silence")
        return said


def _mono(frame: av.AudioFrame, line: _Line) -> np.ndarray:
    """The mean of a frame's channels, (N,) float32; what is no number becomes silence and is
    counted."""
    channels = frame.layout.nb_channels
    try:
        if frame.format.is_planar and channels >= _MANY:
            frame = _packed(frame)
        sound: Any = frame.to_ndarray()  # planar (C, N), packed (1, N * C)
    except ValueError as error:
        raise Unreadable(f"samples of the format {frame.format.name} cannot be read") from error
    if not frame.format.is_planar:
        sound = sound.reshape(-1, channels).T
    if sound.dtype == np.uint8:
        sound = (sound.astype(np.float32) - 128) / 128
    elif sound.dtype.kind == "i":
        sound = sound * np.float32(1 / -float(np.iinfo(sound.dtype).min))
    else:
        wrong = ~(np.abs(sound) <= _LOUDEST)  # NaN, too, is not below anything
        if wrong.any():
            line.not_numbers += int(wrong.any(axis=0).sum())
            sound = np.where(wrong, 0, sound)
    return sound[0].astype(np.float32) if len(sound) == 1 else sound.mean(0, dtype=np.float32)


def _packed(frame: av.AudioFrame) -> av.AudioFrame:
    """The frame with its channels interleaved."""
    to = av.AudioResampler(frame.format.packed, frame.layout, frame.sample_rate)
    return to.resample(frame)[0]

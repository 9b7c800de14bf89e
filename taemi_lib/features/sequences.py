"""What the encoders give: sequences in time, and everything known about one clip. The store keeps
exactly this."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Sequence:
    """Steps in time: values (T, D) floating point, times (T,) float32 in s (text tokens: their
    index).

    Raises ValueError when the shapes do not fit or there is no step: what is absent is None, never
    an empty sequence.
    """

    values: np.ndarray
    times: np.ndarray

    def __post_init__(self):
        if (
            self.values.ndim != 2
            or self.times.shape != self.values.shape[:1]
            or not len(self.values)
        ):
            shapes = f"values are {self.values.shape} and times {self.times.shape}"
            raise ValueError(f"{shapes}, expected (T, D) and (T,) with T > 0")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        return self.values.shape[1]


@dataclass(frozen=True)
class Word:
    """One word as it was heard, from `start` to `end` s."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """What was heard: `text` is "" where there were no words, `language` is Whisper's abbreviation
    (None: it was to be heard, and there were no words), `words` is empty where the model gives no
    times."""

    text: str
    language: str | None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class ClipFeatures:
    """One clip, encoded. A modality that is absent is None here and has its reason in `absent`.

    audio (T_a, D_a), vision (T_v, D), tokens (T_t, D) and pooled (D,) of the transcript. Where only
    the pooled vector is known, it is the only token.
    `damaged` names modalities that are there but incomplete, with what happened (a truncated file,
    for example); `notes` says what was chosen where a file left a choice (several sound tracks).
    `language` and `words` are known of a transcript that was heard, not of a table's.
    """

    clip_id: str
    audio: Sequence | None = None
    vision: Sequence | None = None
    tokens: Sequence | None = None
    pooled: np.ndarray | None = None
    transcript: str | None = None
    absent: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    language: str | None = None
    words: tuple[Word, ...] = ()

    def __post_init__(self):
        if self.tokens is None and self.pooled is not None:
            alone = Sequence(self.pooled[None], np.zeros(1, np.float32))
            object.__setattr__(self, "tokens", alone)
        for modality, value in (
            ("audio", self.audio),
            ("vision", self.vision),
            ("text", self.tokens),
        ):
            if (value is None) != (modality in self.absent):
                state = (
                    "no values and no reason"
                    if value is None
                    else "both values and a reason to be absent"
                )
                raise ValueError(f"clip {self.clip_id}: {modality} has {state}")
        if (self.tokens is None) != (self.pooled is None):
            raise ValueError(
                f"clip {self.clip_id}: text has tokens and no pooled vector; give one beside them"
            )


def as_stored(clip: ClipFeatures) -> ClipFeatures:
    """The same clip with its values in fp16, as a store keeps them: what training saw, and the same
    numbers whether a clip was stored meanwhile or not."""

    def half(sequence: Sequence | None) -> Sequence | None:
        return sequence and Sequence(sequence.values.astype(np.float16), sequence.times)

    with np.errstate(over="ignore"):
        pooled = None if clip.pooled is None else clip.pooled.astype(np.float16)
        return replace(
            clip,
            audio=half(clip.audio),
            vision=half(clip.vision),
            tokens=half(clip.tokens),
            pooled=pooled,
        )

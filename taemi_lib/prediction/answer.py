"""What a system says about one clip, and everything a reader needs to judge it: the `Prediction`
that the command line, the report and the notebook show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass

from taemi_lib.features.sequences import Word
from taemi_lib.support import naming

LEVEL = 0.9  # share of clips whose true intensity an interval promises to hold

# Beside every number that leaves the package, whatever shows it.
CAUTION = (
    "These numbers estimate how strongly raters would mark six emotions in a clip of someone "
    "mimicking; they do not say what a person feels. Do not use them to decide about people: not "
    "in hiring, health, security, policing, insurance or credit, nor for marks at school."
)
CAUTION_OTHER = (
    "These numbers estimate what raters would say of a clip; they do not say what a person feels. "
    "Do not use them to decide about people: not in hiring, health, security, policing, insurance "
    "or credit, nor for marks at school."
)


@dataclass(frozen=True)
class Attention:
    """Where one branch of a system looked.

    times    (T,) s, the middle of each step of the clip as the model saw it
    weights  (T,) mean over heads and runs, in [0, 1], sum 1
    """

    times: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Distance:
    """How far one modality of a clip lies from the training clips.

    value      0: at their mean; 1: as far as clips of their kind that were not trained on (the root
               mean square over the selection split)
    threshold  at most 1 of 100 selection clips lies beyond it (of fewer, none)
    """

    value: float
    threshold: float

    @property
    def beyond(self) -> bool:
        """Whether this modality is unlike the training clips'."""
        return not self.value <= self.threshold  # so that no number at all is beyond, too


@dataclass(frozen=True)
class Outside:
    """Whether a clip is unlike the clips that the system was trained on: then neither its values
    nor its intervals can be relied on.

    distances  modality -> Distance, of the modalities that are there
    """

    distances: dict[str, Distance] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that are beyond their threshold."""
        return tuple(name for name, distance in self.distances.items() if distance.beyond)

    @property
    def is_outside(self) -> bool:
        """Whether any modality is."""
        return bool(self.modalities)


@dataclass(frozen=True)
class Prediction:
    """What a system says about one clip.

    clip        the file's name, or the clip's id
    values      target -> value between the ends of `scale`, in the order of the task's targets
    transcript  what was heard, None where there was nothing to hear
    absent      modality -> why it is absent: its missing token stood in
    damaged     modality -> what is incomplete about it
    all_absent  nothing was there: the values come from the missing tokens alone and say nothing
                about the clip
    notes       modality -> what was chosen where the file left a choice (several sound tracks)
    language    of the transcript, as Whisper abbreviates it; None where nothing was heard
    words       of the transcript with their times (s); empty where the model gives none
    low, high   target -> bounds that hold the true intensity for a share `level` of
                clips like the training's; both None where there is no interval
    level       0.9
    interval    one sentence: what the bounds were made from and what they were measured to hold, or
                "no interval: " and why
    attention   "audio" and "vision" -> Attention, of the branches that are there; None for systems
                that do not attend with a query
    without     modality that is there -> {emotion: value}, had it been absent
    outside     how far the clip is from the training clips; None where nobody measured them (no
                calibration beside the run)
    caution     what these numbers must not be used for
    scale       lowest and highest value of the task
    """

    clip: str
    values: dict[str, float]
    transcript: str | None
    absent: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    all_absent: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    language: str | None = None
    words: tuple[Word, ...] = ()
    low: dict[str, float] | None = None
    high: dict[str, float] | None = None
    level: float = LEVEL
    interval: str = "no interval: nothing was calibrated"
    attention: dict[str, Attention] | None = None
    without: dict[str, dict[str, float]] = field(default_factory=dict)
    outside: Outside | None = None
    caution: str = CAUTION
    scale: tuple[float, float] = (0.0, 1.0)

    def as_dict(self) -> dict:
        """Plain JSON values: dicts, lists, str, float, int, bool, None; None for a number that is
        not finite. `outside` also says `is_outside`, and each distance `beyond`."""
        return {name: _plain(entry) for name, entry in vars(self).items()}

    def __str__(self) -> str:
        lines = [self.clip, *(self._line(name) for name in self.values), f"  {self.interval}"]
        if self.transcript is not None:
            lines.append(f'  heard: "{naming.visible(self.transcript)}"')
        lines += [f"  {name} is absent: {reason}" for name, reason in self.absent.items()]
        lines += [f"  {name} is incomplete: {reason}" for name, reason in self.damaged.items()]
        lines += [f"  {name}: {note}" for name, note in self.notes.items()]
        if self.all_absent:
            lines.append(
                "  nothing of the clip could be used: these values come from missing tokens alone"
            )
        if self.outside is not None and self.outside.is_outside:
            lines.append(
                f"  outside its world: {', '.join(self.outside.modalities)} unlike the training "
                "clips, so neither values nor intervals can be relied on"
            )
        return "\n".join([*lines, f"  {self.caution}"])

    def _line(self, emotion: str) -> str:
        value = self.values[emotion]
        bounds = ""
        if self.low is not None and self.high is not None:
            bounds = f" [{self.low[emotion]:.2f}, {self.high[emotion]:.2f}]"
        lowest, highest = self.scale
        bar = "#" * round(30 * (value - lowest) / (highest - lowest))
        return f"  {emotion:14} {value:.3f}{bounds} {bar}".rstrip()


def _plain(value: object) -> object:
    """A value as JSON has it; what an object derives (is_outside, beyond) comes along."""
    if is_dataclass(value):
        plain = {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
        derived = {"is_outside", "beyond"} & set(dir(value))
        return plain | {name: bool(getattr(value, name)) for name in derived}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value

"""What test clips may be shown as: with whole modalities lost, or single steps in time, each at a
rate; with noise in them (Noisy); or with both (Mixed). What is measured together is a Plan.

    whole    a modality of a clip is there or not, as when a camera or a microphone is off. At the
             rate 1 of some modalities this gives the subsets: only words, only sound and face, ...
    steps    single time steps are lost, as on a bad line: the field's protocol (docs/paper.md
             row 18). Of sound and face the steps that a model sees, of text the words,
             before the text encoder: what is left of a sentence is read anew, for a token's vector
             knows its neighbours

Every clip has one uniform number for each modality (`draw`), and each of its steps another; what
lies below the rate is lost. So the masks are the same for all systems, and what is lost at one rate
is lost at every higher one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from taemi_lib.batches import ClipDataset
from taemi_lib.data.media import Unreadable
from taemi_lib.data.noise import NOISES, rng_of, words
from taemi_lib.experiments.masks import hidden, in_place_of
from taemi_lib.features.sequences import ClipFeatures, Sequence, as_stored
from taemi_lib.profiles import MODALITIES

RATES = tuple(round(0.1 * step, 1) for step in range(1, 10))
LEVELS = (1, 2, 3, 4, 5)  # of noise
SOME_LEVELS = (0, 1, 3, 5)
MIXED_NOISES = "babble", "low_light"
PROTOCOLS = WHOLE, STEPS = "whole", "steps"
CLEAN = "complete"
NOTHING_LEFT = "all steps lost"
# Words lost by noise (deleted) are those of the protocol "steps", which has them at every rate.
MEASURED = tuple(name for name in NOISES if name != "deleted")
SEED = 11
Encode = Callable[[str], tuple[Sequence, np.ndarray]]  # a transcript -> its tokens and vector


@dataclass(frozen=True)
class Condition:
    """protocol "whole" or "steps"; lost: the modalities that are concerned; rate: from 0, which is
    the complete clip, to 1, at which nothing of them is left."""

    protocol: str = WHOLE
    lost: tuple[str, ...] = ()
    rate: float = 0.0

    @property
    def name(self) -> str:
        """ "whole-audio+text-0.3", for files; "complete" for clips as they are."""
        if not self.rate:
            return CLEAN
        return f"{self.protocol}-{'+'.join(self.lost)}-{self.rate:g}"

    @property
    def amount(self) -> float:
        """Where it stands on its curve."""
        return self.rate

    @property
    def curve(self) -> dict[str, object]:
        """How tables name all rates of it."""
        return {"protocol": self.protocol, "lost": "+".join(self.lost)}

    @property
    def key(self) -> dict[str, object]:
        """How tables name it."""
        return self.curve | {"rate": self.rate}


@dataclass(frozen=True)
class Noisy:
    """noise: a name of data.noise.NOISES; level: from 1, its weakest strength, to 5; 0 is the
    complete clip. The clip is encoded anew."""

    noise: str = ""
    level: int = 0

    @property
    def name(self) -> str:
        """ "noise-white-3", for files; "complete" for clips as they are."""
        return f"noise-{self.noise}-{self.level}" if self.level else CLEAN

    @property
    def missing(self) -> Condition:
        """The clips without all that this noise reaches: words come from the sound."""
        reached = {"audio": ("audio", "text"), "vision": ("vision",), "text": ("text",)}
        return Condition(WHOLE, reached[NOISES[self.noise].modality], 1.0)

    @property
    def strength(self) -> float:
        """In the noise's own unit; NaN for complete clips."""
        return NOISES[self.noise].strengths[self.level - 1] if self.level else float("nan")

    @property
    def amount(self) -> float:
        """Where it stands on its curve."""
        return self.level

    @property
    def curve(self) -> dict[str, object]:
        """How tables name all levels of it."""
        return {"noise": self.noise}

    @property
    def key(self) -> dict[str, object]:
        """How tables name it."""
        return self.curve | {"level": self.level, "strength": self.strength}


@dataclass(frozen=True)
class Mixed:
    """All clips lose these modalities; there is babble in the sound at level `sound` and a dark
    room in the picture at level `picture`, from 0, none, to 5. Where the sound is lost, words are
    as they were heard before, noise and all."""

    lost: tuple[str, ...] = ()
    sound: int = 0
    picture: int = 0

    @property
    def noises(self) -> tuple[Noisy, Noisy]:
        """What the sound and the picture are taken from."""
        sounding, seen = MIXED_NOISES
        return Noisy(sounding, self.sound), Noisy(seen, self.picture)

    @property
    def name(self) -> str:
        """ "mixed-text-3-0", for files; "complete" for clips as they are."""
        if self == Mixed():
            return CLEAN
        return f"mixed-{'+'.join(self.lost)}-{self.sound}-{self.picture}"

    @property
    def curve(self) -> dict[str, object]:
        """How tables name what is lost."""
        return {"lost": "+".join(self.lost)}

    @property
    def key(self) -> dict[str, object]:
        """How tables name it."""
        return self.curve | {"sound": self.sound, "picture": self.picture}


AnyCondition = Condition | Noisy | Mixed


@dataclass(frozen=True)
class Plan:
    """Conditions that are measured together, for tables of their own.

    prefix     how the names of the tables begin
    complete   clips as they are, named as these tables name it
    alone      conditions of no curve
    curves     each from little to much
    beside     what conditions of the curves are held against, in no row of its own
    """

    prefix: str
    complete: AnyCondition
    alone: tuple[AnyCondition, ...] = ()
    curves: tuple[tuple[Condition | Noisy, ...], ...] = ()
    beside: tuple[Condition, ...] = ()

    @property
    def conditions(self) -> tuple[AnyCondition, ...]:
        """All of them."""
        return (self.complete, *self.alone, *(one for curve in self.curves for one in curve))


COMPLETE = Condition()
# six of the seven subsets; the seventh is the complete clip
SUBSETS = tuple(
    Condition(WHOLE, lost, 1.0)
    for lost in (
        *((name,) for name in MODALITIES),
        *(tuple(other for other in MODALITIES if other != name) for name in MODALITIES),
    )
)
LOSSES = Plan(
    "",
    COMPLETE,
    SUBSETS,
    tuple(
        tuple(Condition(protocol, lost, rate) for rate in RATES)
        for protocol in PROTOCOLS
        for lost in (MODALITIES, *((name,) for name in MODALITIES))
    ),
)
NOISE = Plan(
    "noise_",
    Noisy(),
    curves=tuple(tuple(Noisy(name, level) for level in LEVELS) for name in MEASURED),
    beside=tuple({Noisy(name, 1).missing: None for name in MEASURED}),
)
# What systems are asked that were trained for it, or not (trained.py).
TRAINING = Plan(
    "training_",
    COMPLETE,
    curves=(
        *(
            tuple(Condition(protocol, lost, rate) for rate in RATES)
            for protocol, lost in ((WHOLE, MODALITIES), (WHOLE, ("text",)), (STEPS, MODALITIES))
        ),
        *(tuple(Noisy(name, level) for level in LEVELS) for name in MIXED_NOISES),
    ),
)
# What the panel of notebook 08 answers from. A level of noise in what is lost changes nothing: the
# words come from the sound.
MIXED = Plan(
    "mixed_",
    Mixed(),
    tuple(
        Mixed(lost, sound, picture)
        for lost in ((), *(subset.lost for subset in SUBSETS))
        for sound in (SOME_LEVELS if {"audio", "text"} - set(lost) else (0,))
        for picture in (SOME_LEVELS if "vision" not in lost else (0,))
        if lost or sound or picture
    ),
)
PLANS = {"losses": LOSSES, "noise": NOISE, "mixed": MIXED, "training": TRAINING}


def draw(clip_ids: Iterable[str], seed: int = SEED) -> pd.DataFrame:
    """One number from 0 to 1 for each clip (index clip_id) and modality (columns), to six digits,
    as the table of them has. A clip's numbers depend on its name and the seed alone."""
    ids = [str(clip_id) for clip_id in clip_ids]
    numbers = [rng_of(clip_id, WHOLE, seed).random(len(MODALITIES)) for clip_id in ids]
    table = pd.DataFrame(np.reshape(numbers, (-1, len(MODALITIES))), columns=list(MODALITIES))
    return table.round(6).set_index(pd.Index(ids, name="clip_id"))


def lossy(
    dataset: ClipDataset,
    condition: Condition,
    draws: pd.DataFrame,
    encode: Encode | None = None,
    seed: int = SEED,
) -> ClipDataset:
    """The same clips and labels, in memory, with what `condition` takes away.

    draws    of `draw`, for every clip of the dataset
    encode   reads what is left of a transcript; needed where words are lost. Raises ValueError
             naming a clip whose words are not known: of imported features only vectors are there
    """
    found = []
    for index in range(len(dataset)):
        clip = dataset[index][0]
        if condition.protocol == WHOLE:
            found.append(hidden(clip, gone(clip, condition, draws.loc[clip.clip_id])))
        else:
            found.append(without_steps(clip, condition, encode, seed))
    return in_place_of(dataset, found)


def gone(clip: ClipFeatures, condition: Condition, numbers: pd.Series) -> list[str]:
    """The modalities that a clip loses. At a rate below 1 it keeps one: of those that it has, the
    one with the largest number (as models.missing.ModalityDropout does)."""
    lost = [name for name in condition.lost if numbers[name] < condition.rate]
    there = [name for name in MODALITIES if name not in clip.absent]
    if condition.rate < 1 and there and set(there) <= set(lost):
        lost.remove(max(there, key=lambda name: numbers[name]))
    return lost


def without_steps(
    clip: ClipFeatures, condition: Condition, encode: Encode | None, seed: int = SEED
) -> ClipFeatures:
    """The clip without some of its time steps and words; see `lossy`."""
    rest, empty = clip, list[str]()
    for name in condition.lost:
        if name in clip.absent:
            continue
        rng = rng_of(clip.clip_id, f"{STEPS}/{name}", seed)
        if name == "text":
            if encode is None or clip.transcript is None:
                raise ValueError(
                    f"clip {clip.clip_id!r}: its words are not known, so that none can be taken "
                    "away (imported features have none, and no text encoder)"
                )
            left = words.deleted(clip.transcript, condition.rate, rng)
            rest = reworded(rest, left, encode, NOTHING_LEFT)
        elif (steps := _fewer(getattr(clip, name), condition.rate, rng)) is None:
            empty.append(name)
        else:
            field: dict[str, Any] = {name: steps}
            rest = replace(rest, **field)
    return hidden(rest, empty, NOTHING_LEFT)


def reworded(clip: ClipFeatures, said: str, encode: Encode, why: str) -> ClipFeatures:
    """The clip with other words, read anew; without text, for the reason `why`, where none are
    left."""
    if said == clip.transcript:
        return clip
    try:
        tokens, pooled = encode(said)
    except Unreadable:
        return hidden(clip, ["text"], why)
    read = as_stored(replace(clip, tokens=tokens, pooled=pooled))  # as training saw all others
    return replace(clip, tokens=read.tokens, pooled=read.pooled, transcript=said, words=())


def _fewer(steps: Sequence, rate: float, rng: np.random.Generator) -> Sequence | None:
    """What is left of a sequence, None where nothing is."""
    left = rng.random(len(steps)) >= rate
    return Sequence(steps.values[left], steps.times[left]) if left.any() else None

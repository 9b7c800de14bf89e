"""What a search tries: values of each setting, and the settings drawn from them, once, for every
system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scipy.stats import qmc

from taemi_lib.models.base import System
from taemi_lib.profiles import Profile, parse_pairs

Settings = dict[str, object]  # {dotted name: value}


@dataclass(frozen=True)
class Range:
    """The values of one setting that a search tries, lowest first.

    relative       they are multiples of the profile's own value
    below, above   tried once more where the lowest or the highest of `values` is chosen; None:
                   nothing lies there (a dropout below 0), or nothing that could be better
    """

    values: tuple[float, ...]
    below: float | None = None
    above: float | None = None
    relative: bool = False

    def beyond(self, value: float) -> float | None:
        """What lies beyond a value at the edge; None for one that is not at an open edge."""
        if value == self.values[0]:
            return self.below
        return self.above if value == self.values[-1] else None


# The best epoch is kept whatever comes after it, so every trial trains all of its epochs: a
# patience of 10 would save an eighth of them, and now and then stops before learning begins.
SPACE: Mapping[str, Range] = {
    "training.learning_rate": Range((0.15, 0.3, 0.5, 1, 2, 3), 0.07, 6, relative=True),
    "training.weight_decay": Range((0, 0.01, 0.1), None, 0.5),
    "training.warmup_epochs": Range((0, 1, 4), None, 8),
    "training.epochs": Range((0.5, 1, 2), 0.25, 3, relative=True),
    "model.dropout": Range((0, 0.1, 0.2, 0.4), None, 0.6),
    "model.input_dropout": Range((0, 0.1, 0.2, 0.4), None, 0.6),
    "model.modality_dropout": Range((0, 0.1, 0.3), None, 0.5),
    "model.width": Range((0.5, 1, 2), 0.25, 4, relative=True),
    "model.mlp_width": Range((0.5, 1, 4), 0.25, 8, relative=True),
}
OWN = "model.own"  # sizes that one system alone has, and says what they may be (System.own)


def drawn(profile: Profile, system: type[System], count: int) -> list[Settings]:
    """`count` settings: the profile's own first, then a Latin hypercube over SPACE and over what
    the system calls its own sizes, so that each value is tried about equally often. The part over
    SPACE is the same for every system."""
    points = qmc.LatinHypercube(len(SPACE), rng=0).random(count - 1)
    own_points = qmc.LatinHypercube(max(1, len(system.own)), rng=1).random(count - 1)
    found = [_settings(profile, {name: _own_value(profile, name) for name in SPACE}, {})]
    for point, own_point in zip(points, own_points, strict=True):
        values = {
            name: limits.values[int(share * len(limits.values))]
            for (name, limits), share in zip(SPACE.items(), point, strict=True)
        }
        own = {
            name: choices[int(share * len(choices))]
            for (name, choices), share in zip(system.own.items(), own_point, strict=False)
        }
        found.append(_settings(profile, values, own))
    return found


def wider(profile: Profile, system: type[System], chosen: Settings) -> Iterator[Settings]:
    """For each setting that was chosen at an edge of its range: the same, with the value beyond;
    then for each of the system's own sizes."""
    for name, limits in SPACE.items():
        at = [value for value in limits.values if _value(profile, name, value) == chosen[name]]
        further = limits.beyond(at[0]) if at else None
        if further is not None:
            changed = chosen | {name: _value(profile, name, further)}
            yield changed | {"training.patience": changed["training.epochs"]}
    own = parse_pairs(chosen.get(OWN, ()), "no own size: {}")  # type: ignore[arg-type]
    for name, listed in system.own.items():
        value, beyond = own.get(name, listed[0]), system.own_beyond.get(name, {})
        if value in beyond:
            yield chosen | {OWN: _pairs(own | {name: beyond[value]})}


def _own_value(profile: Profile, name: str) -> float:
    """The profile's own value as one of SPACE."""
    section, field = name.split(".")
    return 1 if SPACE[name].relative else getattr(getattr(profile, section), field)


def _settings(profile: Profile, values: Mapping[str, float], own: Mapping[str, object]) -> Settings:
    found: Settings = {name: _value(profile, name, value) for name, value in values.items()}
    found["training.patience"] = found["training.epochs"]
    return found | ({OWN: _pairs(own)} if own else {})


def _value(profile: Profile, name: str, value: float) -> float | int:
    """A value of SPACE as the setting's own: multiplied, and whole where the setting is."""
    section, field = name.split(".")
    there = getattr(getattr(profile, section), field)
    asked = value * there if SPACE[name].relative else value
    if name == "model.width":  # a multiple of the heads
        heads = profile.model.heads
        return heads * max(1, round(asked / heads))
    if isinstance(there, int):
        return max(1, round(asked))
    return float(f"{asked:.6g}")  # 0.006, not 0.0060000000000000001


def _pairs(own: Mapping[str, object]) -> list[str]:
    """Own sizes as the setting has them: NAME=VALUE."""
    written = {name: str(v).lower() if isinstance(v, bool) else v for name, v in own.items()}
    return [f"{name}={value}" for name, value in written.items()]

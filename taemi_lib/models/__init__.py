"""All systems by name: `create("taemi", audio_dim=131, ...)`, `names()`, `load(folder)`. One
readable file a system."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from taemi_lib.batches import Batch, ClipDataset, LengthGroupedBatches, collate
from taemi_lib.errors import ChoiceError
from taemi_lib.models.base import Output, System
from taemi_lib.models.systems import (
    ablations,
    anchors,
    baselines,
    controls,
    fusion,
    hallmen,
    misa,
    mult,
    savchenko2025,
    yu2024,
    yu2025,
    zhang2024,
)
from taemi_lib.models.taemi import TAEMI

__all__ = [
    "TAEMI",
    "Batch",
    "ClipDataset",
    "LengthGroupedBatches",
    "Output",
    "System",
    "collate",
    "create",
    "find",
    "load",
    "names",
]

_SYSTEMS: dict[str, type[System]] = {
    system.name: system
    for system in (
        TAEMI,
        *controls.SYSTEMS,
        *ablations.SYSTEMS,
        *anchors.SYSTEMS,
        *baselines.SYSTEMS,
        *yu2024.SYSTEMS,
        *hallmen.SYSTEMS,
        *savchenko2025.SYSTEMS,
        *zhang2024.SYSTEMS,
        *yu2025.SYSTEMS,
        *fusion.SYSTEMS,
        *mult.SYSTEMS,
        *misa.SYSTEMS,
    )
}


def names() -> list[str]:
    """The names of all systems."""
    return list(_SYSTEMS)


def find(name: str) -> type[System]:
    """The class of a system. Raises ChoiceError with the valid names."""
    if name not in _SYSTEMS:
        raise ChoiceError(f"there is no system {name!r}; the systems are: {', '.join(_SYSTEMS)}")
    return _SYSTEMS[name]


def create(name: str, **sizes) -> System:
    """A fresh system. Sizes: audio_dim, vision_dim, text_dim and those of profiles.Model.

    Raises ChoiceError for an unknown system or size, with the valid ones.
    """
    system = find(name)
    known = list(inspect.signature(system).parameters)
    if unknown := set(sizes) - set(known):
        raise ChoiceError(
            f"{name} has no size {', '.join(sorted(unknown))}; its sizes are: {', '.join(known)}"
        )
    return system(**sizes)


def load(folder: str | Path) -> System:
    """The system saved in a folder by `save_pretrained` (or by training), whichever it is, ready to
    predict.

    Raises FileNotFoundError when there is none, ValueError when weights and sizes do not fit.
    """
    config = Path(folder) / "config.json"
    if not config.exists():
        raise FileNotFoundError(f"there is no checkpoint in {folder}: config.json is missing")
    saved = json.loads(config.read_text())
    if "system" not in saved:
        raise ValueError(
            f"{config} does not name its system: it was not written by this project's save_pretrained"
        )
    return find(saved["system"]).from_pretrained(folder)

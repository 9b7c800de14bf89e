"""From files to features: encoders (`audio`, `vision`, `speech`, `text`), the pipeline `extract`
and the `store`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from taemi_lib.features.sequences import ClipFeatures, Sequence
from taemi_lib.features.sources import identity, missing
from taemi_lib.features.store import Store
from taemi_lib.support.imports import without_collecting

if TYPE_CHECKING:
    from taemi_lib.features.encoders import Encoders, load_encoders


def __getattr__(name: str) -> object:
    """The encoders when they are first used: they bring transformers and whisper along, which take
    seconds, and reading a store needs neither."""
    if name not in ("Encoders", "load_encoders"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with without_collecting():
        return getattr(import_module("taemi_lib.features.encoders"), name)


__all__ = [
    "ClipFeatures",
    "Encoders",
    "Sequence",
    "Store",
    "identity",
    "load_encoders",
    "missing",
]

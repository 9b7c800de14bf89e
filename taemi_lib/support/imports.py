"""Importing what is large in less time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Meanwhile nothing is collected: modules stay, and searching the half a million objects of
    torch and transformers for garbage, again and again as they come, takes a quarter of the time
    of their import."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""Where tensors live: the one place that turns the course's `device` parameter into a torch
device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from taemi_lib.errors import ChoiceError


def choose(device: str | torch.device | None = "auto") -> torch.device:
    """ "auto" or None: CUDA when there is one, else the CPU. Raises ChoiceError when CUDA is asked
    for but not there."""
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ChoiceError(
            f"unknown device {device!r}; use auto, cpu, cuda or cuda:<number>"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ChoiceError(
            f"device {str(device)!r} is not supported; use auto, cpu, cuda or cuda:<number>"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ChoiceError(
            f"device {str(device)!r} is not there: "
            f"torch sees {torch.cuda.device_count()} CUDA devices"
        )
    return device


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run the block with `count` torch CPU threads (None: as it is), then put the old number back.

    One thread makes results independent of the number of cores, and keeps parallel workers out of
    each other's way.
    """
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

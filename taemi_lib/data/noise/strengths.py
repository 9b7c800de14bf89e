"""What all degradations share: strengths that are checked, and pieces of time that are lost."""

from __future__ import annotations

import numpy as np

from taemi_lib.errors import ChoiceError


def checked(
    noise: str, strength: float, least: float = 0.0, most: float = 1.0, what: str = "a share"
) -> float:
    """The strength as a float. Raises ChoiceError (a ValueError) outside least..most and for what
    is no number."""
    try:
        value = float(strength)
    except (TypeError, ValueError):
        value = float("nan")
    if not least <= value <= most:
        raise ChoiceError(
            f"{noise}: strength is {strength!r}, expected {what} from {least:g} to {most:g}"
        )
    return value


def in_lost_pieces(
    times: np.ndarray,
    end: float,
    share: float,
    shortest: float,
    longest: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Which of the moments `times` (N,) in s, all in 0..`end`, lie in pieces that are lost, (N,)
    bool.

    The time from 0 to `end` is cut into pieces of `shortest` to `longest` s, of which the last ends
    with the clip. They are lost in a drawn order, until as near to the share of the time is lost as
    whole pieces allow: the same numbers lose more at a larger share, and never others.
    """
    edges = np.cumsum(rng.uniform(shortest, longest, int(np.ceil(end / shortest)) + 1))
    edges = np.append(edges[edges < end], end)
    order = rng.permutation(len(edges))
    lost_by_then = np.append(0.0, np.cumsum(np.diff(edges, prepend=0.0)[order]))
    count = int(np.abs(lost_by_then - share * end).argmin())
    lost = np.zeros(len(edges), bool)
    lost[order[:count]] = True
    piece = np.searchsorted(edges, times, side="right")
    return lost[piece.clip(max=len(edges) - 1)]

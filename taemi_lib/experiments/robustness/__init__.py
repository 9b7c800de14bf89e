"""What becomes of systems when modalities are missing or noisy: conditions, noisy clips, what every
system says under each (measure), and the tables of it (curves)."""

from taemi_lib.experiments.robustness.conditions import (
    COMPLETE,
    LEVELS,
    LOSSES,
    MIXED,
    NOISE,
    PLANS,
    PROTOCOLS,
    RATES,
    SUBSETS,
    Condition,
    Mixed,
    Noisy,
    Plan,
    draw,
    lossy,
)
from taemi_lib.experiments.robustness.curves import areas, check_tables, points, shown, write
from taemi_lib.experiments.robustness.measure import Robustness, clips_under

__all__ = [
    "COMPLETE",
    "LEVELS",
    "LOSSES",
    "MIXED",
    "NOISE",
    "PLANS",
    "PROTOCOLS",
    "RATES",
    "SUBSETS",
    "Condition",
    "Mixed",
    "Noisy",
    "Plan",
    "Robustness",
    "areas",
    "check_tables",
    "clips_under",
    "draw",
    "lossy",
    "points",
    "shown",
    "write",
]

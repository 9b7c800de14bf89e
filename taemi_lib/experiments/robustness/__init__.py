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
    TRAINING,
    Condition,
    Mixed,
    Noisy,
    Plan,
    draw,
    lossy,
)
from taemi_lib.experiments.robustness.curves import areas, check_tables, points, shown, write
from taemi_lib.experiments.robustness.effects import (
    training_effects,
    training_levels,
    write_effects,
)
from taemi_lib.experiments.robustness.measure import Robustness, clips_under
from taemi_lib.experiments.robustness.trained import ARMS, Arms

__all__ = [
    "ARMS",
    "COMPLETE",
    "LEVELS",
    "LOSSES",
    "MIXED",
    "NOISE",
    "PLANS",
    "PROTOCOLS",
    "RATES",
    "SUBSETS",
    "TRAINING",
    "Arms",
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
    "training_effects",
    "training_levels",
    "write",
    "write_effects",
]

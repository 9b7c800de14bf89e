"""What becomes of systems when modalities are missing or noisy: conditions, noisy clips, training
for it (trained), what every system says under each condition (measure), the tables of it (curves,
effects), and where these lie (written)."""

from taemi_lib.experiments.robustness.conditions import (
    COMPLETE,
    LEVELS,
    LOSSES,
    MIXED,
    MIXED_NOISES,
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
from taemi_lib.experiments.robustness.curves import areas, points, shown
from taemi_lib.experiments.robustness.effects import (
    training_effects,
    training_levels,
)
from taemi_lib.experiments.robustness.measure import Robustness, clips_under
from taemi_lib.experiments.robustness.trained import ARMS, Arms
from taemi_lib.experiments.robustness.written import check_tables, write

__all__ = [
    "ARMS",
    "COMPLETE",
    "LEVELS",
    "LOSSES",
    "MIXED",
    "MIXED_NOISES",
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
]

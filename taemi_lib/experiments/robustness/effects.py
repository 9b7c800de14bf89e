"""The tables of the experiment with training: every arm on every curve, and what tokens, modality
dropout and spoiled training clips are worth, each with an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from taemi_lib.evaluation import comparing
from taemi_lib.experiments.robustness.conditions import CLEAN, Condition, Noisy
from taemi_lib.experiments.robustness.curves import level, told
from taemi_lib.experiments.robustness.measure import Robustness
from taemi_lib.experiments.robustness.trained import ARMS, DROPOUT, Arm

Chosen = Callable[[Arm], bool]
ON, OFF = "spoiled clips", "clips as they are"  # what was trained on
# What is compared: (what it is worth, under which training, with it, without it); the mean of the
# arms of each side.
EFFECTS: list[tuple[str, str, Chosen, Chosen]] = [
    *(
        (
            "missing tokens",
            where,
            lambda arm, spoiled=spoiled: arm.spoiled == spoiled and arm.tokens,
            lambda arm, spoiled=spoiled: arm.spoiled == spoiled and not arm.tokens,
        )
        for where, spoiled in ((OFF, False), (ON, True))
    ),
    *(
        (
            f"modality dropout {rate:g}",
            where,
            lambda arm, spoiled=spoiled, rate=rate: arm.spoiled == spoiled and arm.dropout == rate,
            lambda arm, spoiled=spoiled: arm.spoiled == spoiled and arm.dropout == 0,
        )
        for where, spoiled in ((OFF, False), (ON, True))
        for rate in DROPOUT[1:]
    ),
    (
        "spoiled clips",
        "no modality dropout",
        lambda arm: arm.spoiled and arm.dropout == 0,
        lambda arm: not arm.spoiled and arm.dropout == 0,
    ),
    ("spoiled clips", "any dropout", lambda arm: arm.spoiled, lambda arm: not arm.spoiled),
]


def training_effects(measured: Robustness) -> pd.DataFrame:
    """A row for each curve (and complete clips) and effect: curve, of, under; delta (mean height
    with it, minus without), p, p_holm, low, high, verdict; the effects of a curve are a family.

    A seed has the same first weights and batches in all arms, so a difference is taken seed by
    seed, and what seeds have in common cancels.
    """
    rows = []
    for curve in ((), *measured.plan.curves):
        found = {
            (of, under): comparing.from_zero(
                comparing.combined(
                    [*_mean(measured, curve, with_it, 1), *_mean(measured, curve, without, -1)]
                )
            )
            for of, under, with_it, without in EFFECTS
        }
        family = comparing.holm(found)
        for of, under, *_ in EFFECTS:
            named: dict[str, float | str] = {"curve": title(curve), "of": of, "under": under}
            rows.append(named | told(family[of, under]))
    return pd.DataFrame(rows)


def training_levels(measured: Robustness) -> pd.DataFrame:
    """A row for each curve (and complete clips) and arm: curve, arm, tokens, dropout, spoiled; area
    (mean height) and sd over seeds."""
    rows = []
    for curve in ((), *measured.plan.curves):
        for arm in ARMS:
            rows.append(
                {
                    "curve": title(curve),
                    "arm": arm.name,
                    "tokens": arm.tokens,
                    "dropout": arm.dropout,
                    "spoiled": arm.spoiled,
                }
                | level(_height(measured, curve, arm), "area")
            )
    return pd.DataFrame(rows)


def title(curve: Sequence[Condition | Noisy]) -> str:
    """ "whole audio+vision+text", "noise babble", or "complete" for no curve."""
    if not curve:
        return CLEAN
    first = curve[0]
    return (
        f"noise {first.noise}"
        if isinstance(first, Noisy)
        else " ".join(str(value) for value in first.curve.values())
    )


def _height(measured: Robustness, curve: Sequence[Condition | Noisy], arm: Arm) -> comparing.Rho:
    if not curve:
        return measured.rho(measured.plan.complete, arm.name)
    return measured.height(curve, arm.name)


def _mean(
    measured: Robustness, curve: Sequence[Condition | Noisy], chosen: Chosen, sign: int
) -> list[tuple[float, comparing.Rho]]:
    arms = [arm for arm in ARMS if chosen(arm)]
    return [(sign / len(arms), _height(measured, curve, arm)) for arm in arms]

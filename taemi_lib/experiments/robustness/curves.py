"""The tables of a robustness measurement: every condition, every curve, with intervals. Those of
losses and those of noise have the same columns behind the ones that name a condition (`Plan`)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from taemi_lib.evaluation import comparing
from taemi_lib.experiments.plan import REFERENCE
from taemi_lib.experiments.robustness.conditions import AnyCondition, Noisy
from taemi_lib.experiments.robustness.measure import Robustness
from taemi_lib.experiments.tables import readable_p


def points(measured: Robustness) -> pd.DataFrame:
    """A row for each condition and system: protocol, lost, rate (noise, level, strength), system;
    rho (mean over seeds) and sd; drop from complete clips with its interval; over_missing, under
    noise only: minus what it is without all that the noise reaches; delta (system minus
    the reference under the same condition), p alone, p_holm, low, high, verdict in a family: all
    systems and conditions of one curve, or of the subsets; on_event_audio and on_event_vision:
    attention on the event that counts, over that on the decoy, where this is known."""
    plan, rows = measured.plan, []
    for family in ((plan.complete,), plan.alone, *plan.curves):
        names = [(condition, system) for condition in family for system in measured.systems]
        against = _against_reference(
            {
                (condition, system): (
                    measured.rho(condition, system),
                    measured.rho(condition, REFERENCE),
                )
                for condition, system in names
                if system != REFERENCE
            }
        )
        rows += [
            condition.key
            | {"system": system}
            | level(measured.rho(condition, system), "rho")
            | _drop(measured.drop(condition, system))
            | _over_missing(measured, condition, system)
            | against.get((condition, system), {})
            | {
                f"on_event_{name}": ratio
                for name, ratio in measured.attention(condition, system).items()
            }
            for condition, system in names
        ]
    return pd.DataFrame(rows)


def areas(measured: Robustness) -> pd.DataFrame:
    """A row for each curve and system: protocol, lost (noise), system; area (the curve's mean
    height, from complete clips to its last condition) and sd; drop: area minus complete clips;
    delta to the reference's area and so on as in `points`, each curve a family."""
    rows = []
    for curve in measured.plan.curves:
        heights = {system: measured.height(curve, system) for system in measured.systems}
        against = _against_reference(
            {
                system: (height, heights[REFERENCE])
                for system, height in heights.items()
                if system != REFERENCE
            }
        )
        for system, height in heights.items():
            complete = (-1.0, measured.rho(measured.plan.complete, system))
            rows.append(
                curve[0].curve
                | {"system": system}
                | level(height, "area")
                | _drop(comparing.combined([(1.0, height), complete]))
                | against.get(system, {})
            )
    return pd.DataFrame(rows)


def shown(measured: Robustness) -> pd.DataFrame:
    """A row for each condition: protocol, lost, rate (noise, level, strength); clips: a fingerprint
    of the numbers that every system was shown; audio, vision, text: how many of the test clips have
    it; heard: how many say the words that they say when they are complete."""
    rows = []
    for condition in measured.plan.conditions:
        about = measured.about(condition)
        rows.append(condition.key | {"clips": about["clips"]} | about["there"])
    return pd.DataFrame(rows)


def level(rho: comparing.Rho, name: str) -> dict[str, float]:
    """Mean and sd over seeds as fields of a row."""
    sd = float(rho.seeds.std(ddof=1)) if len(rho.seeds) > 1 else float("nan")
    return {name: rho.mean, "sd": sd}


def _drop(drop: comparing.Rho) -> dict[str, float]:
    found = comparing.from_zero(drop)
    return {"drop": found.delta, "drop_low": found.low, "drop_high": found.high}


def _over_missing(measured: Robustness, condition: AnyCondition, system: str) -> dict[str, float]:
    if not (isinstance(condition, Noisy) and condition.level):
        return {}
    found = comparing.from_zero(measured.over_missing(condition, system))
    name = "over_missing"
    return {name: found.delta, f"{name}_low": found.low, f"{name}_high": found.high}


def _against_reference(
    pairs: Mapping[comparing.Name, tuple[comparing.Rho, comparing.Rho]],
) -> dict[comparing.Name, dict]:
    """One family as fields of a row."""
    family = comparing.holm({key: comparing.compare(*pair) for key, pair in pairs.items()})
    return {key: told(found) for key, found in family.items()}


def told(found: comparing.Comparison) -> dict[str, float | str]:
    """A comparison of a family as fields of a row."""
    return {
        "delta": found.delta,
        "p": readable_p(found.p),
        "p_holm": readable_p(found.p_holm or 0.0),
        "low": found.low,
        "high": found.high,
        "verdict": found.verdict,
    }

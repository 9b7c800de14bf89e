"""The tables of a robustness measurement: every condition, every curve, with intervals. Those of
losses and those of noise have the same columns behind the ones that name a condition (`Plan`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from taemi_lib.errors import RunError
from taemi_lib.evaluation import comparing
from taemi_lib.experiments.plan import REFERENCE
from taemi_lib.experiments.robustness.measure import Robustness
from taemi_lib.experiments.tables import read_rows, readable_p, write_table
from taemi_lib.profiles import resolve
from taemi_lib.support import files

DRAWS = "draws.csv"


def points(measured: Robustness) -> pd.DataFrame:
    """A row for each condition and system: protocol, lost, rate (noise, level, strength), system;
    rho (mean over seeds) and sd; drop from complete clips with its interval; delta (system minus
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
            | _level(measured.rho(condition, system), "rho")
            | _drop(measured.drop(condition, system))
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
                | _level(height, "area")
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


def check_tables(measured: Robustness, folder: str | Path) -> None:
    """Raises RunError when `write` would lose systems of this folder; nothing needs to be
    measured."""
    path = resolve(folder) / f"{measured.plan.prefix}points.csv"
    there = set(read_rows(path)["system"]) if path.exists() else set()
    if lost := sorted(there - set(measured.systems)):
        raise RunError(
            f"{folder} holds also {', '.join(lost)}: name them too, or give another folder"
        )


def write(measured: Robustness, folder: str | Path) -> Path:
    """points.csv, areas.csv, conditions.csv (noise_points.csv, ...) and draws.csv, sorted and
    rounded: the same runs give the same files. Raises RunError, and writes nothing, over tables of
    other clips or of systems that this does not have."""
    check_tables(measured, folder)
    tables = {"points": points(measured), "conditions": shown(measured)}
    if measured.plan.curves:
        tables["areas"] = areas(measured)
    return keep(measured, tables, folder)


def keep(measured: Robustness, tables: Mapping[str, pd.DataFrame], folder: str | Path) -> Path:
    """Tables of a measurement into a folder, and the draws beside them. Raises RunError over the
    draws of other clips."""
    folder = resolve(folder)
    draws = _exact(measured.draws)
    if (folder / DRAWS).exists() and (folder / DRAWS).read_bytes() != draws:
        raise RunError(f"{folder} holds the results of other clips: give another folder for these")
    folder.mkdir(parents=True, exist_ok=True)
    files.sweep(folder)
    for name, table in tables.items():
        write_table(folder / f"{measured.plan.prefix}{name}.csv", table)
    files.write_bytes(folder / DRAWS, draws)
    return folder


def _exact(draws: pd.DataFrame) -> bytes:
    """The draws as they are used: six digits."""
    return draws.reset_index().to_csv(index=False, lineterminator="\n").encode()


def _level(rho: comparing.Rho, name: str) -> dict[str, float]:
    sd = float(rho.seeds.std(ddof=1)) if len(rho.seeds) > 1 else float("nan")
    return {name: rho.mean, "sd": sd}


def _drop(drop: comparing.Rho) -> dict[str, float]:
    found = comparing.from_zero(drop)
    return {"drop": found.delta, "drop_low": found.low, "drop_high": found.high}


def _against_reference(
    pairs: Mapping[comparing.Name, tuple[comparing.Rho, comparing.Rho]],
) -> dict[comparing.Name, dict]:
    """One family as fields of a row."""
    family = comparing.holm({key: comparing.compare(*pair) for key, pair in pairs.items()})
    return {
        key: {
            "delta": found.delta,
            "p": readable_p(found.p),
            "p_holm": readable_p(found.p_holm or 0.0),
            "low": found.low,
            "high": found.high,
            "verdict": found.verdict,
        }
        for key, found in family.items()
    }

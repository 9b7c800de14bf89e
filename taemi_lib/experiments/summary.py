"""A study as text, for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from taemi_lib.experiments.plan import REFERENCE
from taemi_lib.experiments.space import OWN, SPACE
from taemi_lib.experiments.study import Study
from taemi_lib.experiments.tables import KEY, OFFICIAL, TEST, read_rows
from taemi_lib.profiles import Profile
from taemi_lib.support.differences import flat

# comparisons that no column of a system's own row can hold
APART = {
    "table3_masked": "under missing masks",
    "primary": "primary hypothesis, alone",
}


def summary(study: Study, comparisons: pd.DataFrame | None = None) -> str:
    """A study as a text table for each regime: scores over seeds, difference to the reference,
    verdict, cost. comparisons: those of a larger family, as in comparisons.csv beside other
    systems; by default the study's own."""
    lines: list[str] = []
    found = study.comparisons if comparisons is None else comparisons
    for regime, systems in study.systems.items():
        scores = study.scores[study.scores["regime"] == regime]
        compared = found[(found["regime"] == regime) & found["system"].isin(systems)]
        lines += _heading(regime, len(study.seeds))
        lines += [_row(system, scores, compared) for system in systems]
        for table, said in APART.items():
            lines += [
                f"  {said}: {row.system} - {row.reference} {row.delta:+.3f} {_interval(row)} "
                f"p {row.p_holm:.2g}, {row.verdict}"
                for row in compared[compared["table"] == table].itertuples()
            ]
        lines += _field(regime, study)
        lines.append("")
    if len(study.seeds) == 1:
        lines.append(
            "One seed only: the intervals know of clips, not of seeds, and are too narrow."
        )
    return "\n".join(lines).rstrip()


def _heading(regime: str, seeds: int) -> list[str]:
    return [
        f"regime {regime}: mean rho over {seeds} seeds, test split; "
        f"differences to {REFERENCE}, Holm intervals",
        f"  {'system':28} {'rho':>5} {'SD':>5} {'official':>8}  "
        f"{'difference':>10} {'interval':>16} {'p':>7}  "
        f"{'verdict':24} {'parameters':>10} {'CPU s':>7} {'rate':>7}",
    ]


def _row(system: str, scores: pd.DataFrame, compared: pd.DataFrame) -> str:
    own = scores[scores["system"] == system]
    test, official = (own[own["split"] == split]["mean_rho"] for split in (TEST, OFFICIAL))
    spread = f"{test.std():.3f}"[1:] if len(test) > 1 else "-"
    said = "the reference" if system == REFERENCE else ""
    difference = f"{'':10} {'':16} {'':7}  {said:24}"
    rows = compared[
        (compared["system"] == system)
        & (compared["reference"] == REFERENCE)
        & ~compared["table"].isin(["table3_masked"])
    ]
    for row in rows.itertuples():
        difference = f"{row.delta:+10.3f} {_interval(row):>16} {row.p_holm:7.2g}  {row.verdict:24}"
    return (
        f"  {system:28} {test.mean():5.3f} {spread:>5} {official.mean():8.3f}  {difference} "
        f"{own['parameters'].iloc[0]:10,} {own['cpu_seconds'].mean():7.1f} "
        f"{own['learning_rate'].iloc[0]:7g}"
    )


def _field(regime: str, study: Study) -> list[str]:
    """What the task's own field scores, as means over seeds; nothing for a task of intensities."""
    table = study.field_scores
    table = table[(table["regime"] == regime) & (table["split"] == TEST)]
    names = [name for name in table.columns if name not in KEY]
    if not names:
        return []
    means = table.groupby("system", sort=False)[names].mean()
    lines = ["  the field's scores, means over seeds, test split (not what was compared above):"]
    lines.append(f"  {'system':28} " + " ".join(f"{name:>11}" for name in names))
    for system in study.systems[regime]:
        values = " ".join(f"{value:11.3f}" for value in means.loc[system])
        lines.append(f"  {system:28} {values}")
    return lines


def _interval(row: Any) -> str:
    return f"[{row.low:+.3f}, {row.high:+.3f}]"


def search_summary(table: pd.DataFrame, profile: Profile) -> str:
    """What a search chose for each system, beside what it cost; a row each."""
    lines = []
    what, short = ("mean rho", "rho") if profile.task.selects == "rho" else ("-MAE", "-MAE")
    for regime, rows in table.groupby("regime", sort=False):
        lines.append(
            f"regime {regime}: best {what} on the selection split, mean over two seeds\n"
            f"  {'system':28} {short:>5}  {'whole':>5} {'cut':>4} {'epochs':>6} {'CPU s':>6}  "
            "settings, beside the profile's"
        )
        for system, trials in rows.groupby("system", sort=False):
            (best,) = trials[trials["chosen"]].to_dict("records")
            ended = trials["ended"].value_counts()
            lines.append(
                f"  {system:28} {best['score']:5.3f}  {ended.get('whole', 0):5} "
                f"{ended.get('cut', 0):4} {trials['epochs'].sum():6} "
                f"{trials['cpu_seconds'].sum():6.0f}  {_beside(best, profile)}"
            )
    return "\n".join(lines)


def _beside(row: dict, profile: Profile) -> str:
    there = flat(profile.as_dict())
    told = {name: row[name] for name in SPACE if row[name] != there[name]}
    own = [row[OWN]] if row[OWN] else []
    return ", ".join([*(f"{name}={value:g}" for name, value in told.items()), *own]) or "the same"


def robustness_summary(folder: Path, prefix: str) -> str:
    """The tables of `taemi robustness` as text, those that begin with this prefix; "" for a plan
    without curves."""
    for name, told in (("effects", _effects), ("areas", _areas)):
        if (path := folder / f"{prefix}{name}.csv").exists():
            return told(read_rows(path))
    return ""


def _effects(effects: pd.DataFrame) -> str:
    """A line for each curve and effect."""
    lines = []
    for curve, rows in effects.groupby("curve", sort=False):
        lines.append(f"{curve}: difference in mean rho, Holm intervals")
        for row in rows.itertuples():
            what = f"{row.of} ({row.under})"
            lines.append(f"  {what:44} {row.delta:+z.3f} {_interval(row)} {row.verdict}")
        lines.append("")
    return "\n".join(lines).rstrip()


def _areas(areas: pd.DataFrame) -> str:
    """A line for each curve and system."""
    lines = []
    columns = ["noise"] if "noise" in areas else ["protocol", "lost"]
    for key, rows in areas.groupby(columns, sort=False):
        if len(key) == 1:
            title = f"noise ({key[0]}): mean rho over the strengths, from none to the fifth"
        else:
            what = "modalities" if key[0] == "whole" else "time steps"
            title = f"{what} lost ({key[1]}): mean rho over the rates 0 to 0.9"
        lines.append(f"{title}, and difference to {REFERENCE}, Holm intervals")
        for row in rows.itertuples():
            own = f"  {row.system:28} {row.area:.3f}  ({row.drop:+z.3f} from complete clips)"
            if row.system != REFERENCE:
                own += f"  {row.delta:+z.3f} {_interval(row)} {row.verdict}"
            lines.append(own)
        lines.append("")
    return "\n".join(lines).rstrip()

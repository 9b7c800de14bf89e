"""The tables of a measurement, in a folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from taemi_lib.errors import RunError
from taemi_lib.experiments.robustness.curves import areas, points, shown
from taemi_lib.experiments.robustness.effects import training_effects, training_levels
from taemi_lib.experiments.robustness.measure import Robustness
from taemi_lib.experiments.robustness.trained import Arms
from taemi_lib.experiments.tables import read_rows, write_table
from taemi_lib.profiles import resolve
from taemi_lib.support import files

DRAWS = "draws.csv"


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
    """points.csv, areas.csv and conditions.csv, with the plan's prefix (of arms effects.csv,
    levels.csv and conditions.csv), and draws.csv; sorted and rounded: the same runs give the same
    files. Raises RunError, and writes nothing, over tables of other clips or of systems that this
    does not have."""
    check_tables(measured, folder)
    folder = resolve(folder)
    draws = _exact(measured.draws)
    if (folder / DRAWS).exists() and (folder / DRAWS).read_bytes() != draws:
        raise RunError(f"{folder} holds the results of other clips: give another folder for these")
    tables = {"conditions": shown(measured)}
    if isinstance(measured.study, Arms):
        tables |= {"effects": training_effects(measured), "levels": training_levels(measured)}
    else:
        tables["points"] = points(measured)
        if measured.plan.curves:
            tables["areas"] = areas(measured)
    folder.mkdir(parents=True, exist_ok=True)
    files.sweep(folder)
    for name, table in tables.items():
        write_table(folder / f"{measured.plan.prefix}{name}.csv", table)
    files.write_bytes(folder / DRAWS, draws)
    return folder


def _exact(draws: pd.DataFrame) -> bytes:
    """The draws as they are used: six digits."""
    return draws.reset_index().to_csv(index=False, lineterminator="\n").encode()

"""The study of the course: every system searched, the whole grid with what was chosen, and what
stands beside it. `taemi grid` makes results/ with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from taemi_lib import models
from taemi_lib.experiments.plan import (
    EVERYWHERE,
    NULL_SYSTEMS,
    REFERENCE,
    SIZE_SYSTEMS,
    SIZES,
    TABLES,
)
from taemi_lib.experiments.search import (
    TRIALS,
    chosen,
    given,
    refuse_unequal,
    search_all,
    write_search,
)
from taemi_lib.experiments.study import Study
from taemi_lib.experiments.tables import COLUMNS, TEST, compared, write_table
from taemi_lib.workspace import Workspace


def whole_plan(workspace: Workspace) -> dict[str, tuple[str, ...]]:
    """{regime: systems}: all systems in the first regime, also those that are in none of the plan's
    tables; those of EVERYWHERE in the others."""
    first, *further = workspace.label_sets
    planned = (REFERENCE, *(system for table in TABLES.values() for system in table))
    everything = (*planned, *(name for name in models.names() if name not in planned))
    return {first: everything} | {regime: EVERYWHERE for regime in further}


def make_whole(
    workspace: Workspace,
    folder: str | Path,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    trials: int = TRIALS,
    part: tuple[int, int] = (1, 1),
) -> Study | None:
    """Search, train and compare everything, and write all tables into a folder; what is there is
    not made again. None while other parts are still to be made elsewhere.

    Raises RunError, before anything is trained, when the folder would lose scores.
    """
    plan = whole_plan(workspace)
    grid = Study(workspace, plan, seeds, part)
    grid.check_tables(folder)
    refuse_unequal(given(plan, workspace.label_sets[0], trials), folder)
    table = search_all(workspace, plan, trials, part)
    if table is None:
        return None
    grid = replace(grid, settings=chosen(table))
    if not grid.run() or not run_beside(grid):
        return None
    written = grid.write(folder)
    write_search(table, written / "search.csv")
    write_table(written / "training_size.csv", training_sizes(grid))
    write_table(written / "planted_null.csv", planted_null(grid))
    return grid


def fewer_clips(grid: Study) -> dict[int, Study]:
    """{number of training clips: SIZE_SYSTEMS trained on so many}, with the settings that the grid
    has; only sizes that there are."""
    return {
        count: replace(
            grid,
            workspace=grid.workspace.changed({"data.train_clips": count}),
            systems={grid.workspace.label_sets[0]: SIZE_SYSTEMS},
        )
        for count in SIZES
        if count < grid.train_clips
    }


def other_seeds(grid: Study) -> Study:
    """NULL_SYSTEMS with seeds that the grid does not have: nothing but chance tells them from the
    grid's own."""
    first = max(grid.seeds) + 1
    seeds = tuple(range(first, first + len(grid.seeds)))
    return replace(grid, systems={grid.workspace.label_sets[0]: NULL_SYSTEMS}, seeds=seeds)


def run_beside(grid: Study) -> bool:
    """Make what is missing of the training sizes and the planted null; the grid must be complete.

    False: other parts are missing.
    """
    return all([study.run() for study in (*fewer_clips(grid).values(), other_seeds(grid))])


def training_sizes(grid: Study) -> pd.DataFrame:
    """train_clips, system, seed, mean_rho on the test split; the last size is all clips: the grid's
    own runs."""
    regime, rows = grid.workspace.label_sets[0], []
    for count, study in fewer_clips(grid).items():
        rows.append(study.scores.assign(train_clips=count))
    complete = grid.scores[
        (grid.scores["regime"] == regime) & grid.scores["system"].isin(SIZE_SYSTEMS)
    ]
    rows.append(complete.assign(train_clips=grid.train_clips))
    table = pd.concat(rows)
    columns = ["train_clips", "system", "seed", "mean_rho"]
    return table[table["split"] == TEST][columns].sort_values(columns[:3], ignore_index=True)


def planted_null(grid: Study) -> pd.DataFrame:
    """Rows as in comparisons.csv, each a system against itself with other seeds. Whatever is called
    a difference here is a mistake."""
    regime, twin = grid.workspace.label_sets[0], other_seeds(grid)
    pairs = {
        (name, name): (twin.rho(regime, name), grid.rho(regime, name)) for name in NULL_SYSTEMS
    }
    return pd.DataFrame(compared(regime, "planted_null", pairs), columns=COLUMNS)

"""The study of the course: the whole grid, and what stands beside it. `taemi grid` makes results/
with it."""

from __future__ import annotations

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
from taemi_lib.experiments.study import Study
from taemi_lib.experiments.tables import COLUMNS, TEST, compared, write_table
from taemi_lib.profiles import resolve
from taemi_lib.workspace import Workspace


def whole_grid(workspace: Workspace, **options) -> Study:
    """All systems in the first regime, also those that are in none of the plan's tables; those of
    EVERYWHERE in the others. options: Study's, such as seeds."""
    first, *others = workspace.label_sets
    planned = (REFERENCE, *(system for table in TABLES.values() for system in table))
    everything = (*planned, *(name for name in models.names() if name not in planned))
    return Study(
        workspace, {first: everything} | {regime: EVERYWHERE for regime in others}, **options
    )


def fewer_clips(grid: Study) -> dict[int, Study]:
    """{number of training clips: SIZE_SYSTEMS trained on so many}, with the rates that the grid has
    chosen; only sizes that there are."""
    return {
        count: replace(
            grid,
            workspace=grid.workspace.changed({"data.train_clips": count}),
            systems={grid.search_regime: SIZE_SYSTEMS},
            settings=grid.chosen,
        )
        for count in SIZES
        if count < grid.train_clips
    }


def other_seeds(grid: Study) -> Study:
    """NULL_SYSTEMS with seeds that the grid does not have: nothing but chance tells them from the
    grid's own."""
    first = max(grid.seeds) + 1
    seeds = tuple(range(first, first + len(grid.seeds)))
    return replace(
        grid, systems={grid.search_regime: NULL_SYSTEMS}, seeds=seeds, settings=grid.chosen
    )


def reference_rate(grid: Study) -> Study:
    """Systems that chose another learning rate than the reference, with the reference's, in the
    regimes in which nothing was searched.

    Does it matter that the rate was chosen in the first regime, whose task some of them cannot
    solve?
    """
    systems = {
        regime: (
            REFERENCE,
            *(
                name
                for name in names
                if grid.chosen[regime, name] != grid.chosen[regime, REFERENCE]
            ),
        )
        for regime, names in grid.systems.items()
        if regime != grid.search_regime
    }
    settings = {(regime, name): grid.chosen[regime, REFERENCE] for regime, name in grid.chosen}
    return replace(grid, systems=systems, settings=settings)


def run_beside(grid: Study) -> bool:
    """Make what is missing of the training sizes, the planted null and the other rates; the grid
    must be complete.

    False: other parts are missing.
    """
    return all(
        [
            study.run()
            for study in (*fewer_clips(grid).values(), other_seeds(grid), reference_rate(grid))
        ]
    )


def training_sizes(grid: Study) -> pd.DataFrame:
    """train_clips, system, seed, mean_rho on the test split; the last size is all clips: the grid's
    own runs."""
    regime, rows = grid.search_regime, []
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
    regime, twin = grid.search_regime, other_seeds(grid)
    pairs = {
        (name, name): (twin.rho(regime, name), grid.rho(regime, name)) for name in NULL_SYSTEMS
    }
    return pd.DataFrame(compared(regime, "planted_null", pairs), columns=COLUMNS)


def write_beside(grid: Study, folder: str | Path = "results") -> Path:
    """training_size.csv, planted_null.csv and reference_rate.csv (columns as in
    comparisons.csv)."""
    folder = resolve(folder)
    write_table(folder / "training_size.csv", training_sizes(grid))
    write_table(folder / "planted_null.csv", planted_null(grid))
    write_table(folder / "reference_rate.csv", reference_rate(grid).comparisons)
    return folder

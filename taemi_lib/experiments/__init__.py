"""Experiments: what is compared with what (plan), each system's own best settings (space, search),
missing masks, a grid of runs (study), its tables and predictions (recheck), the course's own grid
(whole)."""

from taemi_lib.experiments.plan import (
    EVERYWHERE,
    MASKED,
    NULL_SYSTEMS,
    PRIMARY,
    REFERENCE,
    SIZE_SYSTEMS,
    SIZES,
    TABLES,
)
from taemi_lib.experiments.recheck import read_predictions
from taemi_lib.experiments.search import Search, best_after, best_of, chosen, read_table
from taemi_lib.experiments.study import Study
from taemi_lib.experiments.summary import search_summary, summary
from taemi_lib.experiments.tables import MASKED_TEST, OFFICIAL, TEST, read_rows
from taemi_lib.experiments.whole import (
    planted_null,
    run_beside,
    training_sizes,
    whole_grid,
    write_beside,
)

__all__ = [
    "EVERYWHERE",
    "MASKED",
    "MASKED_TEST",
    "NULL_SYSTEMS",
    "OFFICIAL",
    "PRIMARY",
    "REFERENCE",
    "SIZES",
    "SIZE_SYSTEMS",
    "TABLES",
    "TEST",
    "Search",
    "Study",
    "best_after",
    "best_of",
    "chosen",
    "planted_null",
    "read_predictions",
    "read_rows",
    "read_table",
    "run_beside",
    "search_summary",
    "summary",
    "training_sizes",
    "whole_grid",
    "write_beside",
]

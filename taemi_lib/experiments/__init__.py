"""Experiments: what is compared with what (plan), each system's own best settings (space, search),
missing masks, a grid of runs (study), its tables and predictions (recheck), the course's own grid
(whole), and what is left when modalities are missing or noisy (robustness/)."""

from taemi_lib.experiments.plan import (
    EVERYWHERE,
    MASKED,
    NULL_SYSTEMS,
    PRIMARY,
    REFERENCE,
    ROBUST,
    SIZE_SYSTEMS,
    SIZES,
    TABLES,
    VARIANT_OF,
)
from taemi_lib.experiments.recheck import read_predictions
from taemi_lib.experiments.search import (
    TRIALS,
    Search,
    best_after,
    best_of,
    chosen,
    given,
    given_in,
    read_table,
    refuse_unequal,
    search_all,
    write_search,
)
from taemi_lib.experiments.study import Study
from taemi_lib.experiments.summary import (
    robustness_summary,
    search_summary,
    summary,
)
from taemi_lib.experiments.tables import MASKED_TEST, OFFICIAL, TEST, read_rows
from taemi_lib.experiments.whole import make_whole, planted_null, training_sizes, whole_plan

__all__ = [
    "EVERYWHERE",
    "MASKED",
    "MASKED_TEST",
    "NULL_SYSTEMS",
    "OFFICIAL",
    "PRIMARY",
    "REFERENCE",
    "ROBUST",
    "SIZES",
    "SIZE_SYSTEMS",
    "TABLES",
    "TEST",
    "TRIALS",
    "VARIANT_OF",
    "Search",
    "Study",
    "best_after",
    "best_of",
    "chosen",
    "given",
    "given_in",
    "make_whole",
    "planted_null",
    "read_predictions",
    "read_rows",
    "read_table",
    "refuse_unequal",
    "robustness_summary",
    "search_all",
    "search_summary",
    "summary",
    "training_sizes",
    "whole_plan",
    "write_search",
]

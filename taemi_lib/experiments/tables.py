"""How a study is written: one family of comparisons as rows, tables as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from taemi_lib.errors import RunError
from taemi_lib.evaluation import comparing
from taemi_lib.support import files

TEST, MASKED_TEST = "test", "test_masked"
# selected and reported on the same split: too good, kept to show by how much
OFFICIAL = "selection_official_style"
KEY = ["regime", "system", "seed", "split"]
COLUMNS = ["regime", "table", "system", "reference", "delta", "low", "high", "p_holm", "verdict"]
SMALLEST_P = (
    1e-16  # what the tables say of anything smaller: no approximation knows its tails that far out
)


def compared(
    regime: str, table: str, pairs: Mapping[tuple[str, str], tuple[comparing.Rho, comparing.Rho]]
) -> list[dict]:
    """One family of comparisons as rows of comparisons.csv. pairs: {(system, reference): their
    Rho}"""
    alone: dict[tuple[str, str], comparing.Comparison] = {
        names: comparing.compare(*rhos) for names, rhos in pairs.items()
    }
    results = comparing.holm(alone)
    return [
        {
            "regime": regime,
            "table": table,
            "system": system,
            "reference": reference,
            "delta": result.delta,
            "low": result.low,
            "high": result.high,
            "p_holm": float(f"{max(result.p_holm or 0.0, SMALLEST_P):.2g}"),
            "verdict": result.verdict,
        }
        for (system, reference), result in results.items()
    ]


def table_bytes(table: pd.DataFrame) -> bytes:
    """CSV with scores to four digits, without the minus of a rounded zero."""
    exact = ("p_holm", "learning_rate", "seconds", "cpu_seconds")
    scores = [name for name in table.select_dtypes("float") if name not in exact]
    rounded = table.assign(**{name: table[name].round(4) + 0.0 for name in scores})
    return rounded.to_csv(index=False, lineterminator="\n").encode()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A table as CSV, written in one step."""
    files.write_bytes(path, table_bytes(table))


def readable_versions(found: Mapping[str, str]) -> str:
    """ "python 3.11.7, torch 2.13.0": without tags of local builds."""
    return ", ".join(f"{name} {number.partition('+')[0]}" for name, number in found.items())


def readable_costs(table: pd.DataFrame) -> pd.DataFrame:
    seconds = {name: table[name].round(1) for name in ("seconds", "cpu_seconds")}
    return table.assign(**seconds, peak_memory_mb=table["peak_memory_mb"].round().astype(int))


def refuse_to_lose(folder: Path, scores: set[tuple]) -> None:
    """Raises RunError when the folder's runs.csv holds others than these scores (values of KEY):
    writing there would lose them."""

    if not (folder / "runs.csv").exists():
        return
    lost = sorted(
        set(pd.read_csv(folder / "runs.csv")[KEY].itertuples(index=False, name=None)) - scores
    )
    if lost:
        raise RunError(
            f"{folder} holds {len(lost)} scores that this study does not have, "
            f"such as {' '.join(map(str, lost[0]))}: "
            "give another folder for its tables"
        )

"""How a study is written: one family of comparisons as rows, tables as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from taemi_lib.errors import RunError
from taemi_lib.evaluation import comparing
from taemi_lib.experiments.plan import MASKED, PRIMARY, REFERENCE, TABLES
from taemi_lib.support import files

PREDICTIONS, CLIPS = "predictions.parquet", "test_clips.csv"
TEST, MASKED_TEST = "test", "test_masked"
# selected and reported on the same split: too good, kept to show by how much
OFFICIAL = "selection_official_style"
KEY = ["regime", "system", "seed", "split"]
COLUMNS = ["regime", "table", "system", "reference", "delta", "low", "high", "p_holm", "verdict"]
Pair = tuple[str, str, str]  # system, reference, split
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
            "p_holm": readable_p(result.p_holm or 0.0),
            "verdict": result.verdict,
        }
        for (system, reference), result in results.items()
    ]


def readable_p(p: float) -> float:
    """Two digits, and none below SMALLEST_P."""
    return float(f"{max(p, SMALLEST_P):.2g}")


def families(systems: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], list[Pair]]:
    """{(regime, table): [(system, reference, split)]}: what is tested together. Systems of no
    table are in "others"."""
    found: dict[tuple[str, str], list[Pair]] = {}
    known = {REFERENCE, *(system for table in TABLES.values() for system in table)}
    for regime, here in systems.items():
        if REFERENCE not in here:
            continue
        others = tuple(system for system in here if system not in known)
        for table, members in (TABLES | {"others": others}).items():
            if pairs := [(system, REFERENCE, TEST) for system in members if system in here]:
                found[regime, table] = pairs
        masked = [system for system in MASKED if system in here and system != REFERENCE]
        if masked:
            found[regime, "table3_masked"] = [(name, REFERENCE, MASKED_TEST) for name in masked]
        primary, system, reference = PRIMARY
        if regime == primary and {system, reference} <= set(here):
            found[regime, "primary"] = [(system, reference, TEST)]
    return found


def table_bytes(table: pd.DataFrame) -> bytes:
    """CSV with scores to four digits, without the minus of a rounded zero. Settings, whose names
    have a dot, stay as they are: somebody trains with them."""
    exact = ("p", "p_holm", "learning_rate", "seconds", "cpu_seconds")
    floats = table.select_dtypes("float")
    scores = [name for name in floats if name not in exact and "." not in name]
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


def read_rows(path: Path) -> pd.DataFrame:
    """A table of a study. Only an empty field is missing: a system may be called null."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def others(there: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """The rows there that are of other systems than these; in the same regime, where there is
    one."""
    key = [name for name in ("regime", "system") if name in own]
    mine = pd.MultiIndex.from_frame(own[key])
    return there[~pd.MultiIndex.from_frame(there[key]).isin(mine)]


def beside(path: Path, own: pd.DataFrame) -> pd.DataFrame:
    """These rows, and those of other systems that lie in the table already; sorted by what names a
    row."""
    kept = others(read_rows(path), own) if path.exists() else own[:0]
    if not len(kept):
        return own
    rows = pd.concat([kept[list(own)], own])
    return rows.sort_values([name for name in KEY if name in own], kind="stable", ignore_index=True)


def refuse_to_lose(folder: Path, scores: set[tuple]) -> None:
    """Raises RunError when scores of the folder's runs.csv would be lost by writing these there
    (values of KEY): those of systems of which these are fewer, and those of others, if what they
    predicted does not lie beside them."""
    if not (folder / "runs.csv").exists():
        return
    there = set(read_rows(folder / "runs.csv")[KEY].itertuples(index=False, name=None)) - scores
    again = {score[:2] for score in scores}
    kept = {score for score in there if score[:2] not in again}
    if not (folder / PREDICTIONS).exists():
        kept = set()
    if lost := sorted(there - kept):
        raise RunError(
            f"{folder} holds {len(lost)} scores that this study does not have, "
            f"such as {' '.join(map(str, lost[0]))}: "
            "give another folder for its tables"
        )

"""How a study is written and printed: one family of comparisons as rows, tables as CSV, all of it
as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from taemi_lib.evaluation import comparing
from taemi_lib.experiments.plan import REFERENCE
from taemi_lib.support import files

if TYPE_CHECKING:
    from taemi_lib.experiments.study import Study

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
    results = comparing.holm({names: comparing.compare(*rhos) for names, rhos in pairs.items()})
    return [
        {
            "regime": regime,
            "table": table,
            "system": system,
            "reference": reference,
            "delta": result.delta,
            "low": result.low,
            "high": result.high,
            "p_holm": float(f"{max(result.p_holm, SMALLEST_P):.2g}"),
            "verdict": result.verdict,
        }
        for (system, reference), result in results.items()
    ]


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV with scores to four digits, without the minus of a rounded zero; written in one step."""
    exact = ("p_holm", "learning_rate", "seconds", "cpu_seconds")
    scores = [name for name in table.select_dtypes("float") if name not in exact]
    rounded = table.assign(**{name: table[name].round(4) + 0.0 for name in scores})
    files.write_bytes(path, rounded.to_csv(index=False, lineterminator="\n").encode())


def readable_versions(found: Mapping[str, str]) -> str:
    """ "python 3.11.7, torch 2.13.0": without tags of local builds."""
    return ", ".join(f"{name} {number.partition('+')[0]}" for name, number in found.items())


def readable_costs(table: pd.DataFrame) -> pd.DataFrame:
    seconds = {name: table[name].round(1) for name in ("seconds", "cpu_seconds")}
    return table.assign(**seconds, peak_memory_mb=table["peak_memory_mb"].round().astype(int))


def refuse_to_lose(folder: Path, scores: set[tuple]) -> None:
    """Raises RunError when the folder's runs.csv holds others than these scores (values of KEY):
    writing there would lose them."""
    from taemi_lib.training import RunError

    if not (folder / "runs.csv").exists():
        return
    lost = sorted(
        set(pd.read_csv(folder / "runs.csv")[KEY].itertuples(index=False, name=None)) - scores
    )
    if lost:
        raise RunError(
            f"{folder} holds {len(lost)} scores that this study does not have, such as {' '.join(map(str, lost[0]))}: "
            "give another folder for its tables"
        )


def summary(study: Study) -> str:
    """The comparisons as a text table for each regime: scores over seeds, difference to the
    reference, verdict, cost."""
    lines = []
    scores, compared = study.scores, study.comparisons
    for regime in study.systems:
        here = scores[scores["regime"] == regime]
        lines += [
            f"regime {regime}: mean rho over {len(study.seeds)} seeds, test split; differences to {REFERENCE}, Holm intervals",
            f"  {'system':28} {'rho':>5} {'SD':>5} {'official':>8}  {'difference':>10} {'interval':>16} {'p':>7}  "
            f"{'verdict':24} {'parameters':>10} {'CPU s':>7} {'rate':>7}",
        ]
        for system in study.systems[regime]:
            own = here[here["system"] == system]
            test, official = (own[own["split"] == split]["mean_rho"] for split in (TEST, OFFICIAL))
            spread = f"{test.std():.3f}"[1:] if len(test) > 1 else "-"
            cost = f"{own['parameters'].iloc[0]:10,} {own['cpu_seconds'].mean():7.1f} {own['learning_rate'].iloc[0]:7g}"
            rows = compared[
                (compared["regime"] == regime)
                & (compared["system"] == system)
                & (compared["reference"] == REFERENCE)
                & (compared["table"] != "table3_masked")
            ]
            difference = (
                f"{'':10} {'':16} {'':7}  {'the reference' if system == REFERENCE else '':24}"
            )
            for row in rows.itertuples():
                interval = f"[{row.low:+.3f}, {row.high:+.3f}]"
                difference = (
                    f"{row.delta:+10.3f} {interval:>16} {row.p_holm:7.2g}  {row.verdict:24}"
                )
            lines.append(
                f"  {system:28} {test.mean():5.3f} {spread:>5} {official.mean():8.3f}  {difference} {cost}"
            )
        for table, said in (
            ("table3_masked", "under missing masks"),
            ("primary", "primary hypothesis, alone"),
        ):
            for row in compared[
                (compared["regime"] == regime) & (compared["table"] == table)
            ].itertuples():
                interval = f"[{row.low:+.3f}, {row.high:+.3f}]"
                lines.append(
                    f"  {said}: {row.system} - {row.reference} {row.delta:+.3f} {interval} p {row.p_holm:.2g}, {row.verdict}"
                )
        lines.append("")
    if len(study.seeds) == 1:
        lines.append(
            "One seed only: the intervals know of clips, not of seeds, and are too narrow."
        )
    return "\n".join(lines).rstrip()

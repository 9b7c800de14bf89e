"""Predictions as a CSV that spreadsheets may open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from taemi_lib.prediction.answer import Prediction
from taemi_lib.support import files

# What a spreadsheet would compute (OWASP, "CSV injection"): a sign, also of full width, at the
# beginning of the cell, or behind what other countries' spreadsheets split cells at.
_COMPUTES = re.compile(
    r"(^|[;\t\r\n])([\s\0\ufeff\u200b]*[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?=[\t\r\n\0])"
)


def as_text(cell: str) -> str:
    """A cell that stays text in a spreadsheet: what would be a formula gets an apostrophe. What is
    no Unicode (bytes of a file's name) is written out."""
    text = cell.encode("utf-8", "backslashreplace").decode()
    return _COMPUTES.sub(lambda found: f"{found[1] or ''}'{found[2] or ''}", text)


def table(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row a clip: clip, the six values, their bounds (empty without an interval), whether it is
    outside, what is absent or incomplete and why, and the transcript. No values where nothing of
    the clip could be used."""
    rows = []
    for one in predictions:
        usable = not one.all_absent
        row: dict[str, object] = {"clip": as_text(one.clip)}
        row |= {name: value if usable else None for name, value in one.values.items()}
        for ending, bounds in (("low", one.low), ("high", one.high)):
            row |= {
                f"{name} {ending}": bounds[name] if usable and bounds else None
                for name in one.values
            }
        row["outside"] = ", ".join(one.outside.modalities) if one.outside else None
        for column, reasons in (("absent", one.absent), ("damaged", one.damaged)):
            row[column] = as_text("; ".join(f"{name}: {why}" for name, why in reasons.items()))
        row["transcript"] = None if one.transcript is None else as_text(one.transcript)
        rows.append(row)
    return pd.DataFrame(rows)


def write_table(predictions: Sequence[Prediction], path: str | Path) -> None:
    """`table` as CSV, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = table(predictions).to_csv(index=False, lineterminator="\n", float_format="%.6f")
    files.write_bytes(path, text.encode())

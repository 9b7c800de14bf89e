"""Scores that others published, to stand beside one's own on the same data. Copied, never computed
here: other code, other seeds, and systems that may train the text encoder along.

Source: github.com/thuiar/MMSA, results/result-stat.md at commit a239548 (section "Regression"),
where everything is in per cent, MAE and correlation too.
"""

from __future__ import annotations

import pandas as pd

SOURCE = "github.com/thuiar/MMSA, results/result-stat.md at commit a239548"
_COLUMNS = (
    *("acc_2_has0", "f1_has0", "acc_2_non0", "f1_non0"),
    *("acc_5", "acc_7", "mae", "corr"),
)
_MOSI = {
    "ef_lstm": (77.38, 77.4, 78.48, 78.44, 40.15, 35.39, 94.88, 66.9),
    "lf_dnn": (77.52, 77.58, 78.63, 78.63, 38.05, 34.52, 95.48, 65.84),
    "tfn": (77.99, 78.03, 79.08, 79.06, 39.39, 34.46, 94.73, 67.33),
    "lmf": (77.9, 78.0, 79.18, 79.2, 38.13, 33.82, 95.04, 65.1),
    "mfn": (77.67, 77.71, 78.87, 78.85, 40.47, 35.83, 92.68, 67.02),
    "graph_mfn": (77.14, 77.21, 78.35, 78.35, 38.63, 34.64, 95.57, 64.86),
    "mult": (79.71, 79.79, 80.98, 81.0, 42.68, 36.91, 87.99, 70.22),
    "misa": (81.84, 81.85, 83.54, 83.49, 47.08, 41.37, 77.65, 77.81),
    "self_mm": (83.0, 83.05, 84.82, 84.81, 52.66, 46.07, 72.44, 78.92),
}
_MOSEI = {
    "ef_lstm": (73.96, 73.45, 78.55, 78.75, 51.76, 50.49, 59.28, 68.93),
    "lf_dnn": (80.6, 80.35, 82.74, 82.95, 51.97, 50.83, 58.02, 70.87),
    "tfn": (78.5, 78.05, 81.89, 82.04, 53.1, 51.6, 57.26, 71.41),
    "lmf": (80.54, 80.14, 83.48, 83.6, 52.99, 51.59, 57.57, 71.69),
    "mfn": (78.94, 78.33, 82.86, 82.87, 52.76, 51.34, 57.33, 71.82),
    "graph_mfn": (81.28, 81.08, 83.48, 83.74, 52.69, 51.37, 57.45, 71.33),
    "mult": (81.15, 80.73, 84.63, 84.73, 54.18, 52.84, 55.93, 73.31),
    "misa": (80.67, 80.12, 84.67, 84.68, 53.63, 52.05, 55.75, 75.15),
    "self_mm": (81.94, 81.62, 84.88, 85.02, 56.06, 54.4, 53.46, 75.87),
}
# by their training clips, as MMSA's configuration has them
_DATA = {1284: ("MOSI", _MOSI), 16326: ("MOSEI", _MOSEI)}


def mmsa(train_clips: int) -> tuple[str, pd.DataFrame] | None:
    """The name of the data set with so many training clips, and MMSA's table of it: a row a system,
    columns and units as `evaluation.sentiment` has them. None for a data set that is not in it."""
    if train_clips not in _DATA:
        return None
    name, rows = _DATA[train_clips]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(_COLUMNS)) / 100
    return name, table.round(4)

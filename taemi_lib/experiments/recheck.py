"""What the runs of a study predicted, clip by clip, beside its tables: anybody can compute an
interval again, or in another way, and trains nothing."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from taemi_lib.errors import ChoiceError, RunError
from taemi_lib.evaluation import comparing
from taemi_lib.experiments.tables import TEST
from taemi_lib.profiles import resolve
from taemi_lib.support import files

PREDICTIONS, CLIPS = "predictions.parquet", "test_clips.csv"
DIGITS = 4  # of a prediction, behind the point


@dataclass(frozen=True)
class Stored:
    """Predictions of a study's runs.

    predictions   regime, system, seed, split, clip and a column a target, rounded to DIGITS
    clips         regime, clip, group and a column a target: the labels
    """

    predictions: pd.DataFrame
    clips: pd.DataFrame

    @property
    def targets(self) -> list[str]:
        return list(self.clips.columns[3:])

    def rho(
        self, regime: str, system: str, split: str = TEST, by_group: bool = False
    ) -> comparing.Rho:
        """Mean rho of a system's seeds with its resamples, of clips or of whole groups. Raises
        ChoiceError for a system, regime or split that is not stored."""
        rows = self.predictions
        rows = rows[
            (rows["regime"] == regime) & (rows["system"] == system) & (rows["split"] == split)
        ]
        if not len(rows):
            raise ChoiceError(f"no predictions of {system} in {regime}, {split} are stored here")
        clips = self.clips[self.clips["regime"] == regime]
        labels = clips[self.targets].to_numpy(np.float64)
        seeds = [own[self.targets].to_numpy(np.float32) for _, own in rows.groupby("seed")]
        groups = clips["group"].to_list() if by_group else None
        missing = bool(np.isnan(labels).any())
        return comparing.resampled_rho(seeds, labels, missing=missing, groups=groups)

    def compare(
        self, regime: str, system: str, reference: str, split: str = TEST, by_group: bool = False
    ) -> comparing.Comparison:
        """One comparison, alone: no family, no Holm."""
        one, other = (self.rho(regime, name, split, by_group) for name in (system, reference))
        return comparing.compare(one, other)


def read_predictions(folder: str | Path) -> Stored:
    """What `Study.write` has left in a folder of tables. Raises RunError where it is missing or
    damaged."""
    folder = resolve(folder)
    try:
        predictions = pd.read_parquet(folder / PREDICTIONS)
        # a clip may be called NA
        clips = pd.read_csv(folder / CLIPS, dtype=str, keep_default_na=False)
        targets = list(clips.columns[3:])
        clips[targets] = clips[targets].replace("", "nan").astype(np.float64)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: no predictions of a study can be read ({error})") from error
    return Stored(predictions, clips)


def write_predictions(stored: Stored, folder: Path) -> None:
    """Both files: what `read_predictions` reads."""
    names = ["regime", "system", "split", "clip"]  # few different ones: a number a row
    table = stored.predictions.astype(dict.fromkeys(names, "category") | {"seed": np.int16})
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    files.write_bytes(folder / PREDICTIONS, buffer.getvalue())
    labels = stored.clips.to_csv(index=False, lineterminator="\n")
    files.write_bytes(folder / CLIPS, labels.encode())

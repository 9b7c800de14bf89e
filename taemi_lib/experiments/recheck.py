"""What the runs of a study predicted, clip by clip, beside its tables: anybody can compute an
interval again, or in another way, and trains nothing."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from taemi_lib.errors import ChoiceError, RunError
from taemi_lib.evaluation import comparing
from taemi_lib.experiments.products import splits
from taemi_lib.experiments.tables import KEY, TEST
from taemi_lib.profiles import resolve
from taemi_lib.support import files

if TYPE_CHECKING:
    from taemi_lib.experiments.study import Study

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
        clips = pd.read_csv(folder / CLIPS, dtype={"clip": str, "group": str})
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: no predictions of a study can be read ({error})") from error
    return Stored(predictions, clips)


def write_predictions(study: Study, folder: Path, groups: Mapping[str, str]) -> None:
    """Both files, from the runs of a study. groups: {clip: whose it is}"""
    targets, predicted, labels = list(study.targets), [], []
    for regime, systems in study.systems.items():
        clips = study.clips(regime)
        _, target = study.predictions(regime, systems[0])
        about = {"regime": regime, "clip": clips, "group": [groups[clip] for clip in clips]}
        labels.append(pd.DataFrame(about | dict(zip(targets, target.T, strict=True))))
        for system, split in ((name, split) for name in systems for split in splits(name)):
            found, _ = study.predictions(regime, system, split)
            for seed, values in zip(study.seeds, found, strict=True):
                key = dict(zip(KEY, (regime, system, seed, split), strict=True))
                rounded = dict(zip(targets, np.round(values, DIGITS).T, strict=True))
                predicted.append(pd.DataFrame(key | {"clip": clips} | rounded))
    table = pd.concat(predicted, ignore_index=True)
    names = ["regime", "system", "split", "clip"]  # few different ones: a number a row
    table = table.astype(dict.fromkeys(names, "category") | {"seed": np.int16})
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    files.write_bytes(folder / PREDICTIONS, buffer.getvalue())
    about_clips = pd.concat(labels, ignore_index=True)
    files.write_bytes(folder / CLIPS, about_clips.to_csv(index=False, lineterminator="\n").encode())

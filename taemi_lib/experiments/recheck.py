"""What the runs of a study predicted, clip by clip, beside its tables: anybody can compute an
interval again, or in another way, and trains nothing."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from taemi_lib.errors import ChoiceError, RunError
from taemi_lib.evaluation import comparing
from taemi_lib.experiments.tables import (
    CLIPS,
    COLUMNS,
    KEY,
    PREDICTIONS,
    TEST,
    compared,
    families,
    others,
)
from taemi_lib.profiles import Task, resolve
from taemi_lib.support import files

NAMES = ["regime", "system", "split", "clip"]
DIGITS = 4  # of a prediction, seen from the size of the task's range


@dataclass(frozen=True)
class Stored:
    """Predictions of a study's runs.

    predictions   regime, system, seed, split, clip and a column a target, rounded
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

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Every system with the reference, a family for each table of the plan: regime, table,
        system, reference, delta (system minus reference), low, high, p_holm, verdict."""
        rho = cache(self.rho)  # a reference is met many times
        rows = []
        for (regime, table), family in families(self.systems).items():
            pairs = {
                (system, reference): (rho(regime, system, split), rho(regime, reference, split))
                for system, reference, split in family
            }
            rows += compared(regime, table, pairs)
        return pd.DataFrame(rows, columns=COLUMNS).sort_values(COLUMNS[:4], ignore_index=True)

    @property
    def systems(self) -> dict[str, list[str]]:
        """{regime: systems}"""
        pairs = self.predictions[["regime", "system"]].drop_duplicates()
        return {regime: own["system"].to_list() for regime, own in pairs.groupby("regime")}

    def beside(self, folder: str | Path) -> Stored:
        """This, and what a folder of tables holds of other systems. Raises RunError when that is
        about other clips or labels."""
        there = read_predictions(folder)
        kept = others(there.predictions, self.predictions)
        both = sorted(set(there.clips["regime"]) & set(self.clips["regime"]))
        old, new = (
            known[known["regime"].isin(both)].sort_values(["regime", "clip"], ignore_index=True)
            for known in (there.clips, self.clips)
        )
        same = there.targets == self.targets and old.astype(str).equals(new.astype(str))
        if len(kept) and not same:
            raise RunError(
                f"{folder} holds the results of other clips or labels: give another folder for "
                "these"
            )
        further = there.clips[~there.clips["regime"].isin(both)]
        return Stored(
            pd.concat([kept, self.predictions]),
            pd.concat([further, self.clips]),
        )


def decimals(task: Task) -> int:
    """How many a stored prediction has: DIGITS of the range's leading one, so that labels of 0 to
    0.001 keep as much as those of 0 to 1."""
    return DIGITS - math.floor(math.log10(task.high - task.low))


def read_predictions(folder: str | Path) -> Stored:
    """What `Study.write` has left in a folder of tables. Raises RunError where it is missing or
    damaged."""
    folder = resolve(folder)
    try:
        predictions = pd.read_parquet(folder / PREDICTIONS).astype(dict.fromkeys(NAMES, str))
        # a clip may be called NA
        clips = pd.read_csv(folder / CLIPS, dtype=str, keep_default_na=False)
        targets = list(clips.columns[3:])
        clips[targets] = clips[targets].replace("", "nan").astype(np.float64)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: no predictions of a study can be read ({error})") from error
    return Stored(predictions, clips)


def write_predictions(stored: Stored, folder: Path) -> None:
    """Both files, sorted: what `read_predictions` reads."""
    table = stored.predictions.sort_values(KEY, kind="stable", ignore_index=True)
    # few different names: a number a row
    table = table.astype(dict.fromkeys(NAMES, "category") | {"seed": np.int16})
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    files.write_bytes(folder / PREDICTIONS, buffer.getvalue())
    labels = stored.clips.sort_values("regime", kind="stable")
    files.write_bytes(folder / CLIPS, labels.to_csv(index=False, lineterminator="\n").encode())

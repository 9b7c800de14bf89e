"""Every system under one protocol: trained side by side, scored on the test split, compared with
statistics that can say no.

    runs     systems x seeds x regimes, each system with the settings that its search has chosen
             (search.py) -> a trained run and its stored predictions on the test split
    tables   runs.csv (what each run scored and cost), comparisons.csv (differences, intervals,
             verdicts), ...

A run that is there is never made again, so a grid that was stopped continues; one of other settings
or clips is refused, not reused. The statistics read stored predictions and train nothing.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from taemi_lib import models, runs
from taemi_lib.errors import RunError
from taemi_lib.evaluation import comparing, metrics
from taemi_lib.evaluation.scoring import field_scores
from taemi_lib.experiments.masks import draw_masks
from taemi_lib.experiments.products import (
    ATTENTION,
    check_products,
    products,
    splits,
    train_and_predict,
)
from taemi_lib.experiments.recheck import Stored, decimals, write_predictions
from taemi_lib.experiments.search import check_regimes
from taemi_lib.experiments.space import Settings
from taemi_lib.experiments.tables import (
    KEY,
    OFFICIAL,
    PREDICTIONS,
    TEST,
    beside,
    readable_costs,
    readable_versions,
    refuse_to_lose,
    table_bytes,
    write_table,
)
from taemi_lib.profiles import resolve
from taemi_lib.runs import Run
from taemi_lib.support import files
from taemi_lib.workspace import Job, Workspace, side_by_side, worker_datasets

MASKS = "missing_masks.csv"
COSTS = ("parameters", "seconds", "cpu_seconds", "peak_memory_mb")


def _metrics(run: Run) -> dict:
    assert run.metrics is not None  # Study._run gives finished runs only
    return run.metrics


@dataclass(frozen=True)
class Study:
    """A grid of systems x seeds x regimes, where it lies, and how to compute it.

    workspace  the settings, and where clips and runs lie
    systems    {regime: systems}, registered names
    seeds      of every system in every regime
    part       (2, 4): make the second fourth of the runs only; for several machines, on one runs
               folder or on copies of it
    settings   {(regime, system): what it is trained with, beside the profile's}, as a search has
               chosen; one that is not named keeps the profile's own
    Raises ChoiceError for names that do not exist, with those that do.
    """

    workspace: Workspace
    systems: Mapping[str, Sequence[str]]
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    part: tuple[int, int] = (1, 1)
    settings: Mapping[tuple[str, str], Settings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_regimes(self.workspace, self.systems)
        for system in {system for systems in self.systems.values() for system in systems}:
            models.find(system)

    # --- which runs

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        return [(regime, name) for regime, names in self.systems.items() for name in names]

    def _job(self, regime: str, system: str, seed: int) -> Job:
        settings = self.settings.get((regime, system), {})
        here = self.workspace.labelled(regime).changed(settings)
        return Job(here, models.find(system), seed)

    @property
    def _targets(self) -> tuple[str, ...]:
        return self.workspace.profile.task.targets

    @property
    def _missing(self) -> bool:
        """Whether some labels may be missing."""
        return self.workspace.profile.task.missing_labels == "mask"

    def jobs(self) -> dict[tuple[str, str, int], Job]:
        """{(regime, system, seed): job} of the grid."""
        return {
            (regime, system, seed): self._job(regime, system, seed)
            for regime, system in self._pairs
            for seed in self.seeds
        }

    # --- making them

    def run(self) -> bool:
        """Train and predict what is missing. False when other parts of it are still to be made
        elsewhere.

        Raises RunError naming the difference when a run that is there was made with other settings,
        encoders or clips, before anything is trained, and naming the run that failed; the
        others are kept.
        """
        jobs = list(self.jobs().values())
        # clips and features, once, before workers ask for them
        self.workspace.require("train", "selection", "test")
        for job in jobs:
            parts = worker_datasets(job.workspace)
            job.check(parts)
            check_products(job, parts["test"])
        number, count = self.part
        missing = [job for job in jobs[number - 1 :: count] if not self._is_complete(job)]
        side_by_side(train_and_predict, missing)
        return all(self._is_complete(job) for job in jobs)

    def _is_complete(self, job: Job) -> bool:
        return runs.is_finished(job.folder) and all(
            (job.folder / name).exists() for name in products(job.name)
        )

    # --- reading them

    def _run(self, job: Job) -> Run:
        if not self._is_complete(job):
            raise FileNotFoundError(f"{job} is missing ({job.folder}): run the study first")
        return runs.load_run(job.folder)

    @property
    def train_clips(self) -> int:
        """How many clips the runs were trained on."""
        return self._run(next(iter(self.jobs().values()))).config["data"]["train"]["count"]

    def predictions(
        self, regime: str, system: str, split: str = TEST
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """One (N, K) float32 for each seed, and the targets (N, K) of the same clips."""
        found = [self._stored(self._job(regime, system, seed), split) for seed in self.seeds]
        return [prediction for prediction, _ in found], found[0][1]

    def _stored(self, job: Job, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(N, K) float32 predictions and targets. Raises RunError when they are not about the same
        clips, in order, as other runs'."""

        self._run(job)
        path = job.folder / f"{split}.parquet"
        table = pd.read_parquet(path)
        about = table.drop(columns="prediction")
        if not about.equals(self._about.setdefault((job.workspace.label_set, split), about)):
            raise RunError(
                f"{path} is about other clips or labels than the same split of other runs: "
                "delete it and run the study again"
            )
        wide = (-1, len(self._targets))
        return table["prediction"].to_numpy(np.float32).reshape(wide), table["target"].to_numpy(
            np.float64
        ).reshape(wide)

    def rho(self, regime: str, system: str, split: str = TEST) -> comparing.Rho:
        """Mean rho of a system's seeds, with its resamples."""
        return self.stored.rho(regime, system, split)

    @cached_property
    def _about(self) -> dict[tuple[str, str], pd.DataFrame]:
        """{(regime, split): clip, emotion and target of each row}, as the first run that was read
        has them."""
        return {}

    # --- tables

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Everything about every run and split: regime, system, seed, split, rho and CCC of each
        emotion and their means, costs."""
        rows = []
        names, some = self._targets, self._missing
        for (regime, system, seed), job in self.jobs().items():
            run = self._run(job)
            about = {name: _metrics(run)[name] for name in COSTS} | {
                "learning_rate": run.config["training"]["learning_rate"],
                "versions": readable_versions(run.config["versions"]),
            }
            selected = _metrics(run)["selection"]
            found = {OFFICIAL: [selected["per_emotion"], selected["ccc"]]}
            for split in splits(system):
                prediction, target = self._stored(job, split)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", metrics.ConstantPrediction)  # counts as 0
                    found[split] = [
                        dict(zip(names, score(prediction, target, names, some), strict=True))
                        for score in (metrics.pearson_per_emotion, metrics.ccc)
                    ]
            for split, (rho, ccc) in found.items():
                row = {
                    "regime": regime,
                    "system": system,
                    "seed": seed,
                    "split": split,
                    "mean_rho": np.mean(list(rho.values())),
                }
                concordance = {"mean_ccc": np.mean(list(ccc.values()))} | {
                    f"ccc/{name}": ccc[name] for name in names
                }
                rows.append(row | {name: rho[name] for name in names} | concordance | about)
        return pd.DataFrame(rows).sort_values(KEY, ignore_index=True)

    @cached_property
    def field_scores(self) -> pd.DataFrame:
        """regime, system, seed, split and what the task's own field scores (MAE, accuracies, F1);
        no columns of these for a task of intensities."""
        rows = []
        for (regime, system, seed), job in self.jobs().items():
            for split in splits(system):
                found = field_scores(*self._stored(job, split), self.workspace.profile.task)
                rows.append(
                    {"regime": regime, "system": system, "seed": seed, "split": split} | found
                )
        return pd.DataFrame(rows).sort_values(KEY, ignore_index=True)

    @cached_property
    def stored(self) -> Stored:
        """What every run predicted, rounded, and the labels and groups of the test clips."""
        targets, groups, predicted, labels = list(self._targets), self.workspace.groups(), [], []
        places = decimals(self.workspace.profile.task)
        for regime, systems in self.systems.items():
            for system, split in ((name, split) for name in systems for split in splits(name)):
                found, target = self.predictions(regime, system, split)
                clips = self._about[regime, split]["clip_id"].iloc[:: len(targets)].to_list()
                for seed, values in zip(self.seeds, found, strict=True):
                    key = dict(zip(KEY, (regime, system, seed, split), strict=True))
                    rounded = dict(zip(targets, np.round(values, places).T, strict=True))
                    predicted.append(pd.DataFrame(key | {"clip": clips} | rounded))
            # the clips and labels of every split and system are the same (`_stored`)
            about = {"regime": regime, "clip": clips, "group": [groups[clip] for clip in clips]}
            labels.append(pd.DataFrame(about | dict(zip(targets, target.T, strict=True))))
        return Stored(pd.concat(predicted, ignore_index=True), pd.concat(labels, ignore_index=True))

    @cached_property
    def attention(self) -> pd.DataFrame:
        """regime, system, seed, audio, vision: attention on the event that counts / on the decoy,
        of every run that looks at a stream."""
        rows = []
        for (regime, system, seed), job in self.jobs().items():
            if ratios := json.loads((self._run(job).folder / ATTENTION).read_text()):
                rows.append({"regime": regime, "system": system, "seed": seed, **ratios})
        columns = ["regime", "system", "seed", "audio", "vision"]
        return pd.DataFrame(rows, columns=columns).sort_values(columns[:3], ignore_index=True)

    @property
    def comparisons(self) -> pd.DataFrame:
        """regime, table, system, reference, delta (system minus reference), low, high, p_holm,
        verdict."""
        return self.stored.comparisons

    def check_tables(self, folder: str | Path) -> None:
        """Raises RunError when `write` would lose scores of this folder; nothing needs to be
        trained."""
        refuse_to_lose(
            resolve(folder),
            {
                (regime, system, seed, split)
                for regime, systems in self.systems.items()
                for system in systems
                for seed in self.seeds
                for split in (OFFICIAL, *splits(system))
            },
        )

    def write(self, folder: str | Path = "results") -> Path:
        """runs.csv, comparisons.csv, ccc.csv, attention.csv, missing_masks.csv and what each run
        predicted (recheck.py): sorted and rounded, so that the same runs give the same files (but
        for seconds and memory, which no two runs have in common).

        What the folder holds of other systems, on the same clips, stays: the comparisons are of
        them all. Raises RunError, and writes nothing, when scores of the folder would be lost, or
        when they are those of other clips or labels.
        """

        self.check_tables(folder)
        folder = resolve(folder)
        test = worker_datasets(self.workspace)["test"]
        masks = table_bytes(draw_masks(test).astype(int).reset_index())
        if (folder / MASKS).exists() and (folder / MASKS).read_bytes() != masks:
            raise RunError(
                f"{folder} holds the results of other clips: give another folder for these"
            )
        concordance = [f"ccc/{name}" for name in self._targets]
        ccc = self.scores[[*KEY, "mean_ccc", *concordance]]
        tables = {
            "runs": readable_costs(self.scores.drop(columns=["mean_ccc", *concordance])),
            "ccc": ccc.set_axis([*KEY, "mean_ccc", *self._targets], axis=1),
            "attention": self.attention,
        }
        if self.workspace.profile.task.metrics != "intensity":
            tables["field_scores"] = self.field_scores
        stored = self.stored
        if (folder / PREDICTIONS).exists():  # without them all scores there are made anew
            stored = stored.beside(folder)
            tables = {name: beside(folder / f"{name}.csv", own) for name, own in tables.items()}
        compared = stored.comparisons  # before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep(folder)
        for name, table in (tables | {"comparisons": compared}).items():
            write_table(folder / f"{name}.csv", table)
        write_predictions(stored, folder)
        files.write_bytes(folder / MASKS, masks)
        return folder

"""Every system under one protocol: trained side by side, scored on the test split, compared with
statistics that can say no.

    search   three learning rates for each system, in the first regime, on the selection split
    runs     systems x seeds x regimes with the rate that was chosen -> a trained run and its stored
             predictions on the test split
    tables   runs.csv (what each run scored and cost), comparisons.csv (differences, intervals,
             verdicts), ...

A run that is there is never made again, so a grid that was stopped goes on; one of other settings
or clips is refused, not reused. The statistics read stored predictions and train nothing.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from taemi_lib import steps
from taemi_lib.evaluation import comparing, metrics
from taemi_lib.experiments.plan import MASKED, PRIMARY, RATES, REFERENCE, SEARCH_SEEDS, TABLES
from taemi_lib.experiments.tables import (
    COLUMNS,
    KEY,
    MASKED_TEST,
    OFFICIAL,
    TEST,
    compared,
    readable_costs,
    readable_versions,
    refuse_to_lose,
    write_table,
)
from taemi_lib.profiles import EMOTIONS, ChoiceError, Profile, resolve
from taemi_lib.steps import Job
from taemi_lib.support import files

if TYPE_CHECKING:
    from taemi_lib.batches import ClipDataset
    from taemi_lib.evaluation.scoring import Predictions

ATTENTION, MASKS = "attention.json", "missing_masks.csv"


# -------------------------------------------------------------------------------------------------
# one run, in a worker


def _predict(
    run, dataset: ClipDataset, split: str, attention: Callable[[Predictions], dict] | None = None
) -> None:
    """Store what a finished run says about a split, and where it looks, unless that is there."""
    from taemi_lib.evaluation.scoring import evaluate

    path, looked = run.folder / f"{split}.parquet", run.folder / ATTENTION
    if path.exists() and (attention is None or looked.exists()):
        return
    predictions = evaluate(
        run, dataset, "cpu", resamples=0, attention=attention is not None
    ).predictions
    if attention is not None and not looked.exists():
        files.write_json(looked, attention(predictions))
    if not path.exists():
        buffer = io.BytesIO()
        predictions.table.to_parquet(buffer, index=False)
        files.write_bytes(path, buffer.getvalue())


def _attention_ratios(
    predictions: Predictions, profile: Profile, data_root: str
) -> dict[str, float | None]:
    """{modality: attention on the event that counts / on the decoy} over sound and face, where
    there is planted truth with a decoy."""
    seen = {
        name: weights
        for name, weights in predictions.attention.items()
        if name in ("audio", "vision")
    }
    if profile.data.source != "synthmimic" or profile.data.regime == "both" or not seen:
        return {}
    from taemi_lib.data import synthmimic
    from taemi_lib.evaluation.attention import attention_ratios

    truth = synthmimic.truth(steps.data_folder(profile, data_root))
    ratios = attention_ratios(replace(predictions, attention=seen), truth, profile.data.regime)
    return {
        name: ratio if np.isfinite(ratio) else None for name, ratio in ratios.items()
    }  # nothing at all on any decoy


def _train_and_predict(job: Job, data_root: str, runs_root: str, device: str) -> None:
    from taemi_lib.experiments.masks import masked

    _forget_peak_memory()
    parts = steps.worker_datasets(job.profile, data_root, runs_root)
    run = job.train(parts, runs_root, device)
    _predict(
        run,
        parts["test"],
        TEST,
        partial(_attention_ratios, profile=job.profile, data_root=data_root),
    )
    if job.system in MASKED:
        masks = pd.read_csv(_masks_file(job.profile, runs_root), dtype={"clip_id": str}).set_index(
            "clip_id"
        )
        _predict(run, masked(parts["test"], masks), MASKED_TEST)


def _forget_peak_memory() -> None:
    """Linux: the peak that training reports is this run's, not that of the largest run this process
    has made before."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _masks_file(profile: Profile, runs_root: str | Path) -> Path:
    return resolve(runs_root) / profile.name / MASKS


def _splits(system: str) -> tuple[str, ...]:
    return (TEST, MASKED_TEST) if system in MASKED else (TEST,)


def _products(system: str) -> list[str]:
    """What stands beside a finished run."""
    return [ATTENTION, *(f"{split}.parquet" for split in _splits(system))]


# --------------------------------------------------------------------------------------------------------------- a study


@dataclass(frozen=True)
class Study:
    """A grid of systems x seeds x regimes, where it lies, and how to compute it.

    systems    {regime: systems}
    seeds      of every system in every regime
    processes  None: as many as there are cores
    part       (2, 4): make the second fourth of the runs only; for several machines, on one runs
               folder or on copies of it
    rates      {system: multiple of the profile's learning rate}; None: searched
    Raises ChoiceError for names that do not exist, with those that do.
    """

    profile: Profile
    systems: Mapping[str, Sequence[str]]
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    data_root: str | Path = "data"
    runs_root: str | Path = "runs"
    device: str = "auto"
    processes: int | None = None
    progress: bool | None = None
    part: tuple[int, int] = (1, 1)
    rates: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        check_regimes(self.profile, self.systems)
        check_systems({system for systems in self.systems.values() for system in systems})

    # --- which runs

    def _job(self, regime: str, system: str, seed: int, factor: float) -> Job:
        """`factor`: of the profile's learning rate."""
        profile, variant = self.profile, ""
        if profile.data.source == "synthmimic":
            profile = replace(profile, data=replace(profile.data, regime=regime))
        if factor != 1.0:
            rate = float(
                f"{factor * profile.training.learning_rate:.6g}"
            )  # 0.006, not 0.0060000000000000001
            profile, variant = (
                replace(profile, training=replace(profile.training, learning_rate=rate)),
                f"lr{rate:g}",
            )
        if profile.data.train_clips is not None:
            variant += f"{'-' if variant else ''}train{profile.data.train_clips}"
        return Job(profile, system, seed, variant)

    @property
    def search_regime(self) -> str:
        return regimes(self.profile)[0]

    def _search_jobs(self) -> dict[tuple[str, float], list[Job]]:
        """{(system, factor): one job for each search seed}"""
        systems = sorted({system for systems in self.systems.values() for system in systems})
        return {
            (system, factor): [
                self._job(self.search_regime, system, seed, factor) for seed in SEARCH_SEEDS
            ]
            for system in systems
            for factor in RATES
        }

    def jobs(self) -> dict[tuple[str, str, int], Job]:
        """{(regime, system, seed): job} of the grid, with the learning rates that the search
        chose."""
        return {
            (regime, system, seed): self._job(regime, system, seed, self.chosen[system])
            for regime, systems in self.systems.items()
            for system in systems
            for seed in self.seeds
        }

    # --- making them

    def run(self) -> bool:
        """Make what is missing: search first, then the grid. False when other parts of it are still
        to be made elsewhere.

        Raises RunError naming the difference when a run that is there was made with other settings,
        encoders or clips, before anything is trained; RuntimeError naming the run that failed, the
        others are kept.
        """
        if self.rates is None and not self._make(
            [job for jobs in self._search_jobs().values() for job in jobs]
        ):
            return False
        return self._make(list(self.jobs().values()))

    def _make(self, jobs: list[Job]) -> bool:
        """Train and predict the missing ones among these jobs. Returns whether all are there
        now."""
        place = {
            "data_root": self.data_root,
            "runs_root": self.runs_root,
            "device": self.device,
            "progress": self.progress,
        }
        self._claim_masks(
            steps.datasets(self.profile, **place)["test"]
        )  # clips and features, once, before workers ask for them
        for job in jobs:
            job.check(
                steps.worker_datasets(job.profile, str(self.data_root), str(self.runs_root)),
                self.runs_root,
            )
        number, count = self.part
        missing = [job for job in jobs[number - 1 :: count] if not self._is_complete(job)]
        steps.side_by_side(_train_and_predict, missing, **place, processes=self.processes)
        return all(self._is_complete(job) for job in jobs)

    def _is_complete(self, job: Job) -> bool:
        from taemi_lib.training import is_finished

        folder = job.folder(self.runs_root)
        return is_finished(folder) and all(
            (folder / name).exists() for name in _products(job.system)
        )

    def _claim_masks(self, test: ClipDataset) -> None:
        """Store the masks, or check that the ones there are these: scores under masks are kept
        beside the runs."""
        from taemi_lib.experiments.masks import draw_masks
        from taemi_lib.training import RunError

        path, masks = (
            _masks_file(self.profile, self.runs_root),
            draw_masks(test).astype(int).reset_index(),
        )
        if not path.exists():
            write_table(path, masks)
        elif not pd.read_csv(path, dtype={"clip_id": str}).equals(masks):
            raise RunError(
                f"{path} does not hold the masks of these clips: choose another runs folder, or delete this one's runs"
            )

    # --- reading them

    @cached_property
    def search(self) -> pd.DataFrame:
        """system, learning_rate, selection_rho (mean over SEARCH_SEEDS, selection split), chosen;
        the search must be complete."""
        rows = []
        for (system, factor), jobs in self._search_jobs().items():
            found = [self._run(job) for job in jobs]
            rho = float(np.mean([run.metrics["selection"]["mean_rho"] for run in found]))
            rate = found[0].config["training"]["learning_rate"]  # what the system made of it
            rows.append(
                {"system": system, "factor": factor, "learning_rate": rate, "selection_rho": rho}
            )
        table = pd.DataFrame(rows)
        best = table.groupby("system")[
            "selection_rho"
        ].idxmax()  # the smaller rate where two are equal
        return table.assign(chosen=table.index.isin(best))

    @cached_property
    def chosen(self) -> Mapping[str, float]:
        """{system: chosen multiple of the profile's learning rate}"""
        return (
            self.rates
            if self.rates is not None
            else {row.system: row.factor for row in self.search[self.search["chosen"]].itertuples()}
        )

    def _run(self, job: Job):
        from taemi_lib.training import load_run

        if not self._is_complete(job):
            raise FileNotFoundError(
                f"{job} is not there yet ({job.folder(self.runs_root)}): run the study first"
            )
        return load_run(job.folder(self.runs_root))

    @property
    def train_clips(self) -> int:
        """How many clips the runs were trained on."""
        return self._run(next(iter(self.jobs().values()))).config["data"]["train"]["count"]

    def predictions(
        self, regime: str, system: str, split: str = TEST
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """One (N, 6) float32 for each seed, and the targets (N, 6) of the same clips."""
        found = [
            self._stored(self._job(regime, system, seed, self.chosen[system]), split)
            for seed in self.seeds
        ]
        return [prediction for prediction, _ in found], found[0][1]

    def _stored(self, job: Job, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(N, 6) float32 predictions and targets. Raises RunError when they are not about the same
        clips, in order, as other runs'."""
        from taemi_lib.training import RunError

        self._run(job)
        path = job.folder(self.runs_root) / f"{split}.parquet"
        table = pd.read_parquet(path)
        about = table.drop(columns="prediction")
        if not about.equals(self._about.setdefault((steps.regime_name(job.profile), split), about)):
            raise RunError(
                f"{path} is about other clips or labels than the same split of other runs: delete it and run the study again"
            )
        wide = (-1, len(EMOTIONS))
        return table["prediction"].to_numpy(np.float32).reshape(wide), table["target"].to_numpy(
            np.float64
        ).reshape(wide)

    def rho(self, regime: str, system: str, split: str = TEST) -> comparing.Rho:
        """Mean rho of a system's seeds, with its resamples. Kept: a reference is compared many
        times."""
        key = (regime, system, split)
        if key not in self._rhos:
            self._rhos[key] = comparing.resampled_rho(*self.predictions(regime, system, split))
        return self._rhos[key]

    @cached_property
    def _about(self) -> dict[tuple[str, str], pd.DataFrame]:
        """{(regime, split): clip, emotion and target of each row}, as the first run that was read
        has them."""
        return {}

    @cached_property
    def _rhos(self) -> dict[tuple[str, str, str], comparing.Rho]:
        return {}

    # --- tables

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Everything about every run and split: regime, system, seed, split, rho and CCC of each
        emotion and their means, costs."""
        rows = []
        for (regime, system, seed), job in self.jobs().items():
            run = self._run(job)
            about = {
                "parameters": run.metrics["parameters"],
                "seconds": run.metrics["seconds"],
                "cpu_seconds": run.metrics.get(
                    "cpu_seconds"
                ),  # runs of older versions did not count them
                "peak_memory_mb": run.metrics["peak_memory_mb"],
                "learning_rate": run.config["training"]["learning_rate"],
                "versions": readable_versions(run.config["versions"]),
            }
            found = {
                OFFICIAL: (run.metrics["selection"]["per_emotion"], run.metrics["selection"]["ccc"])
            }
            for split in _splits(system):
                prediction, target = self._stored(job, split)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", metrics.ConstantPrediction)  # counts as 0
                    found[split] = [
                        dict(zip(EMOTIONS, score(prediction, target), strict=True))
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
                    f"ccc/{name}": ccc[name] for name in EMOTIONS
                }
                rows.append(row | {name: rho[name] for name in EMOTIONS} | concordance | about)
        return pd.DataFrame(rows).sort_values(KEY, ignore_index=True)

    def families(self) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
        """{(regime, table): [(system, reference, split)]}: what is tested together. Systems of no
        table are in "others"."""
        found: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
        known = {REFERENCE, *(system for table in TABLES.values() for system in table)}
        for regime, systems in self.systems.items():
            if REFERENCE not in systems:
                continue
            others = tuple(system for system in systems if system not in known)
            for table, members in (TABLES | {"others": others}).items():
                if here := [(system, REFERENCE, TEST) for system in members if system in systems]:
                    found[regime, table] = here
            if here := [
                (system, REFERENCE, MASKED_TEST)
                for system in MASKED
                if system in systems and system != REFERENCE
            ]:
                found[regime, "table3_masked"] = here
            primary, *pair = PRIMARY
            if regime == primary and set(pair) <= set(systems):
                found[regime, "primary"] = [(*pair, TEST)]
        return found

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

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """regime, table, system, reference, delta (system minus reference), low, high, p_holm,
        verdict."""
        rows = []
        for (regime, table), family in self.families().items():
            pairs = {
                (system, reference): (
                    self.rho(regime, system, split),
                    self.rho(regime, reference, split),
                )
                for system, reference, split in family
            }
            rows += compared(regime, table, pairs)
        return pd.DataFrame(rows, columns=COLUMNS).sort_values(COLUMNS[:4], ignore_index=True)

    def check_tables(self, folder: str | Path) -> None:
        """Raises RunError when `write` would lose scores in this folder that the study does not
        have; nothing needs to be trained."""
        refuse_to_lose(
            resolve(folder),
            {
                (regime, system, seed, split)
                for regime, systems in self.systems.items()
                for system in systems
                for seed in self.seeds
                for split in (OFFICIAL, *_splits(system))
            },
        )

    def write(self, folder: str | Path = "results") -> Path:
        """runs.csv, comparisons.csv, ccc.csv, attention.csv, search.csv and missing_masks.csv:
        sorted and rounded, so that the same runs give the same files (but for seconds and memory,
        which no two runs have in common).

        Raises RunError, and writes nothing, when the folder holds scores that this study does not
        have, or those of other clips.
        """
        from taemi_lib.training import RunError

        self.check_tables(folder)
        folder, masks = resolve(folder), _masks_file(self.profile, self.runs_root).read_bytes()
        concordance = [f"ccc/{name}" for name in EMOTIONS]
        runs = self.scores.drop(columns=["mean_ccc", *concordance])
        ccc = self.scores[[*KEY, "mean_ccc", *concordance]].set_axis(
            [*KEY, "mean_ccc", *EMOTIONS], axis=1
        )
        if (folder / MASKS).exists() and (folder / MASKS).read_bytes() != masks:
            raise RunError(
                f"{folder} holds the results of other clips: give another folder for these"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / "runs.csv", readable_costs(runs))
        write_table(folder / "comparisons.csv", self.comparisons)
        write_table(folder / "ccc.csv", ccc)
        write_table(folder / "attention.csv", self.attention)
        if self.rates is None:
            write_table(folder / "search.csv", self.search.drop(columns="factor"))
        files.write_bytes(folder / MASKS, masks)
        return folder


# ------------------------------------------------------------------------------------------------------ names and studies


def regimes(profile: Profile) -> tuple[str, ...]:
    """The label sets of a profile's data, the one of the search first: generated clips have
    several."""
    if profile.data.source != "synthmimic":
        return (steps.regime_name(profile),)
    from taemi_lib.data.synthmimic.world import REGIMES

    return REGIMES


def check_regimes(profile: Profile, names: Iterable[str]) -> None:
    valid = regimes(profile)
    for name in names:
        if name not in valid:
            raise ChoiceError(f"there is no regime {name!r}; the regimes are: {', '.join(valid)}")


def check_systems(names: Iterable[str]) -> None:
    from taemi_lib.models import find

    for name in names:
        find(name)

"""Every system under one protocol: trained side by side, scored on the test split, compared with statistics that can say no.

    search   three learning rates for each system, in the first regime, on the selection split
    runs     systems x seeds x regimes with the rate that was chosen -> a trained run and its stored predictions on the test split
    tables   runs.csv (what each run scored and cost), comparisons.csv (differences, intervals, verdicts), ...

A run that is there is never made again, so a grid that was stopped goes on; the statistics read stored predictions and train nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from taemi_lib import files, statistics, steps
from taemi_lib.experiments.plan import MASKED, PRIMARY, RATES, REFERENCE, SEARCH_SEEDS, TABLES
from taemi_lib.profiles import EMOTIONS, ChoiceError, Profile, resolve
from taemi_lib.steps import Job

if TYPE_CHECKING:
    from taemi_lib.evaluation import Predictions
    from taemi_lib.models.batch import ClipDataset

COLUMNS = ["regime", "table", "system", "reference", "delta", "low", "high", "p_holm", "verdict"]
TEST, MASKED_TEST = "test", "test_masked"
ATTENTION = "attention.json"
SMALLEST_P = 1e-16  # what the tables say of anything smaller: no approximation knows its tails that far out
OFFICIAL = "selection_official_style"  # selected and reported on the same split: too good, kept to show by how much


# ------------------------------------------------------------------------------------------------- one run, in a worker


def _predict(run, dataset: ClipDataset, split: str, attention: Callable[[Predictions], dict] | None = None) -> None:
    """Store what a finished run says about a split, and where it looks, unless that is there."""
    from taemi_lib.evaluation import evaluate

    path, looked = run.folder / f"{split}.parquet", run.folder / ATTENTION
    if path.exists() and (attention is None or looked.exists()):
        return
    predictions = evaluate(run, dataset, "cpu", resamples=0, attention=attention is not None).predictions
    if attention is not None and not looked.exists():
        files.write_json(looked, attention(predictions))
    if not path.exists():
        buffer = io.BytesIO()
        predictions.table.to_parquet(buffer, index=False)
        files.write_bytes(path, buffer.getvalue())


def _attention_ratios(predictions: Predictions, profile: Profile, data_root: str) -> dict[str, float]:
    """{modality: attention on the event that counts / on the decoy} over sound and face, where there is planted truth with a decoy."""
    seen = {name: weights for name, weights in predictions.attention.items() if name in ("audio", "vision")}
    if profile.data.source != "synthmimic" or profile.data.regime == "both" or not seen:
        return {}
    from taemi_lib.data import synthmimic
    from taemi_lib.explain import attention_ratios

    truth = synthmimic.truth(steps.data_folder(profile, data_root))
    return attention_ratios(replace(predictions, attention=seen), truth, profile.data.regime)


def _train_and_predict(job: Job, data_root: str, runs_root: str, device: str) -> None:
    from taemi_lib.experiments.masks import masked

    _forget_peak_memory()
    parts = steps.worker_datasets(job.profile, data_root, runs_root)
    run = job.train(parts, runs_root, device)
    _predict(run, parts["test"], TEST, partial(_attention_ratios, profile=job.profile, data_root=data_root))
    if job.system in MASKED:
        masks = pd.read_csv(_masks_file(job.profile, runs_root), dtype={"clip_id": str}).set_index("clip_id")
        _predict(run, masked(parts["test"], masks), MASKED_TEST)


def _forget_peak_memory() -> None:
    """Linux: the peak that training reports is this run's, not that of the largest run this process has made before."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _masks_file(profile: Profile, runs_root: str | Path) -> Path:
    return resolve(runs_root) / profile.name / "missing_masks.csv"


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
    part       (2, 4): make the second fourth of the runs only; for several machines, on one runs folder or on copies of it
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
            rate = float(f"{factor * profile.training.learning_rate:.6g}")  # 0.006, not 0.0060000000000000001
            profile, variant = replace(profile, training=replace(profile.training, learning_rate=rate)), f"lr{rate:g}"
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
            (system, factor): [self._job(self.search_regime, system, seed, factor) for seed in SEARCH_SEEDS]
            for system in systems
            for factor in RATES
        }

    def jobs(self) -> dict[tuple[str, str, int], Job]:
        """{(regime, system, seed): job} of the grid, with the learning rates that the search chose."""
        return {
            (regime, system, seed): self._job(regime, system, seed, self.chosen[system])
            for regime, systems in self.systems.items()
            for system in systems
            for seed in self.seeds
        }

    # --- making them

    def run(self) -> bool:
        """Make what is missing: search first, then the grid. False when other parts of it are still to be made elsewhere."""
        if self.rates is None and not self._make([job for jobs in self._search_jobs().values() for job in jobs]):
            return False
        return self._make(list(self.jobs().values()))

    def _make(self, jobs: list[Job]) -> bool:
        """Train and predict the missing ones among these jobs. Returns whether all are there now."""
        place = {"data_root": self.data_root, "runs_root": self.runs_root, "device": self.device, "progress": self.progress}
        number, count = self.part
        missing = [job for job in jobs[number - 1 :: count] if not self._is_complete(job)]
        if missing:
            parts = steps.datasets(self.profile, **place)  # clips and features, once, before workers ask for them
            self._store_masks(parts["test"])
            steps.side_by_side(_train_and_predict, missing, **place, processes=self.processes)
        return all(self._is_complete(job) for job in jobs)

    def _is_complete(self, job: Job) -> bool:
        from taemi_lib.training import is_finished

        folder = job.folder(self.runs_root)
        return is_finished(folder) and all((folder / name).exists() for name in _products(job.system))

    def _store_masks(self, test: ClipDataset) -> None:
        from taemi_lib.experiments.masks import draw_masks

        path = _masks_file(self.profile, self.runs_root)
        if not path.exists():
            write_table(path, draw_masks(test).astype(int).reset_index())

    # --- reading them

    @cached_property
    def search(self) -> pd.DataFrame:
        """system, learning_rate, selection_rho (mean over SEARCH_SEEDS, selection split), chosen; the search must be complete."""
        rows = []
        for (system, factor), jobs in self._search_jobs().items():
            found = [self._run(job) for job in jobs]
            rho = float(np.mean([run.metrics["selection"]["mean_rho"] for run in found]))
            rate = found[0].config["training"]["learning_rate"]  # what the system made of it
            rows.append({"system": system, "factor": factor, "learning_rate": rate, "selection_rho": rho})
        table = pd.DataFrame(rows)
        best = table.groupby("system")["selection_rho"].idxmax()  # the smaller rate where two are equal
        return table.assign(chosen=table.index.isin(best))

    @cached_property
    def chosen(self) -> Mapping[str, float]:
        """{system: chosen multiple of the profile's learning rate}"""
        return self.rates if self.rates is not None else {row.system: row.factor for row in self.search[self.search["chosen"]].itertuples()}

    def _run(self, job: Job):
        from taemi_lib.training import load_run

        if not self._is_complete(job):
            raise FileNotFoundError(f"{job} is not there yet ({job.folder(self.runs_root)}): run the study first")
        return load_run(job.folder(self.runs_root))

    @property
    def train_clips(self) -> int:
        """How many clips the runs were trained on."""
        return self._run(next(iter(self.jobs().values()))).config["data"]["train"]["count"]

    def predictions(self, regime: str, system: str, split: str = TEST) -> tuple[list[np.ndarray], np.ndarray]:
        """One (N, 6) float32 for each seed, and the targets (N, 6) of the same clips."""
        found = [self._stored(job, split) for (r, s, _), job in self.jobs().items() if (r, s) == (regime, system)]
        return [prediction for prediction, _ in found], found[0][1]

    def _stored(self, job: Job, split: str) -> tuple[np.ndarray, np.ndarray]:
        self._run(job)
        table = pd.read_parquet(job.folder(self.runs_root) / f"{split}.parquet")
        wide = (-1, len(EMOTIONS))
        return table["prediction"].to_numpy(np.float32).reshape(wide), table["target"].to_numpy(np.float64).reshape(wide)

    def rho(self, regime: str, system: str, split: str = TEST) -> statistics.Rho:
        """Mean rho of a system's seeds, with its resamples. Kept: a reference is compared many times."""
        key = (regime, system, split)
        if key not in self._rhos:
            self._rhos[key] = statistics.resampled_rho(*self.predictions(regime, system, split))
        return self._rhos[key]

    @cached_property
    def _rhos(self) -> dict[tuple[str, str, str], statistics.Rho]:
        return {}

    # --- tables

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Everything about every run and split: regime, system, seed, split, rho and CCC of each emotion and their means, costs."""
        from taemi_lib.evaluation import Predictions, score

        rows = []
        for (regime, system, seed), job in self.jobs().items():
            run = self._run(job)
            about = {
                "parameters": run.metrics["parameters"],
                "seconds": run.metrics["seconds"],
                "cpu_seconds": run.metrics["cpu_seconds"],
                "peak_memory_mb": run.metrics["peak_memory_mb"],
                "learning_rate": run.config["training"]["learning_rate"],
                "versions": _versions(run.config["versions"]),
            }
            found = {OFFICIAL: (run.metrics["selection"]["per_emotion"], run.metrics["selection"]["ccc"])}
            for split in _splits(system):
                prediction, target = self._stored(job, split)
                scored = score(Predictions([""] * len(target), prediction, target, np.zeros(len(target), bool)), resamples=0)
                found[split] = scored.per_emotion, scored.ccc
            for split, (rho, ccc) in found.items():
                row = {"regime": regime, "system": system, "seed": seed, "split": split, "mean_rho": np.mean(list(rho.values()))}
                concordance = {"mean_ccc": np.mean(list(ccc.values()))} | {f"ccc/{name}": ccc[name] for name in EMOTIONS}
                rows.append(row | {name: rho[name] for name in EMOTIONS} | concordance | about)
        return pd.DataFrame(rows).sort_values(["regime", "system", "seed", "split"], ignore_index=True)

    def families(self) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
        """{(regime, table): [(system, reference, split)]}: what is tested together. Systems of no table are in "others"."""
        found: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
        known = {REFERENCE, *(system for table in TABLES.values() for system in table)}
        for regime, systems in self.systems.items():
            if REFERENCE not in systems:
                continue
            others = tuple(system for system in systems if system not in known)
            for table, members in (TABLES | {"others": others}).items():
                if here := [(system, REFERENCE, TEST) for system in members if system in systems]:
                    found[regime, table] = here
            if here := [(system, REFERENCE, MASKED_TEST) for system in MASKED if system in systems and system != REFERENCE]:
                found[regime, "table3_masked"] = here
            primary, *pair = PRIMARY
            if regime == primary and set(pair) <= set(systems):
                found[regime, "primary"] = [(*pair, TEST)]
        return found

    @cached_property
    def attention(self) -> pd.DataFrame:
        """regime, system, seed, audio, vision: attention on the event that counts / on the decoy, of every run that looks at a stream."""
        rows = []
        for (regime, system, seed), job in self.jobs().items():
            if ratios := json.loads((self._run(job).folder / ATTENTION).read_text()):
                rows.append({"regime": regime, "system": system, "seed": seed, **ratios})
        columns = ["regime", "system", "seed", "audio", "vision"]
        return pd.DataFrame(rows, columns=columns).sort_values(columns[:3], ignore_index=True)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """regime, table, system, reference, delta (system minus reference), low, high, p_holm, verdict."""
        rows = []
        for (regime, table), family in self.families().items():
            pairs = {(system, reference): (self.rho(regime, system, split), self.rho(regime, reference, split))
                     for system, reference, split in family}  # fmt: skip
            rows += compared(regime, table, pairs)
        return pd.DataFrame(rows, columns=COLUMNS).sort_values(COLUMNS[:4], ignore_index=True)

    def write(self, folder: str | Path = "results") -> Path:
        """runs.csv, comparisons.csv, ccc.csv, attention.csv, search.csv and missing_masks.csv: sorted and rounded, so that the same runs
        give the same files (but for seconds and memory, which no two runs have in common).
        """
        folder = resolve(folder)
        folder.mkdir(parents=True, exist_ok=True)
        key, concordance = ["regime", "system", "seed", "split"], [f"ccc/{name}" for name in EMOTIONS]
        runs = self.scores.drop(columns=["mean_ccc", *concordance])
        ccc = self.scores[[*key, "mean_ccc", *concordance]].set_axis([*key, "mean_ccc", *EMOTIONS], axis=1)
        write_table(folder / "runs.csv", _readable_costs(runs))
        write_table(folder / "comparisons.csv", self.comparisons)
        write_table(folder / "ccc.csv", ccc)
        write_table(folder / "attention.csv", self.attention)
        if self.rates is None:
            write_table(folder / "search.csv", self.search.drop(columns="factor"))
        files.write_bytes(folder / "missing_masks.csv", _masks_file(self.profile, self.runs_root).read_bytes())
        return folder


def _versions(found: Mapping[str, str]) -> str:
    """ "python 3.11.7, torch 2.13.0": without tags of local builds."""
    return ", ".join(f"{name} {number.partition('+')[0]}" for name, number in found.items())


def compared(regime: str, table: str, pairs: Mapping[tuple[str, str], tuple[statistics.Rho, statistics.Rho]]) -> list[dict]:
    """One family of comparisons as rows of comparisons.csv. pairs: {(system, reference): their Rho}"""
    results = statistics.holm({names: statistics.compare(*rhos) for names, rhos in pairs.items()})
    return [
        {"regime": regime, "table": table, "system": system, "reference": reference, "delta": result.delta,
         "low": result.low, "high": result.high, "p_holm": float(f"{max(result.p_holm, SMALLEST_P):.2g}"), "verdict": result.verdict}
        for (system, reference), result in results.items()
    ]  # fmt: skip


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV with scores to four digits, without the minus of a rounded zero; written in one step."""
    exact = ("p_holm", "learning_rate", "seconds", "cpu_seconds")
    scores = [name for name in table.select_dtypes("float") if name not in exact]
    rounded = table.assign(**{name: table[name].round(4) + 0.0 for name in scores})
    files.write_bytes(path, rounded.to_csv(index=False, lineterminator="\n").encode())


def _readable_costs(table: pd.DataFrame) -> pd.DataFrame:
    seconds = {name: table[name].round(1) for name in ("seconds", "cpu_seconds")}
    return table.assign(**seconds, peak_memory_mb=table["peak_memory_mb"].round().astype(int))


# ------------------------------------------------------------------------------------------------------ names and studies


def regimes(profile: Profile) -> tuple[str, ...]:
    """The label sets of a profile's data, the one of the search first: generated clips have several."""
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


def summary(study: Study) -> str:
    """The comparisons as a text table for each regime: scores over seeds, difference to the reference, verdict, cost."""
    lines = []
    scores, compared = study.scores, study.comparisons
    for regime in study.systems:
        here = scores[scores["regime"] == regime]
        lines += [f"regime {regime}: mean rho over {len(study.seeds)} seeds, test split; differences to {REFERENCE}, Holm-adjusted 95 %",
                  f"  {'system':28} {'rho':>5} {'SD':>5} {'official':>8}  {'difference':>10} {'interval':>16} {'p':>7}  "
                  f"{'verdict':24} {'parameters':>10} {'CPU s':>7} {'rate':>7}"]  # fmt: skip
        for system in study.systems[regime]:
            own = here[here["system"] == system]
            test, official = (own[own["split"] == split]["mean_rho"] for split in (TEST, OFFICIAL))
            spread = f"{test.std():.3f}"[1:] if len(test) > 1 else "-"
            cost = f"{own['parameters'].iloc[0]:10,} {own['cpu_seconds'].mean():7.1f} {own['learning_rate'].iloc[0]:7g}"
            rows = compared[(compared["regime"] == regime) & (compared["system"] == system) & (compared["reference"] == REFERENCE)
                            & (compared["table"] != "table3_masked")]  # fmt: skip
            difference = f"{'':10} {'':16} {'':7}  {'the reference' if system == REFERENCE else '':24}"
            for row in rows.itertuples():
                interval = f"[{row.low:+.3f}, {row.high:+.3f}]"
                difference = f"{row.delta:+10.3f} {interval:>16} {row.p_holm:7.2g}  {row.verdict:24}"
            lines.append(f"  {system:28} {test.mean():5.3f} {spread:>5} {official.mean():8.3f}  {difference} {cost}")
        for table, said in (("table3_masked", "under missing masks"), ("primary", "primary hypothesis, alone")):
            for row in compared[(compared["regime"] == regime) & (compared["table"] == table)].itertuples():
                interval = f"[{row.low:+.3f}, {row.high:+.3f}]"
                lines.append(f"  {said}: {row.system} - {row.reference} {row.delta:+.3f} {interval} p {row.p_holm:.2g}, {row.verdict}")
        lines.append("")
    if len(study.seeds) == 1:
        lines.append("One seed only: the intervals know of clips, not of seeds, and are too narrow.")
    return "\n".join(lines).rstrip()

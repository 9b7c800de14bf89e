"""Every system under one protocol: trained side by side, scored on the test split, compared with statistics that can say no.

    search   three learning rates for each system, in the first regime, on the selection split
    runs     systems x seeds x regimes with the rate that was chosen -> a trained run and its stored predictions on the test split
    tables   runs.csv (what each run scored and cost), comparisons.csv (differences, intervals, verdicts), ...

A run that is there is never made again, so a grid that was stopped goes on; the statistics read stored predictions and train nothing.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from taemi_lib import files, statistics, steps
from taemi_lib.profiles import EMOTIONS, MODALITIES, ChoiceError, Profile, resolve
from taemi_lib.steps import Job

if TYPE_CHECKING:
    from taemi_lib.models.batch import ClipDataset

REFERENCE = "taemi"
PRIMARY = ("cue", "taemi", "constant_query")  # the one hypothesis that was chosen beforehand: a family of its own

# What is compared with what: each table in each regime is one family of hypotheses (PAPER.md, Tables 2 to 4).
TABLES = {
    "table2": ("vit_baseline", "wav2vec2_baseline", "vit_wav2vec2_baseline", "yu2024", "hallmen2024", "savchenko2025",
               "zhang2024", "yu2025", "hallmen2025"),
    "table3": ("concat", "self_attention_only", "taemi_no_missing_tokens", "taemi_no_modality_dropout"),
    "table4": ("vision_anchored", "audio_anchored", "vision_anchored_attention", "audio_anchored_attention"),
    "controls": ("constant_query", "text_gated", "text_only", "audio_only", "vision_only", "no_text", "no_time_features",
                 "shuffled_text", "shuffled_query"),
    "fusion": ("tfn", "dynamic_fusion_graph", "mult", "misa"),
}  # fmt: skip
# Trained in every regime; the others in the first one only.
EVERYWHERE = (REFERENCE, *TABLES["table3"], *TABLES["table4"], "constant_query", "text_only", "audio_only", "vision_only")
# Missing tokens and modality dropout can do nothing for complete clips: these are scored under missing masks too.
MASKED = (REFERENCE, *TABLES["table3"])

RATES = (0.3, 1.0, 3.0)  # learning rates tried, in multiples of the profile's
SEARCH_SEEDS = (0, 1)
ABSENT = 0.3  # share of test clips that lack each modality under the masks

TEST, MASKED_TEST = "test", "test_masked"
OFFICIAL = "selection_official_style"  # selected and reported on the same split: too good, kept to show by how much


# ------------------------------------------------------------------------------------------------------- missing masks


def draw_masks(test: ClipDataset, seed: int = 30) -> pd.DataFrame:
    """Which modalities to take away from each test clip: bool columns audio, vision, text (True: absent), index clip_id.

    Each is taken from a share ABSENT of the clips, to the clip; never the last one that a clip has.
    """
    rng = np.random.default_rng(seed)
    there = np.array([[name not in test[index][0].absent for name in MODALITIES] for index in range(len(test))])
    absent = np.zeros_like(there)
    for column in rng.permutation(len(MODALITIES)):
        others = np.delete(there & ~absent, column, axis=1).any(axis=1)
        can_spare = np.flatnonzero(others)
        absent[rng.choice(can_spare, min(round(ABSENT * len(test)), len(can_spare)), replace=False), column] = True
    return pd.DataFrame(absent, columns=list(MODALITIES), index=pd.Index(test.clip_ids, name="clip_id"))


class MaskedStore:
    """A feature store that hides what `masks` says; the rest of the world reads it like the store itself."""

    def __init__(self, store, masks: pd.DataFrame) -> None:
        self.store, self.masks = store, masks
        self.identity = getattr(store, "identity", None)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self.masks.index and clip_id in self.store

    def _hidden(self, clip_id: str) -> list[str]:
        return [name for name in MODALITIES if self.masks.at[clip_id, name]]

    def read(self, clip_id: str):
        features = self.store.read(clip_id)
        fields = {"audio": ("audio",), "vision": ("vision",), "text": ("tokens", "pooled", "transcript")}
        hidden = self._hidden(clip_id)
        nothing = {name: None for modality in hidden for name in fields[modality]}
        damaged = {name: why for name, why in features.damaged.items() if name not in hidden}
        absent = dict(features.absent) | {name: features.absent.get(name, "masked") for name in hidden}
        return replace(features, **nothing, absent=absent, damaged=damaged)

    def shapes(self, clip_id: str) -> dict[str, tuple[int, int]]:
        hidden = self._hidden(clip_id)
        return {name: shape for name, shape in self.store.shapes(clip_id).items() if name not in hidden}


def masked(dataset: ClipDataset, masks: pd.DataFrame) -> ClipDataset:
    """The same clips and labels with the modalities hidden that `masks` says."""
    from taemi_lib.models.batch import ClipDataset

    table = pd.DataFrame(dataset.targets, columns=list(EMOTIONS), index=dataset.clip_ids)
    store = MaskedStore(dataset.store, masks)
    return ClipDataset(store, _Rows(table), None, dataset.audio_average, dims=dataset.dims)


@dataclass(frozen=True)
class _Rows:
    """What ClipDataset reads of a manifest."""

    table: pd.DataFrame


# ------------------------------------------------------------------------------------------------- one run, in a worker


def _predict(run, dataset: ClipDataset, split: str) -> None:
    """Store what a finished run says about a split, unless it is there."""
    from taemi_lib.evaluation import evaluate

    path = run.folder / f"{split}.parquet"
    if not path.exists():
        buffer = io.BytesIO()
        evaluate(run, dataset, "cpu", resamples=0).table.to_parquet(buffer, index=False)
        files.write_bytes(path, buffer.getvalue())


def _train_and_predict(job: Job, data_root: str, runs_root: str, device: str) -> None:
    _forget_peak_memory()
    parts = steps.worker_datasets(job.profile, data_root, runs_root)
    run = job.train(parts, runs_root, device)
    _predict(run, parts["test"], TEST)
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


# --------------------------------------------------------------------------------------------------------------- a study


@dataclass(frozen=True)
class Study:
    """A grid of systems x seeds x regimes, where it lies, and how to compute it.

    systems    {regime: systems}
    seeds      of every system in every regime
    processes  None: as many as there are cores
    part       (2, 4): make the second fourth of the runs only; for several machines, on one runs folder or on copies of it
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
    part: tuple[int, int] = field(default=(1, 1))

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
        if not self._make([job for jobs in self._search_jobs().values() for job in jobs]):
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
        return is_finished(folder) and all((folder / f"{split}.parquet").exists() for split in _splits(job.system))

    def _store_masks(self, test: ClipDataset) -> None:
        path = _masks_file(self.profile, self.runs_root)
        if not path.exists():
            files.write_bytes(path, _csv(draw_masks(test).astype(int).reset_index()).encode())

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
    def chosen(self) -> dict[str, float]:
        """{system: chosen multiple of the profile's learning rate}"""
        return {row.system: row.factor for row in self.search[self.search["chosen"]].itertuples()}

    def _run(self, job: Job):
        from taemi_lib.training import load_run

        if not self._is_complete(job):
            raise FileNotFoundError(f"{job} is not there yet ({job.folder(self.runs_root)}): run the study first")
        return load_run(job.folder(self.runs_root))

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
                "peak_memory_mb": run.metrics["peak_memory_mb"],
                "learning_rate": run.config["training"]["learning_rate"],
                "versions": ", ".join(f"{name} {number}" for name, number in run.config["versions"].items()),
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
    def comparisons(self) -> pd.DataFrame:
        """regime, table, system, reference, delta (system minus reference), low, high, p_holm, verdict."""
        rows = []
        for (regime, table), family in self.families().items():
            results = statistics.holm(
                {
                    (system, reference): statistics.compare(self.rho(regime, system, split), self.rho(regime, reference, split))
                    for system, reference, split in family
                }
            )
            for (system, reference), result in results.items():
                row = {"regime": regime, "table": table, "system": system, "reference": reference, "delta": result.delta}
                rows.append(row | {"low": result.low, "high": result.high, "p_holm": result.p_holm, "verdict": result.verdict})
        columns = ["regime", "table", "system", "reference", "delta", "low", "high", "p_holm", "verdict"]
        return pd.DataFrame(rows, columns=columns).sort_values(columns[:4], ignore_index=True)

    def write(self, folder: str | Path = "results") -> Path:
        """runs.csv, comparisons.csv, ccc.csv, search.csv and missing_masks.csv: sorted and rounded, so that the same runs give the same
        files (but for seconds and memory, which no two runs have in common).
        """
        folder = resolve(folder)
        folder.mkdir(parents=True, exist_ok=True)
        key, concordance = ["regime", "system", "seed", "split"], [f"ccc/{name}" for name in EMOTIONS]
        runs = self.scores.drop(columns=["mean_ccc", *concordance])
        ccc = self.scores[[*key, "mean_ccc", *concordance]].set_axis([*key, "mean_ccc", *EMOTIONS], axis=1)
        for name, table in {
            "runs": runs.assign(seconds=runs["seconds"].round(1), peak_memory_mb=runs["peak_memory_mb"].round().astype(int)),
            "comparisons": self.comparisons.assign(p_holm=[float(f"{p:.2g}") for p in self.comparisons["p_holm"]]),
            "ccc": ccc,
            "search": self.search.drop(columns="factor"),
        }.items():
            files.write_bytes(folder / f"{name}.csv", _csv(_rounded(table)).encode())
        files.write_bytes(folder / "missing_masks.csv", _masks_file(self.profile, self.runs_root).read_bytes())
        return folder


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Scores to four digits; without the minus of a rounded zero."""
    exact = ("p_holm", "learning_rate", "seconds")
    scores = [name for name in table.select_dtypes("float") if name not in exact]
    return table.assign(**{name: table[name].round(4) + 0.0 for name in scores})


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


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


def whole_grid(profile: Profile, **options) -> Study:
    """The study of the committed results: all systems in the first regime, those of EVERYWHERE in the others."""
    first, *others = regimes(profile)
    everything = (REFERENCE, *(system for table in TABLES.values() for system in table))
    return Study(profile, {first: everything} | {regime: EVERYWHERE for regime in others}, **options)


def summary(study: Study) -> str:
    """The comparisons as a text table for each regime: scores over seeds, difference to the reference, verdict, cost."""
    lines = []
    scores, compared = study.scores, study.comparisons
    for regime in study.systems:
        here = scores[scores["regime"] == regime]
        lines += [f"regime {regime}: mean rho over {len(study.seeds)} seeds, test split; differences to {REFERENCE}, Holm-adjusted 95 %",
                  f"  {'system':28} {'rho':>5} {'SD':>5} {'official':>8}  {'difference':>10} {'interval':>16} {'p':>7}  "
                  f"{'verdict':24} {'parameters':>10} {'seconds':>7} {'rate':>7}"]  # fmt: skip
        for system in study.systems[regime]:
            own = here[here["system"] == system]
            test, official = (own[own["split"] == split]["mean_rho"] for split in (TEST, OFFICIAL))
            spread = f"{test.std():.3f}"[1:] if len(test) > 1 else "-"
            cost = f"{own['parameters'].iloc[0]:10,} {own['seconds'].mean():7.1f} {own['learning_rate'].iloc[0]:7g}"
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

"""The search: each system's own best setting, found with the same effort for all.

    space    the settings that are tried: the same for every system, and its own sizes beside them
    trial    one setting: trained with the first seed, cut where a third of the trials before it was
             better by then (at a quarter and at half of its epochs), else trained with the second
    chosen   the highest mean of the two seeds on the selection split
    wider    where a chosen value lies at the edge of its range, the value beyond is tried, too
    after    in further regimes, with fewer trials: the profile's own and the settings that did best
             in the first one

What a trial's epochs scored is stored, so a search that was stopped continues and chooses the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from taemi_lib import models, runs
from taemi_lib.batches import ClipDataset
from taemi_lib.errors import ChoiceError, Diverged, RunError
from taemi_lib.experiments.plan import SEARCH_SEEDS
from taemi_lib.experiments.space import OWN, SPACE, Settings, drawn, wider
from taemi_lib.experiments.tables import others, write_table
from taemi_lib.profiles import resolve
from taemi_lib.support import files
from taemi_lib.support.differences import differences
from taemi_lib.training import try_out
from taemi_lib.workspace import Job, Workspace, side_by_side, worker_datasets

TRIALS = 24
ORDERS = 1000  # in which `best_after` imagines the settings to have been tried
# share of a trial's epochs -> resource, as successive halving counts it: a third goes on each time
RUNGS = {0.25: 1, 0.5: 3}
_KEPT = (  # of an epoch
    *("epoch", "stage", "loss", "selection_rho", "selection_mae", "selection_loss"),
    "cpu_seconds",
)
COLUMNS = ["regime", "system", "trial", "drawn", *SPACE, "training.patience", OWN]


@dataclass
class Trial:
    """One setting of one system, and what came of it.

    drawn      False: not among those that every system is given, but beyond an edge
    ended      "whole", "cut" (hopeless) or "diverged"
    scores     one a seed that was trained to its end: the best epoch's on the selection split
    epochs     trained in all; cpu_seconds: what they cost
    """

    number: int
    settings: Settings
    drawn: bool = True
    ended: str = "whole"
    scores: list[float] = field(default_factory=list)
    epochs: int = 0
    cpu_seconds: float = 0.0

    @property
    def score(self) -> float:
        return float(np.mean(self.scores)) if self.ended == "whole" else -math.inf


@dataclass(frozen=True)
class Search:
    """A search for every system in every regime, where it lies, and how to compute it.

    systems    {regime: systems}, registered names
    trials     settings that each system is given; `wider` adds a few
    part       (2, 4): the second fourth of the searches only, for several machines
    after      a table of searches in the first regime: the settings are its best ones, not drawn
    """

    workspace: Workspace
    systems: Mapping[str, Sequence[str]]
    trials: int = TRIALS
    part: tuple[int, int] = (1, 1)
    after: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        check_regimes(self.workspace, self.systems)
        if self.trials < 2:
            raise ChoiceError(f"{self.trials} trials: a search needs at least 2")
        for job in self.jobs().values():
            self._candidates(job)  # raises for a system that the table does not have

    def _candidates(self, job: Job) -> list[Settings]:
        """What a search tries, in order."""
        if self.after is None:
            return drawn(job.workspace.profile, job.system, self.trials)
        first = self.workspace.label_sets[0]
        return best_of(self.after, first, job.name, self.trials)

    def jobs(self) -> dict[tuple[str, str], Job]:
        """{(regime, system): the job whose settings the trials change}"""
        return {
            (regime, name): Job(self.workspace.labelled(regime), models.find(name), SEARCH_SEEDS[0])
            for regime, names in self.systems.items()
            for name in names
        }

    def run(self) -> bool:
        """Make what is missing. False when other parts of it are still to be made elsewhere.

        Raises RunError, before anything is trained, when a search that is there was made with other
        clips, labels or features; and naming the system whose search failed; the others are kept.
        """
        self.workspace.require("train", "selection")
        jobs = list(self.jobs().values())
        for job in jobs:
            if _trials_file(job).exists():
                _refuse_other(_trials_file(job), _config(job, {}, worker_datasets(job.workspace)))
        number, count = self.part
        missing = [job for job in jobs[number - 1 :: count] if not _trials_file(job).exists()]
        candidates = {_key(job): self._candidates(job) for job in missing}
        side_by_side(partial(_search_and_keep, candidates=candidates), missing)
        return all(_trials_file(job).exists() for job in jobs)

    @property
    def table(self) -> pd.DataFrame:
        """Of the searches that are complete, a row a trial: regime, system, trial, drawn, its
        settings, seed_0 and seed_1 (the best epoch's merit on the selection split), score (mean),
        ended, epochs, cpu_seconds, chosen."""
        rows = []
        for (regime, system), job in self.jobs().items():
            if not _trials_file(job).exists():
                continue
            trials = [Trial(**kept) for kept in _kept(job, self.trials)]
            best = max(trials, key=lambda trial: trial.score)
            rows += [
                {"regime": regime, "system": system} | _row(trial, trial is best)
                for trial in trials
            ]
        return pd.DataFrame(rows)


def search_all(
    workspace: Workspace,
    systems: Mapping[str, Sequence[str]],
    trials: int = TRIALS,
    part: tuple[int, int] = (1, 1),
) -> pd.DataFrame | None:
    """The table of all searches that a study of these systems, {regime: systems}, needs: everything
    in the first regime, then in the others with fewer settings (`further`): those that did best in
    the first. Makes what is missing; None while other parts of it are still to be made elsewhere.
    """
    first = workspace.label_sets[0]
    everything = tuple(dict.fromkeys(name for names in systems.values() for name in names))
    begun = Search(workspace, {first: everything}, trials, part)
    if not begun.run():
        return None
    elsewhere = {regime: names for regime, names in systems.items() if regime != first}
    if not elsewhere:
        return begun.table
    then = Search(workspace, elsewhere, further(trials), part, after=begun.table)
    return pd.concat([begun.table, then.table]) if then.run() else None


def further(trials: int) -> int:
    """How many settings a system is given in each regime but the first."""
    return max(2, trials // 4)


def given(
    systems: Mapping[str, Sequence[str]], first: str, trials: int
) -> dict[tuple[str, str], int]:
    """{(regime, system): how many settings `search_all` gives it}"""
    return {
        (regime, name): trials if regime == first else further(trials)
        for regime, names in systems.items()
        for name in names
    }


def given_in(table: pd.DataFrame) -> dict[tuple[str, str], int]:
    """{(regime, system): how many settings it was given}, in a table of searches."""
    counts = table[table["drawn"]].groupby(["regime", "system"]).size()
    return {(str(regime), str(system)): int(count) for (regime, system), count in counts.items()}


def refuse_unequal(counts: Mapping[tuple[str, str], int], folder: str | Path | None = None) -> None:
    """Raises RunError where systems of one regime were given different numbers of settings, by
    `counts` or by the search.csv that may lie in a folder of tables: nothing should compare
    them."""
    path = None if folder is None else resolve(folder) / "search.csv"
    there = given_in(read_table(path)) if path is not None and path.exists() else {}
    for regime in {regime for regime, _ in counts}:
        here = {name: n for (where, name), n in (there | dict(counts)).items() if where == regime}
        least, most = min(here, key=here.__getitem__), max(here, key=here.__getitem__)
        if here[least] != here[most]:
            raise RunError(
                f"{least} was given {here[least]} settings in {regime} and {most} {here[most]}: in"
                " one table the fight would not be fair; give both the same number (--trials), or"
                f" another folder{f' than {folder}' if folder else ''} for these tables"
            )


def write_search(table: pd.DataFrame, path: str | Path) -> Path:
    """A table of searches as CSV. Rows there of other systems or regimes stay."""
    path = resolve(path)
    if path.exists():
        table = pd.concat([others(read_table(path), table), table])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, table.sort_values(["regime", "system", "trial"], ignore_index=True))
    return path


def read_table(path: str | Path) -> pd.DataFrame:
    """A table that `write_search` has written. Raises RunError for a file that is none."""
    try:
        table = pd.read_csv(
            resolve(path),
            keep_default_na=False,
            na_values={"seed_0": "", "seed_1": "", "score": ""},
        )
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not a table of a search ({error})") from error
    if missing := [name for name in (*COLUMNS, "chosen") if name not in table]:
        raise RunError(
            f"{path}: not a table that `taemi search` wrote: {', '.join(missing)} missing"
        )
    return table


def chosen(table: pd.DataFrame) -> dict[tuple[str, str], Settings]:
    """{(regime, system): the settings that its search chose}, from a table."""
    return {
        (row["regime"], row["system"]): _settings_of(row)
        for row in table[table["chosen"]].to_dict("records")
    }


def best_of(table: pd.DataFrame, regime: str, system: str, count: int) -> list[Settings]:
    """`count` settings of a system's search: the profile's own, then the others, the best first;
    behind those that were trained to their end, those that were cut latest.

    Raises ChoiceError where the table has no such search.
    """
    rows = table[(table["regime"] == regime) & (table["system"] == system)]
    if not len(rows):
        raise ChoiceError(f"the table has no search of {system} in {regime}")
    own = rows["trial"] == 0
    # as many digits as the file has: the same order from a table that was never written
    score = rows["score"].round(4).fillna(-math.inf).where(~own, math.inf)
    order = rows.assign(score=score).sort_values(
        ["score", "epochs", "trial"], ascending=[False, False, True]
    )
    return [_settings_of(row) for row in order.head(count).to_dict("records")]


def _settings_of(row: Mapping) -> Settings:
    """A row of a table as settings."""
    found: Settings = {name: row[name] for name in (*SPACE, "training.patience")}
    return found | ({OWN: row[OWN].split()} if row[OWN] else {})


def best_after(table: pd.DataFrame, regime: str, system: str, counts: Sequence[int]) -> np.ndarray:
    """The score that a search would have chosen after so many settings: (ORDERS, len(counts)).

    The profile's own comes first, then the others in ORDERS random orders, the same for every
    system; what `wider` added is left out, and a trial that was cut counts as not chosen.
    """
    rows = table[(table["regime"] == regime) & (table["system"] == system)].sort_values("trial")
    scores = rows["score"].to_numpy(float)[: rows["drawn"].sum()]
    scores = np.where(np.isnan(scores), -np.inf, scores)
    draw = np.random.default_rng(0)
    orders = [np.r_[0, 1 + draw.permutation(len(scores) - 1)] for _ in range(ORDERS)]
    return np.maximum.accumulate(scores[np.stack(orders)], axis=1)[:, [n - 1 for n in counts]]


# --------------------------------------------------------------------------------------------------
# one system


def search(
    job: Job, parts: Mapping[str, ClipDataset], candidates: Iterable[Settings]
) -> list[Trial]:
    """All trials of one system on these datasets, in order."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.create_study(
        direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    profile = job.workspace.profile
    trials: list[Trial] = []

    def tried(settings: Settings, among_drawn: bool) -> None:
        trials.append(_try(study, job, Trial(len(trials), settings, among_drawn), parts))

    for settings in candidates:
        tried(settings, True)
    if max(trial.score for trial in trials) == -math.inf:
        raise RunError(f"no setting of {job.name} could be trained to its end")
    best = max(trials, key=lambda trial: trial.score).settings
    for settings in wider(profile, job.system, best):
        tried(settings, False)
    return trials


def _try(study: optuna.Study, job: Job, trial: Trial, parts: Mapping[str, ClipDataset]) -> Trial:
    asked = study.ask()
    epochs = int(str(trial.settings["training.epochs"]))
    rungs = {max(1, round(share * epochs)): step for share, step in RUNGS.items()}
    reported: set[int] = set()

    def watch(history: list[dict]) -> None:
        """Of the first seed: report where a rung is reached, and leave where others were better."""
        scored = _scored(history)
        step = rungs.get(len(scored))
        if step is not None and step not in reported:
            reported.add(step)
            asked.report(max(scored), step)
            if asked.should_prune():
                raise optuna.TrialPruned

    watching: dict[int, Callable[[list[dict]], None] | None] = {SEARCH_SEEDS[0]: watch}
    try:
        for seed in SEARCH_SEEDS:
            _one_seed(job, trial, seed, parts, watching.get(seed))
    except optuna.TrialPruned:
        trial.ended = "cut"
        study.tell(asked, state=optuna.trial.TrialState.PRUNED)
    except Diverged:
        trial.ended = "diverged"
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(asked, trial.score)
    return trial


def _one_seed(
    job: Job,
    trial: Trial,
    seed: int,
    parts: Mapping[str, ClipDataset],
    watch: Callable[[list[dict]], None] | None,
) -> None:
    """Train a trial with one seed, or follow what is stored of that; its score is added."""
    place = _folder(job)
    path = place / f"trial{trial.number:02d}-seed{seed}.json"
    config = _config(job, trial.settings, parts, seed)
    history: list[dict] = []

    def follow(entries: list[dict]) -> None:
        history[:] = entries
        if watch is not None:
            watch(entries)

    try:
        record = _read_record(path, config)
        for count in range(1, len(record["history"]) + 1):
            follow(record["history"][:count])
        if record["ended"] == "diverged":
            raise Diverged(f"{job} diverged in trial {trial.number}")
        if record["ended"] != "whole":  # cut, and would not be now: another search left it there
            record = _train(job, trial.settings, seed, path, config, parts, follow)
    finally:
        trial.epochs += len(history)
        trial.cpu_seconds += sum(entry["cpu_seconds"] for entry in history)
    trial.scores.append(max(_scored(record["history"])))


def _train(
    job: Job,
    settings: Settings,
    seed: int,
    path: Path,
    config: dict,
    parts: Mapping[str, ClipDataset],
    follow: Callable[[list[dict]], None],
) -> dict:
    """Train, and store how it went. Nothing but the scores of the epochs is kept."""
    history: list[dict] = []

    def after_epoch(entries: list[dict]) -> None:
        history[:] = [{name: e[name] for name in _KEPT if name in e} for e in entries]
        follow(history)

    ended = "whole"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        try_out(
            job.system,
            parts["train"],
            parts["selection"],
            **_asked(job, settings, seed),
            device=job.workspace.device,
            after_epoch=after_epoch,
        )
    except optuna.TrialPruned:
        ended = "cut"
        raise
    except Diverged:
        ended = "diverged"
        raise
    except BaseException:
        ended = "interrupted"
        raise
    finally:
        record = {"ended": ended, "history": history, "config": config}
        if ended != "interrupted":
            files.write_json(path, record)  # in this order: what is stored is complete
    return record


def _scored(history: list[dict]) -> list[float]:
    """What the epochs of the last stage were worth; earlier stages have only a loss."""
    return [runs.merit(entry) for entry in history if "selection_rho" in entry]


def _read_record(path: Path, config: dict) -> dict:
    """What is stored of a trial and seed. Raises RunError when it is of another configuration."""
    if not path.exists():
        return {"ended": "missing", "history": []}
    return _refuse_other(path, config)


def _refuse_other(path: Path, config: dict) -> dict:
    """What a file of a search holds. Raises RunError when it is of another configuration; other
    library versions are only recorded."""
    kept = runs.read_kept(path)
    there = runs.upgraded(kept.get("config", {})) | {"versions": {}}
    if different := differences(there, config | {"versions": {}}):
        raise RunError(
            f"{path} is of another configuration ({'; '.join(different[:4])}): "
            "delete its folder to search anew"
        )
    return kept


def _asked(job: Job, settings: Settings, seed: int) -> dict[str, Any]:
    """The arguments of `train` that a trial decides."""
    profile = job.workspace.changed(settings).profile
    return {"model": profile.model, "training": profile.training, "seed": seed}


def _config(
    job: Job, settings: Settings, parts: Mapping[str, ClipDataset], seed: int = SEARCH_SEEDS[0]
) -> dict:
    """All that decides a trial, as JSON has it; without settings, what all trials share."""
    asked = _asked(job, settings, seed)
    config, _ = runs.describe(job.system, parts["train"], parts["selection"], **asked)
    return json.loads(json.dumps(config))


def _key(job: Job) -> tuple[str, str]:
    return job.workspace.label_set, job.name


def _search_and_keep(job: Job, candidates: Mapping[tuple[str, str], list[Settings]]) -> None:
    """A search in a process of its own; the list of its trials comes last."""
    with files.locked(_folder(job)):
        parts, asked = worker_datasets(job.workspace), candidates[_key(job)]
        kept = [asdict(trial) for trial in search(job, parts, asked)]
        made = {"asked": len(asked), "config": _config(job, {}, parts), "trials": kept}
        files.write_json(_trials_file(job), made)


def _folder(job: Job) -> Path:
    workspace = job.workspace
    return workspace.settings_folder / "search" / workspace.label_set / job.name


def _trials_file(job: Job) -> Path:
    return _folder(job) / "trials.json"


def _kept(job: Job, count: int) -> list[dict]:
    kept = runs.read_kept(_trials_file(job))
    if kept["asked"] != count:
        raise RunError(
            f"{_folder(job)} holds a search of {kept['asked']} trials, not {count}: "
            "delete it to search anew"
        )
    return kept["trials"]


def _row(trial: Trial, best: bool) -> dict:
    settings = trial.settings
    seeds = [*trial.scores, *[math.nan] * len(SEARCH_SEEDS)][: len(SEARCH_SEEDS)]
    return (
        {"trial": trial.number, "drawn": trial.drawn}
        | {name: settings[name] for name in (*SPACE, "training.patience")}
        | {OWN: " ".join(settings.get(OWN, ()))}  # type: ignore[arg-type]
        | {f"seed_{seed}": score for seed, score in zip(SEARCH_SEEDS, seeds, strict=True)}
        | {"score": trial.score if trial.ended == "whole" else math.nan}
        | {"ended": trial.ended, "epochs": trial.epochs}
        | {"cpu_seconds": round(trial.cpu_seconds, 1), "chosen": best}
    )


def check_regimes(workspace: Workspace, names: Iterable[str]) -> None:
    """Raises ChoiceError for a label set that the clips do not have, with those they have."""
    for name in names:
        if name not in workspace.label_sets:
            raise ChoiceError(
                f"unknown regime {name!r}; the label sets of these clips are: "
                f"{', '.join(workspace.label_sets)}"
            )

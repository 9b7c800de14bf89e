"""Where everything lies, and how it is found or made: clips -> features -> datasets -> runs.

A `Workspace` is a profile with two folders and a device. Every notebook and command starts from
one; each result is made once and found again:

    data/synthmimic-1200-seed7/                  generated clips, keyed by what makes clips
    runs/features/<clips>/<encoders>/            one safetensors file a clip
    runs/<settings>/systems/<labels>/<system>/seed<k>/   one trained run
    runs/<settings>/                             notebooks, evaluation.json, profile.toml

<settings> names the nearest profile and what differs from it: "demo+training.batch_size=8". A
folder's key holds what its contents depend on and nothing else, so that going back to earlier
settings finds the earlier results.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import pandas as pd
from tqdm.auto import tqdm

from taemi_lib import data as clip_data
from taemi_lib import models, profiles, runs
from taemi_lib.batches import ClipDataset
from taemi_lib.data import Manifest, synthmimic
from taemi_lib.errors import ChoiceError, ManifestError, RunError
from taemi_lib.features.extract import Report, extract, stored
from taemi_lib.features.store import Store
from taemi_lib.models.base import System
from taemi_lib.profiles import PROFILES, SPLITS, Model, Profile, Task, Training
from taemi_lib.runs import Run
from taemi_lib.support import device as devices
from taemi_lib.support import files, naming, workers
from taemi_lib.support.differences import flat
from taemi_lib.training import train

SYSTEMS = ("taemi", "constant_query", "text_only", "audio_only", "vision_only")
_ENCODERS = {"micro": PROFILES["demo"].encoders, "paper": PROFILES["paper"].encoders}


def _settings(profile: Profile, without: Iterable[str] = ()) -> dict[str, object]:
    """{dotted name: value} of what decides results; a table is named apart."""
    left_out = {"name", "data.table", "data.features", *without}
    return {
        name: value
        for name, value in flat(profile.as_dict()).items()
        if name not in left_out and not name.startswith("limits.")
    }


def shown(path: Path) -> Path:
    """A path as a reader wants it: inside the repository, relative to it."""
    return path.relative_to(profiles.ROOT) if path.is_relative_to(profiles.ROOT) else path


def _strangers(folder: Path) -> list[str]:
    """What the generator did not make there."""
    if not folder.is_dir():
        return [folder.name] if folder.exists() else []
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if not entry.name.startswith((".", "synthmimic-"))
        and not (entry / synthmimic.SETTINGS).is_file()
    )


def _unscorable(manifest: Manifest, split: str) -> list[str]:
    """Why the correlation on a split that is scored would be undefined, in a line."""
    if split not in ("selection", "test"):
        return []
    names = list(manifest.task.targets)
    labels = manifest.table.loc[manifest.table["split"] == split, names]
    same = [name for name in names if labels[name].nunique() <= 1]
    if not same:
        return []
    return [
        f"{', '.join(same)}: the same in all {len(labels)} clips of the split {split!r}, so no "
        f"correlation is defined; more clips are needed there (--set data.{split}_share=0.3 where "
        "splits are drawn)"
    ]


def _write_settings(path: Path, profile: Profile, *sections: str) -> None:
    """The settings a folder belongs to, for its readers."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.sweep(path.parent)
        files.write_bytes(path, profiles.to_toml(profile, sections).encode())


@dataclass(frozen=True, init=False)
class Workspace:
    """A profile, where its clips and results lie, and on what to compute.

    profile     a Profile, its name, or the path of a TOML file
    data_root   where clips are: generated ones get a folder in it, the official layout is the
                folder itself; a table of own clips says itself where it lies
    runs_root   where results go; relative folders are seen from the repository
    progress    show progress bars; None: unless TQDM_DISABLE is set, as in batch runs
    processes   trainings side by side; None: as many as there are cores
    imports     files of own systems, for the worker processes
    Raises ChoiceError for a profile that does not exist.
    """

    profile: Profile
    data_root: Path
    runs_root: Path
    device: str
    progress: bool
    processes: int | None
    imports: tuple[str, ...]

    def __init__(
        self,
        profile: str | Path | Profile = "demo",
        data_root: str | Path = "data",
        runs_root: str | Path = "runs",
        device: str = "auto",
        progress: bool | None = None,
        processes: int | None = None,
        imports: Iterable[str | Path] = (),
    ) -> None:
        for name, value in {
            "profile": profiles.load(profile),
            "data_root": profiles.resolve(data_root),
            "runs_root": profiles.resolve(runs_root),
            "device": device,
            "progress": "TQDM_DISABLE" not in os.environ if progress is None else progress,
            "processes": processes,
            "imports": tuple(map(str, imports)),
        }.items():
            object.__setattr__(self, name, value)

    def changed(self, settings: Mapping[str, object]) -> Workspace:
        """The same with other settings: changed({"training.batch_size": 8})."""
        return dataclasses.replace(self, profile=self.profile.changed(settings))

    def labelled(self, label_set: str) -> Workspace:
        """The same with another of its label sets; clips that are not generated have one only."""
        return self.changed({"data.regime": label_set}) if self.generated else self

    def check(self) -> None:
        """Raises ChoiceError, before anything is made, when the settings name no place to read
        clips from."""
        if self.profile.data.source == "csv" and self.profile.data.table is None:
            raise ChoiceError(
                f"profile {self.profile.name!r} reads own clips and has no table: "
                "give one with --set data.table=clips.csv, in a notebook "
                'settings = {"data.table": "clips.csv"}'
            )
        if self.profile.data.source == "features":
            folder = self.profile.data.features
            if folder is None:
                raise ChoiceError(
                    f"profile {self.profile.name!r} reads imported features and has no folder: "
                    "`taemi import SOURCE --to FOLDER` makes one, then --set data.features=FOLDER"
                )
            if not (profiles.resolve(folder) / "clips.csv").is_file():
                raise ChoiceError(
                    f"data.features = {folder!r}: no clips.csv there, so nothing was imported into "
                    "it completely: `taemi import SOURCE --to FOLDER` makes or completes it"
                )
        if self.profile.data.source == "vidmimic2" and not (self.data_root / "raw").is_dir():
            raise ChoiceError(
                f"profile {self.profile.name!r} reads the official layout, and data_root = "
                f"{shown(self.data_root)} has no folder raw/: give --data-root (in a notebook "
                "data_root) the folder of train_split.csv, valid_split.csv and raw/"
            )
        if self.generated and (strangers := _strangers(self.data_root)):
            raise ChoiceError(
                f"profile {self.profile.name!r} would write generated clips into data_root = "
                f"{shown(self.data_root)}, which holds {', '.join(strangers[:3])}: give an empty "
                "folder, or for own clips --profile own, for the official layout --profile paper"
            )
        devices.choose(self.device)

    # --- places

    @property
    def generated(self) -> bool:
        """Whether the clips are generated: only then are there label sets and planted truth."""
        return self.profile.data.source == "synthmimic"

    @property
    def label_set(self) -> str:
        """Which labels: generated clips have several sets, other data one, called like its
        source."""
        return self.profile.data.regime if self.generated else self.profile.data.source

    @property
    def label_sets(self) -> tuple[str, ...]:
        """All label sets of the clips, the main one first."""
        return synthmimic.REGIMES if self.generated else (self.label_set,)

    @property
    def label(self) -> str:
        """The settings in readable form: "demo", "demo+training.batch_size=8"."""
        return self._label()

    @property
    def folder(self) -> Path:
        """Of what the notebooks make under these very settings."""
        return self.runs_root / self.label

    def open_folder(self) -> Path:
        """`folder`, made, with a profile.toml that holds all of its settings."""
        _write_settings(self.folder / "profile.toml", self.profile)
        return self.folder

    @property
    def clips_folder(self) -> Path:
        """Of the clips."""
        if self.generated:
            return self.data_root / self._clips_name
        if (imported := self.profile.data.features) is not None:
            return profiles.resolve(imported)
        table = self.profile.data.table
        return self.data_root if table is None else profiles.resolve(table).parent

    @property
    def features_folder(self) -> Path:
        """Of the features: clips and encoders make them, nothing else does. Imported ones lie with
        their clips."""
        if self.profile.data.source == "features":
            return self.clips_folder
        known = {name: dataclasses.asdict(encoders) for name, encoders in _ENCODERS.items()}
        asked = dataclasses.asdict(self.profile.encoders)
        name = naming.named(*naming.nearest(known, asked))
        return self.runs_root / "features" / self._clips_name / name

    @property
    def settings_folder(self) -> Path:
        """Of the runs, their seeds and label sets apart."""
        return self.runs_root / self._label(without=("seeds", "data.regime"))

    def run_folder(self, system: str | type[System], seed: int) -> Path:
        """Of one trained run."""
        name = models.find(system).name
        return self.settings_folder / "systems" / self.label_set / name / f"seed{seed}"

    @property
    def _clips_name(self) -> str:
        """Which clips, in a name: data that is not generated gets a mark of where it lies."""
        settings = self.profile.data
        if self.generated:
            return f"synthmimic-{settings.clips}-seed{settings.seed}"
        named = settings.table or settings.features
        place = self.data_root if named is None else profiles.resolve(named)
        return f"{naming.safe(place.stem)}-{naming.mark(str(place.absolute()))}"

    def _label(self, without: tuple[str, ...] = ()) -> str:
        """The nearest named profile and what differs from it, some settings left aside; and which
        clips, where these are not generated."""
        source = self.profile.data.source
        folder = self.profile.data.features
        if folder is not None and profiles.imported_task(folder) == self.profile.task:
            # the folder says which task, and the label says which folder
            without += tuple(f"task.{field.name}" for field in dataclasses.fields(Task))
        known = {
            name: _settings(profile, without)
            for name, profile in PROFILES.items()
            if profile.data.source == source
        }
        near, differs = naming.nearest(known, _settings(self.profile, without))
        clips = {} if self.generated else {"clips": self._clips_name}
        return naming.named(near, clips | differs)

    # --- what is found or made

    def clips(self) -> Manifest:
        """The clip table. Generated clips that are missing are made.

        Raises ChoiceError without a place to read from, ManifestError for a table or files that
        break rules.
        """
        self.check()
        settings, folder = self.profile.data, self.clips_folder
        if self.generated:
            synthmimic.generate(folder, settings, progress=self.progress)
        return clip_data.load(settings, folder, self.profile.task)

    def truth(self) -> pd.DataFrame | None:
        """What was planted in generated clips; None for clips of which nobody knows it."""
        if not self.generated:
            return None
        self.clips()
        return synthmimic.truth(self.clips_folder)

    def groups(self) -> dict[str, str]:
        """{clip: whose it is}: the voice of generated clips, the table's `group` of others."""
        truth = self.truth()
        return self.clips().groups if truth is None else truth["voice"].to_dict()

    def features(self) -> tuple[Store, Report]:
        """Features of every clip, and what is absent and why. A clip is encoded again only when
        its files have changed."""
        return self._encoded(self.clips())

    def _encoded(self, manifest: Manifest) -> tuple[Store, Report]:
        folder = self.features_folder
        if self.profile.data.source == "features":
            store = Store(folder)
            return store, stored(manifest, store)
        report = extract(
            manifest,
            self.profile.encoders,
            folder,
            device=self.device,
            progress=self.progress,
            limits=self.profile.limits,
        )
        _write_settings(folder / "encoders.toml", self.profile, "encoders")
        return Store(folder), report

    def datasets(self) -> dict[str, ClipDataset]:
        """{split: stored features with labels}, of the splits that have clips."""
        manifest = self.clips()
        return self._splits(manifest, self._encoded(manifest)[0])

    def stored(self) -> dict[str, ClipDataset]:
        """`datasets` as far as they are there: nothing is generated or encoded for it.

        Raises ManifestError or OSError where clips are missing, StoreError without features,
        ValueError where some clips have none.
        """
        manifest = clip_data.load(self.profile.data, self.clips_folder, self.profile.task)
        return self._splits(manifest, Store(self.features_folder))

    def _splits(self, manifest: Manifest, store: Store) -> dict[str, ClipDataset]:
        settings = self.profile.data
        if settings.train_clips is not None:
            manifest = manifest.thinned("train", settings.train_clips, settings.seed)
        there, average = set(manifest.table["split"]), self.profile.training.audio_average
        return {
            split: ClipDataset(store, manifest, split, average)
            for split in SPLITS
            if split in there
        }

    def require(self, *splits: str) -> dict[str, ClipDataset]:
        """`datasets`, when these splits have clips. Raises ManifestError as `require_clips`."""
        self.require_clips(*splits)
        return self.datasets()

    def require_clips(self, *splits: str) -> Manifest:
        """`clips`, when these splits have some and can be scored: asked before anything is encoded.

        Raises ManifestError naming the split that has no clips, or in which an emotion never
        varies, and what to do.
        """
        manifest = self.clips()
        there = set(manifest.table["split"])
        if missing := [split for split in splits if split not in there]:
            raise ManifestError(
                manifest.source,
                [
                    f"no clips in the split {split!r}: it has {', '.join(sorted(there))}; "
                    "mark some in the column split, or leave the column out of a labelled table"
                    for split in missing
                ],
            )
        if flat := [line for split in splits for line in _unscorable(manifest, split)]:
            raise ManifestError(manifest.source, flat)
        return manifest

    def train(self, system: str | type[System], seed: int = 0) -> Run:
        """One run, found or trained in this process."""
        parts = self.require("train", "selection")
        return Job(self, models.find(system), seed).train(parts, progress=self.progress)

    def runs(
        self,
        systems: Iterable[str | type[System]] = SYSTEMS,
        seeds: Iterable[int] | None = None,
    ) -> dict[tuple[str, int], Run]:
        """{(system, seed): finished run}. Runs that are missing are trained side by side; an
        interrupted run continues where it stopped.

        Raises ChoiceError for a system that does not exist; RunError when a run that is there is of
        another configuration, naming the difference, before anything is trained, and when a run
        fails, naming system and seed; the others are kept.
        """
        found = [models.find(system) for system in systems]
        jobs = [
            Job(self, system, seed)
            for system in found
            for seed in (self.profile.seeds if seeds is None else tuple(seeds))
        ]
        parts = self.require("train", "selection")  # once, before the workers ask for it
        for job in jobs:
            job.check(parts)
        side_by_side(train_job, [job for job in jobs if not runs.is_finished(job.folder)])
        return {(job.name, job.seed): job.train(parts) for job in jobs}


# --------------------------------------------------------------------------------------------------
# runs in processes of their own


@dataclass(frozen=True)
class Job:
    """One run: which system, with which seed, in which workspace."""

    workspace: Workspace
    system: type[System]
    seed: int

    def __str__(self) -> str:
        return f"{self.name} with seed {self.seed} ({self.workspace.label})"

    def __getstate__(self) -> tuple:  # a worker finds the class by its name, however it was made
        return self.workspace, self.name, self.seed

    def __setstate__(self, state: tuple) -> None:
        workspace, name, seed = state
        for field, value in zip(
            ("workspace", "system", "seed"), (workspace, models.find(name), seed), strict=True
        ):
            object.__setattr__(self, field, value)

    @property
    def name(self) -> str:
        return self.system.name

    @property
    def systems(self) -> tuple[type[System], ...]:
        return (self.system,)

    @property
    def folder(self) -> Path:
        return self.workspace.run_folder(self.system, self.seed)

    def _settings(self) -> dict:
        profile = self.workspace.profile
        return {
            "model": profile.model,
            "training": profile.training,
            "run_folder": self.folder,
            "seed": self.seed,
            # imported features: what made them is not known, and no new clip can be read
            "encoders": None
            if profile.data.source == "features"
            else dataclasses.asdict(profile.encoders),
        }

    def train(self, parts: Mapping[str, ClipDataset], progress: bool = False) -> Run:
        """The run of this job on these datasets: a finished one as it is, one of another
        configuration refused."""
        _write_settings(self.workspace.settings_folder / "profile.toml", self.workspace.profile)
        return train(
            self.system,
            parts["train"],
            parts["selection"],
            **self._settings(),
            device=self.workspace.device,
            progress=progress,
        )

    def check(self, parts: Mapping[str, ClipDataset]) -> None:
        """Raises RunError naming the difference when the folder holds a run, finished or not, of
        another configuration or data."""
        runs.check(self.system, parts["train"], parts["selection"], **self._settings())


# One set of clips: a worker's memory is that of the run it trains, whatever it trained before.
@lru_cache(maxsize=1)
def _datasets(workspace: Workspace) -> dict[str, ClipDataset]:
    return workspace.datasets()


def worker_datasets(workspace: Workspace) -> dict[str, ClipDataset]:
    """`datasets` in a worker process: kept as long as jobs use the same clips and labels, whatever
    else they vary."""
    profile = workspace.profile
    same = dataclasses.replace(
        profile,
        training=Training(audio_average=profile.training.audio_average),
        model=Model(),
        seeds=(0,),
    )
    return _datasets(
        dataclasses.replace(workspace, profile=same, device="cpu", progress=False, processes=None)
    )


def train_job(job: Job) -> None:
    """One run, in a process of its own."""
    job.train(worker_datasets(job.workspace))


class Work(Protocol):
    """What a process of its own can be asked for: a Job, or something else about some systems."""

    @property
    def workspace(self) -> Workspace: ...

    @property
    def systems(self) -> tuple[type[System], ...]: ...


Asked = TypeVar("Asked", bound=Work)


def side_by_side(
    work: Callable[[Asked], None], jobs: Sequence[Asked], doing: str = "training", unit: str = "run"
) -> None:
    """work(job) for each job, all of one workspace's place and device: one process and one torch
    thread each, so that results do not depend on how many cores there are.

    doing and unit name it on the progress bar and in errors.
    A system defined in a notebook or function is dealt with in this process: no other can see it.
    Raises RunError naming the job that failed; what was finished is kept.
    """
    if not jobs:
        return
    workers.refuse_unguarded()
    workspace = jobs[0].workspace
    chosen = devices.choose(workspace.device)
    own = [job for job in jobs if any(map(_only_here, job.systems))]
    others = [job for job in jobs if job not in own]
    with tqdm(total=len(jobs), desc=doing, unit=unit, disable=not workspace.progress) as bar:
        if others:
            _in_processes(work, others, workspace, chosen.type, bar, doing)
        for job in own:
            work(job)
            bar.update()


def _only_here(system: type[System]) -> bool:
    """Whether no other process can import this class: it was written in a notebook or function."""
    return system.__module__ == "__main__" or "<locals>" in system.__qualname__


def _in_processes(
    work: Callable[[Asked], None],
    jobs: list[Asked],
    workspace: Workspace,
    device: str,
    bar: tqdm,
    doing: str,
) -> None:
    count = 1 if device == "cuda" else min(workspace.processes or os.cpu_count() or 1, len(jobs))
    homes = tuple(sorted({system.__module__ for job in jobs for system in job.systems}))
    own = (str(sys.modules[home].__file__) for home in homes if home.startswith(models.USER))
    given = (*dict.fromkeys((*workspace.imports, *own)),)
    context, arguments = workers.context(device), (given, homes, dict(os.environ))
    with ProcessPoolExecutor(count, context, _prepare, arguments) as executor:
        started = {executor.submit(work, job): job for job in jobs}
        for done in as_completed(started):
            try:
                done.result()
            except Exception as error:
                executor.shutdown(cancel_futures=True)
                raise RunError(f"{doing} {started[done]} failed: {error}") from error
            bar.update()
            bar.set_postfix_str(str(started[done]))


def _prepare(own_files: Sequence[str], homes: Sequence[str], environment: dict[str, str]) -> None:
    """A worker begins: it knows every system that it will be asked for."""
    workers.end_with_parent()
    workers.take_over(environment)
    for path in own_files:
        models.import_systems(path)
    for home in homes:
        importlib.import_module(home)

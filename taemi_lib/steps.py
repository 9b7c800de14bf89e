"""The steps of the course, each of which finds its result or makes it: clips -> features ->
datasets -> trained runs.

Every notebook starts from one of these calls, so each runs on its own and none computes twice.
Places:

    data/<profile>/                                        generated clips (real data: data_root
                                                           itself)
    runs/<profile>/features/                               one safetensors file a clip
    runs/<profile>/systems/<regime>/<system>/seed<k>/      one trained run
    runs/<profile>/systems/<regime>/<system>-lr0.006/...   the same with one setting changed
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from taemi_lib import data as sources
from taemi_lib.profiles import Model, Profile, Training, resolve
from taemi_lib.support import workers

if TYPE_CHECKING:
    from taemi_lib.batches import ClipDataset
    from taemi_lib.data import Manifest
    from taemi_lib.features.extract import Report
    from taemi_lib.features.store import Store
    from taemi_lib.training import Run

SYSTEMS = ("taemi", "constant_query", "text_only", "audio_only", "vision_only")


def _shown(progress: bool | None) -> bool:
    """Whether to show progress bars: as asked, else unless TQDM_DISABLE is set, as in batch runs of
    the notebooks."""
    return "TQDM_DISABLE" not in os.environ if progress is None else progress


def data_folder(profile: Profile, data_root: str | Path = "data") -> Path:
    """Where the clips lie: a folder per profile for generated clips, `data_root` itself for real
    ones."""
    root = resolve(data_root)
    return root / profile.name if profile.data.source == "synthmimic" else root


def clips(
    profile: Profile, data_root: str | Path = "data", progress: bool | None = None
) -> Manifest:
    """The clip table. Generated clips that are missing are made; real data that is missing raises
    ManifestError."""
    folder = data_folder(profile, data_root)
    if profile.data.source == "synthmimic":
        from taemi_lib.data import synthmimic

        synthmimic.generate(folder, profile.data, progress=_shown(progress))
    return sources.load(profile.data, folder)


def features(
    profile: Profile,
    data_root: str | Path = "data",
    runs_root: str | Path = "runs",
    device: str = "auto",
    progress: bool | None = None,
) -> tuple[Store, Report]:
    """Features of every clip, and what is absent and why. Clips that are in the store already are
    not encoded again."""
    from taemi_lib.features.extract import extract
    from taemi_lib.features.store import Store

    folder = resolve(runs_root) / profile.name / "features"
    report = extract(
        clips(profile, data_root, progress),
        profile.encoders,
        folder,
        device=device,
        progress=_shown(progress),
    )
    return Store(folder), report


def datasets(
    profile: Profile,
    data_root: str | Path = "data",
    runs_root: str | Path = "runs",
    device: str = "auto",
    progress: bool | None = None,
) -> dict[str, ClipDataset]:
    """{"train", "selection", "test"}: stored features with labels."""
    from taemi_lib.batches import ClipDataset

    store, _ = features(profile, data_root, runs_root, device, progress)
    manifest = clips(profile, data_root, progress)
    if profile.data.train_clips is not None:
        manifest = manifest.thinned("train", profile.data.train_clips, profile.data.seed)
    return {
        split: ClipDataset(store, manifest, split, profile.training.audio_average)
        for split in ("train", "selection", "test")
    }


def regime_name(profile: Profile) -> str:
    """The regime of generated labels; real data has one set of labels, called like its source."""
    return profile.data.regime if profile.data.source == "synthmimic" else profile.data.source


@dataclass(frozen=True)
class Job:
    """One run: which system, with which seed, under which settings.

    variant  names what differs from the profile of that name ("lr0.006", "train100"): it gets
             folders of its own
    """

    profile: Profile
    system: str
    seed: int
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.name} with seed {self.seed}"

    @property
    def name(self) -> str:
        return f"{self.system}-{self.variant}" if self.variant else self.system

    def folder(self, runs_root: str | Path = "runs") -> Path:
        place = resolve(runs_root) / self.profile.name / "systems" / regime_name(self.profile)
        return place / self.name / f"seed{self.seed}"

    def _settings(self, runs_root: str | Path) -> dict:
        return {
            "model": self.profile.model,
            "training": self.profile.training,
            "run_folder": self.folder(runs_root),
            "seed": self.seed,
            "encoders": dataclasses.asdict(self.profile.encoders),
        }

    def train(
        self, parts: dict[str, ClipDataset], runs_root: str | Path, device: str | None = None
    ) -> Run:
        """The run of this job on these datasets: a finished one as it is, one of another
        configuration refused."""
        from taemi_lib.training import train

        return train(
            self.system,
            parts["train"],
            parts["selection"],
            **self._settings(runs_root),
            device=device,
            progress=False,
        )

    def check(self, parts: dict[str, ClipDataset], runs_root: str | Path) -> None:
        """Raises RunError naming the difference when the folder holds a run, finished or not, of
        another configuration or data."""
        from taemi_lib.training import check_run

        check_run(self.system, parts["train"], parts["selection"], **self._settings(runs_root))


def run_folder(profile: Profile, system: str, seed: int, runs_root: str | Path = "runs") -> Path:
    return Job(profile, system, seed).folder(runs_root)


@lru_cache(
    maxsize=1
)  # one set of clips: a worker's memory is that of the run it trains, whatever it trained before
def _datasets(profile: Profile, data_root: str, runs_root: str) -> dict[str, ClipDataset]:
    return datasets(profile, data_root, runs_root, "cpu", progress=False)


def worker_datasets(profile: Profile, data_root: str, runs_root: str) -> dict[str, ClipDataset]:
    """`datasets` in a worker process: kept as long as jobs use the same clips and labels, whatever
    else they vary."""
    same = Training(audio_average=profile.training.audio_average)
    return _datasets(
        dataclasses.replace(profile, training=same, model=Model(), seeds=()), data_root, runs_root
    )


def _train(job: Job, data_root: str, runs_root: str, device: str) -> None:
    """One run, in a process of its own."""
    job.train(worker_datasets(job.profile, data_root, runs_root), runs_root, device)


def side_by_side(
    work: Callable,
    jobs: Sequence[Job],
    data_root: str | Path,
    runs_root: str | Path,
    device: str,
    progress: bool | None = None,
    processes: int | None = None,
) -> None:
    """work(job, data_root, runs_root, device) for each job: one process and one torch thread each,
    so that results do not depend on how many cores there are. Raises RuntimeError naming the job
    that failed; what was finished is kept.
    """
    from taemi_lib.support.device import choose

    if not jobs:
        return
    chosen = choose(device)
    count = 1 if chosen.type == "cuda" else min(processes or os.cpu_count() or 1, len(jobs))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, workers.end_with_parent) as executor:
        started = {
            executor.submit(work, job, str(data_root), str(runs_root), str(chosen)): job
            for job in jobs
        }
        bar = tqdm(
            as_completed(started),
            total=len(jobs),
            desc="training",
            unit="run",
            disable=not _shown(progress),
        )
        for done in bar:
            try:
                done.result()
            except Exception as error:
                executor.shutdown(cancel_futures=True)
                raise RuntimeError(f"training {started[done]} failed: {error}") from error
            bar.set_postfix_str(str(started[done]))


def runs(
    profile: Profile,
    systems: Iterable[str] = SYSTEMS,
    seeds: Iterable[int] | None = None,
    data_root: str | Path = "data",
    runs_root: str | Path = "runs",
    device: str = "auto",
    progress: bool | None = None,
    processes: int | None = None,
) -> dict[tuple[str, int], Run]:
    """{(system, seed): finished run}. Runs that are missing are trained side by side; an
    interrupted run goes on where it stopped.

    Raises RunError when a finished run is of another configuration, naming the difference, before
    anything is trained; RuntimeError naming system and seed when a run fails, the others are kept.
    """
    from taemi_lib.models import find
    from taemi_lib.training import is_finished

    seeds = profile.seeds if seeds is None else tuple(seeds)
    jobs = [Job(profile, system, seed) for system in systems for seed in seeds]
    for job in jobs:
        find(job.system)  # raises ChoiceError with the valid names, before anything is computed
    parts = datasets(
        profile, data_root, runs_root, device, progress
    )  # once, before the workers ask for it
    for job in jobs:
        job.check(
            parts, runs_root
        )  # runs of other settings are refused before hours of training, not after
    missing = [job for job in jobs if not is_finished(job.folder(runs_root))]
    side_by_side(_train, missing, data_root, runs_root, device, progress, processes)
    return {(job.system, job.seed): job.train(parts, runs_root) for job in jobs}

"""The steps of the course, each of which finds its result or makes it: clips -> features -> datasets -> trained runs.

Every notebook starts from one of these calls, so each runs on its own and none computes twice. Places:

    data/<profile>/                                        generated clips (real data: data_root itself)
    runs/<profile>/features/                               one safetensors file a clip
    runs/<profile>/systems/<regime>/<system>/seed<k>/      one trained run
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from taemi_lib import data as sources
from taemi_lib import workers
from taemi_lib.profiles import Profile, resolve

if TYPE_CHECKING:
    from taemi_lib.data import Manifest
    from taemi_lib.features.extract import Report
    from taemi_lib.features.store import Store
    from taemi_lib.models.batch import ClipDataset
    from taemi_lib.training import Run

SYSTEMS = ("taemi", "constant_query", "text_only", "audio_only", "vision_only")


def _shown(progress: bool | None) -> bool:
    """Whether to show progress bars: as asked, else unless TQDM_DISABLE is set, as in batch runs of the notebooks."""
    return "TQDM_DISABLE" not in os.environ if progress is None else progress


def data_folder(profile: Profile, data_root: str | Path = "data") -> Path:
    """Where the clips lie: a folder per profile for generated clips, `data_root` itself for real ones."""
    root = resolve(data_root)
    return root / profile.name if profile.data.source == "synthmimic" else root


def clips(profile: Profile, data_root: str | Path = "data", progress: bool | None = None) -> Manifest:
    """The clip table. Generated clips that are missing are made; real data that is missing raises ManifestError."""
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
    """Features of every clip, and what is absent and why. Clips that are in the store already are not encoded again."""
    from taemi_lib.features.extract import extract
    from taemi_lib.features.store import Store

    folder = resolve(runs_root) / profile.name / "features"
    report = extract(
        clips(profile, data_root, progress), profile.encoders, folder, device=device, progress=_shown(progress)
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
    from taemi_lib.models.batch import ClipDataset

    store, _ = features(profile, data_root, runs_root, device, progress)
    manifest = clips(profile, data_root, progress)
    return {
        split: ClipDataset(store, manifest, split, profile.training.audio_average)
        for split in ("train", "selection", "test")
    }


def run_folder(profile: Profile, system: str, seed: int, runs_root: str | Path = "runs") -> Path:
    regime = profile.data.regime if profile.data.source == "synthmimic" else profile.data.source
    return resolve(runs_root) / profile.name / "systems" / regime / system / f"seed{seed}"


@cache
def _datasets_of_worker(profile: Profile, data_root: str, runs_root: str) -> dict[str, ClipDataset]:
    return datasets(profile, data_root, runs_root, "cpu", progress=False)


def _training_arguments(profile: Profile, parts: dict, system: str, seed: int, runs_root: str | Path) -> dict:
    return {
        "train": parts["train"],
        "selection": parts["selection"],
        "model": profile.model,
        "training": profile.training,
        "run_folder": run_folder(profile, system, seed, runs_root),
        "seed": seed,
        "encoders": dataclasses.asdict(profile.encoders),
    }


def _train(profile: Profile, system: str, seed: int, data_root: str, runs_root: str, device: str) -> str:
    """One run, in a process of its own. Returns its folder."""
    from taemi_lib.training import train

    arguments = _training_arguments(profile, _datasets_of_worker(profile, data_root, runs_root), system, seed, runs_root)
    return str(train(system, **arguments, device=device, progress=False).folder)


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
    """{(system, seed): finished run}. Runs that are missing are trained side by side, one process and one torch thread each, so
    that results do not depend on how many cores there are; an interrupted run goes on where it stopped.

    Raises ValueError when a finished run is of another configuration, naming the difference, before anything is trained;
    RuntimeError naming system and seed when a run fails, the others are kept.
    """
    from taemi_lib.device import choose
    from taemi_lib.models import create, names
    from taemi_lib.training import is_finished, train

    wanted = [(system, seed) for system in systems for seed in (profile.seeds if seeds is None else seeds)]
    for system, _ in wanted:
        if system not in names():
            create(system)  # raises ChoiceError with the valid names, before anything is computed
    parts = datasets(profile, data_root, runs_root, device, progress)  # once, before the workers ask for it

    def finished(job: tuple[str, int]) -> Run:
        """As it is; one of another configuration is refused, naming the difference."""
        return train(job[0], **_training_arguments(profile, parts, *job, runs_root))

    missing = [job for job in wanted if not is_finished(run_folder(profile, *job, runs_root))]
    found = {job: finished(job) for job in wanted if job not in missing}  # refused before hours of training, not after
    if missing:
        chosen = choose(device)
        count = 1 if chosen.type == "cuda" else min(processes or os.cpu_count() or 1, len(missing))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, context, workers.end_with_parent) as executor:
            arguments = (str(data_root), str(runs_root), str(chosen))
            jobs = {executor.submit(_train, profile, *job, *arguments): job for job in missing}
            bar = tqdm(as_completed(jobs), total=len(jobs), desc="training", unit="run", disable=not _shown(progress))
            for done in bar:
                system, seed = jobs[done]
                try:
                    done.result()
                except Exception as error:
                    executor.shutdown(cancel_futures=True)
                    raise RuntimeError(f"training {system} with seed {seed} failed: {error}") from error
                bar.set_postfix_str(f"{system}, seed {seed}")
    return {job: found.get(job) or finished(job) for job in wanted}

"""What training for losses buys: TAEMI with and without its missing tokens, at four rates of
modality dropout, trained on clips as they are and on spoiled ones.

Everything else is the same in all sixteen arms: the settings that TAEMI's search has chosen. So
what differs between two arms is what the mechanism between them does, not what a search found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from taemi_lib import models, runs
from taemi_lib.batches import ClipDataset
from taemi_lib.data.noise import rng_of
from taemi_lib.experiments.masks import in_place_of
from taemi_lib.experiments.plan import REFERENCE
from taemi_lib.experiments.robustness import noisy
from taemi_lib.experiments.robustness.conditions import (
    LEVELS,
    MEASURED,
    SEED,
    STEPS,
    Condition,
    Noisy,
    without_steps,
)
from taemi_lib.experiments.space import Settings
from taemi_lib.profiles import MODALITIES
from taemi_lib.runs import Run
from taemi_lib.support import device as devices
from taemi_lib.workspace import Job, Workspace, side_by_side, train_job, worker_datasets

DROPOUT = (0.0, 0.1, 0.3, 0.5)
WITHOUT_TOKENS = "taemi_no_missing_tokens"
COMPLETE_SHARE = 0.5  # of the spoiled training clips that stay as they are


@dataclass(frozen=True)
class Arm:
    """tokens: stand-ins for what is missing, or zeros; dropout: the rate of modality dropout;
    spoiled: what it was trained on."""

    tokens: bool
    dropout: float
    spoiled: bool

    @property
    def system(self) -> str:
        return REFERENCE if self.tokens else WITHOUT_TOKENS

    @property
    def name(self) -> str:
        """ "taemi-0.3-spoiled", for files and tables."""
        return f"{self.system}-{self.dropout:g}" + ("-spoiled" if self.spoiled else "")


ARMS = tuple(
    Arm(tokens, dropout, spoiled)
    for spoiled in (False, True)
    for tokens in (True, False)
    for dropout in DROPOUT
)


@dataclass(frozen=True)
class Arms:
    """All arms with all seeds, as Robustness wants them (compare experiments.Study).

    workspace  the settings, and where clips and runs lie
    regime     whose labels
    seeds      of every arm
    part       (2, 4): the second fourth of the runs only
    settings   what TAEMI's search has chosen
    """

    workspace: Workspace
    regime: str
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    part: tuple[int, int] = (1, 1)
    settings: Settings = field(default_factory=dict)

    @property
    def systems(self) -> dict[str, tuple[str, ...]]:
        return {self.regime: tuple(arm.name for arm in ARMS)}

    def jobs(self) -> dict[tuple[str, str, int], Job]:
        """{(regime, arm, seed): job}"""
        here = self.workspace.labelled(self.regime).changed(self.settings)
        found: dict[tuple[str, str, int], Job] = {}
        for arm in ARMS:
            own = here.changed({"model.modality_dropout": arm.dropout})
            kind = SpoiledJob if arm.spoiled else Job
            for seed in self.seeds:
                found[self.regime, arm.name, seed] = kind(own, models.find(arm.system), seed)
        return found

    def run(self) -> bool:
        """Train what is missing. False when other parts are still to be made elsewhere. Raises
        RunError as Study.run does."""
        jobs = list(self.jobs().values())
        self.workspace.require("train", "selection", "test")
        for job in jobs:
            job.check(worker_datasets(job.workspace))
        number, count = self.part
        share = jobs[number - 1 :: count]
        side_by_side(train_job, [job for job in share if not runs.is_finished(job.folder)])
        return all(runs.is_finished(job.folder) for job in jobs)


class SpoiledJob(Job):
    """A run on spoiled training clips; the selection split stays as it is."""

    @property
    def folder(self) -> Path:
        own = super().folder
        return (
            self.workspace.settings_folder
            / "spoiled"
            / own.relative_to(self.workspace.settings_folder / "systems")
        )

    def train(self, parts: Mapping[str, ClipDataset], progress: bool = False) -> Run:
        return super().train(self._spoiled(parts), progress)

    def check(self, parts: Mapping[str, ClipDataset]) -> None:
        if (self.folder / "config.json").exists():  # else there is nothing to encode clips for
            super().check(self._spoiled(parts))

    def _spoiled(self, parts: Mapping[str, ClipDataset]) -> dict[str, ClipDataset]:
        return {**parts, "train": spoiled(self.workspace)}


@lru_cache(maxsize=1)
def spoiled(workspace: Workspace) -> ClipDataset:
    """The training clips, in memory: COMPLETE_SHARE of them as they are, the others each with one
    noise and, on top, with single time steps and words lost at a rate between 0 and 1 (the field's
    frame-level protocol, docs/paper.md row 18). All drawn once, by the clip's name."""
    train = worker_datasets(workspace)["train"]
    noise, rates = dict[str, Noisy](), dict[str, float]()
    for clip_id in train.clip_ids:
        rng = rng_of(clip_id, "training", SEED)
        kept, name, level, rate = rng.random(4)
        if kept >= COMPLETE_SHARE:
            noise[clip_id] = Noisy(
                MEASURED[int(name * len(MEASURED))], LEVELS[int(level * len(LEVELS))]
            )
            rates[clip_id] = float(rate)
    loud = noisy.each(workspace, "training", noise, train)
    encode = noisy.text_encoder(workspace.profile.encoders).encode
    found = [loud[index][0] for index in range(len(loud))]
    with devices.threads(1):
        for index, clip in enumerate(found):
            if (rate := rates.get(clip.clip_id)) is not None:
                found[index] = without_steps(clip, Condition(STEPS, MODALITIES, rate), encode)
    return in_place_of(train, found)

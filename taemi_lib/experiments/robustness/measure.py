"""Every system under every condition: what one checkpoint for all of them predicts.

    <settings>/robustness/<labels>/<condition>/<system>.safetensors     (seeds, clips, targets)

A condition's clips are made once and shown to all systems, one after the other. What is there is
not made again; what was made of other checkpoints or clips is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from taemi_lib import runs
from taemi_lib.batches import ClipDataset
from taemi_lib.errors import ChoiceError, RunError
from taemi_lib.evaluation import comparing
from taemi_lib.evaluation.scoring import evaluate
from taemi_lib.experiments.products import ratios_of_attention
from taemi_lib.experiments.robustness import noisy
from taemi_lib.experiments.robustness.conditions import (
    CLEAN,
    COMPLETE,
    LOSSES,
    SEED,
    STEPS,
    AnyCondition,
    Condition,
    Mixed,
    Noisy,
    Plan,
    draw,
    lossy,
)
from taemi_lib.experiments.robustness.trained import Arms
from taemi_lib.experiments.study import Study
from taemi_lib.models.base import System
from taemi_lib.profiles import MODALITIES
from taemi_lib.support import device as devices
from taemi_lib.support import files
from taemi_lib.workspace import Workspace, side_by_side, worker_datasets


@dataclass(frozen=True)
class Robustness:
    """study: systems with their settings, in one regime; its runs are the checkpoints. Or arms of
    the experiment with training.

    Raises ChoiceError for a study of several regimes, and for imported features, whose words and
    encoders are not known.
    """

    study: Study | Arms
    plan: Plan = LOSSES

    def __post_init__(self) -> None:
        if len(self.study.systems) != 1:
            raise ChoiceError("robustness is measured in one label set at a time")
        if self.study.workspace.profile.data.source == "features":
            raise ChoiceError(
                "robustness takes words away and puts noise in before the encoders, and imported "
                "features have neither words nor encoders: it needs the clips themselves"
            )

    @property
    def regime(self) -> str:
        return next(iter(self.study.systems))

    @property
    def systems(self) -> Sequence[str]:
        return self.study.systems[self.regime]

    @property
    def workspace(self) -> Workspace:
        return self.study.workspace.labelled(self.regime)

    def run(self) -> bool:
        """Train what is missing of the study, then predict what is missing. False when other parts
        of it are still to be made elsewhere.

        Raises RunError as Study.run does, and naming the condition that failed.
        """
        if not self.study.run():
            return False
        asked = [
            Asked(self, condition, missing)
            for condition in self._asked
            if (missing := tuple(self._missing(condition)))
        ]
        number, count = self.study.part
        side_by_side(predict, asked[number - 1 :: count], "predicting", "condition")
        return not any(self._missing(condition) for condition in self._asked)

    @property
    def _asked(self) -> tuple[AnyCondition, ...]:
        return (*self.plan.conditions, *self.plan.beside)

    def _missing(self, condition: AnyCondition) -> list[str]:
        return [name for name in self.systems if self._about(condition, name) is None]

    def path(self, condition: AnyCondition, system: str) -> Path:
        folder = self.workspace.settings_folder / "robustness" / self.regime
        return folder / condition.name / f"{system}.safetensors"

    def made_of(self, system: str) -> str:
        """What a prediction depends on beside the condition: checkpoints and test clips."""
        return self._made_of[system]

    @cached_property
    def _made_of(self) -> dict[str, str]:
        test = json.dumps(runs.fingerprint(worker_datasets(self.workspace)["test"]), sort_keys=True)
        found = {}
        for system in self.systems:
            digest = hashlib.sha256(f"{SEED} {test}".encode())
            for folder in self.folders(system):
                digest.update((folder / "best" / "model.safetensors").read_bytes())
            found[system] = digest.hexdigest()[:16]
        return found

    def folders(self, system: str) -> list[Path]:
        """Of the runs of a system, one a seed."""
        jobs = self.study.jobs()
        return [jobs[self.regime, system, seed].folder for seed in self.study.seeds]

    # --- reading

    def _about(self, condition: AnyCondition, system: str) -> dict | None:
        """What a file of predictions says of itself; None for one that is missing or stale."""
        try:
            with safe_open(self.path(condition, system), framework="numpy") as file:
                about = json.loads(file.metadata()["taemi"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        return about if about.get("of") == self.made_of(system) else None

    def about(self, condition: AnyCondition) -> dict:
        """{"clips": fingerprint of the numbers that all systems were shown, "there": {modality:
        how many of the clips have it, "heard": how many say the words of the complete clip}}.
        Raises RunError where systems were shown different ones."""
        found = [self._about(condition, system) for system in self.systems]
        shown = [_shown(one) for one in found if one is not None]
        if len(shown) < len(found):
            raise FileNotFoundError(f"predictions are missing under {condition.name}: run it first")
        if any(one != shown[0] for one in shown):
            raise RunError(
                f"systems were shown different clips under {condition.name}: delete "
                f"{self.path(condition, self.systems[0]).parent} and run it again"
            )
        return shown[0]

    def rho(self, condition: AnyCondition, system: str) -> comparing.Rho:
        """Mean rho of a system's seeds under a condition, with its resamples."""
        key = condition.name, system
        if key not in self._rho:
            with safe_open(self.path(condition, system), framework="numpy") as file:
                predictions = file.get_tensor("predictions")
            missing = self.workspace.profile.task.missing_labels == "mask"
            self._rho[key] = comparing.resampled_rho(
                list(predictions), self._targets, missing=missing
            )
        return self._rho[key]

    @cached_property
    def _rho(self) -> dict[tuple[str, str], comparing.Rho]:
        return {}

    @cached_property
    def _targets(self) -> np.ndarray:
        return worker_datasets(self.workspace)["test"].targets

    def attention(self, condition: AnyCondition, system: str) -> dict[str, float]:
        """{modality: attention on the event that counts / on the decoy}, the median over seeds, of
        a system that looks at sound or face, where there is planted truth."""
        about = self._about(condition, system)
        looked = [] if about is None else about["attention"]
        found = {}
        for name in dict.fromkeys(name for one in looked for name in one):
            # None: nothing at all on any decoy
            ratios = [np.inf if one[name] is None else one[name] for one in looked]
            found[name] = float(np.median(ratios))
        return found

    def drop(self, condition: AnyCondition, system: str) -> comparing.Rho:
        """Under a condition minus on complete clips, by the same models."""
        return comparing.combined(
            [(1, self.rho(condition, system)), (-1, self.rho(self.plan.complete, system))]
        )

    def over_missing(self, condition: Noisy, system: str) -> comparing.Rho:
        """Under noise minus without all that the noise reaches, by the same models."""
        without = self.rho(condition.missing, system)
        return comparing.combined([(1, self.rho(condition, system)), (-1, without)])

    def height(self, curve: Sequence[Condition | Noisy], system: str) -> comparing.Rho:
        """The mean height of a curve from complete clips to its last condition, by trapezoids: 1
        where nothing is lost whatever the rate, of a system that is always right."""
        at = [0.0, *(condition.amount for condition in curve)]
        weights = [float(np.trapezoid(one, at)) / at[-1] for one in np.eye(len(at))]
        parts = zip(weights, (self.plan.complete, *curve), strict=True)
        return comparing.combined([(w, self.rho(condition, system)) for w, condition in parts])

    @property
    def draws(self) -> pd.DataFrame:
        """The numbers that decide which modalities a test clip loses."""
        return draw(worker_datasets(self.workspace)["test"].clip_ids)


def _shown(about: dict) -> dict:
    return {name: about[name] for name in ("clips", "there")}


@dataclass(frozen=True)
class Asked:
    """One condition and the systems that have not been asked under it, for a worker process."""

    measured: Robustness
    condition: AnyCondition
    names: tuple[str, ...]

    def __str__(self) -> str:
        return self.condition.name

    @property
    def workspace(self) -> Workspace:
        return self.measured.workspace

    @property
    def systems(self) -> tuple[type[System], ...]:
        jobs = self.measured.study.jobs()
        return tuple({job.system for (_, name, _), job in jobs.items() if name in self.names})


def predict(asked: Asked) -> None:
    """What all seeds of these systems say under a condition, into their files."""
    clips = clips_under(asked.workspace, asked.condition)
    complete = worker_datasets(asked.workspace)["test"]
    pairs = [(clips[index][0], complete[index][0]) for index in range(len(clips))]
    there = {name: sum(name not in clip.absent for clip, _ in pairs) for name in MODALITIES}
    there["heard"] = sum(
        "text" not in clip.absent and clip.transcript == whole.transcript for clip, whole in pairs
    )
    shown = {"clips": clips.store.fingerprint(clips.clip_ids), "there": there}
    for system in asked.names:
        found = [
            evaluate(runs.load_run(folder), clips, "cpu", resamples=0, attention=True).predictions
            for folder in asked.measured.folders(system)
        ]
        looked = [ratios_of_attention(one, asked.workspace) for one in found]
        about = shown | {"of": asked.measured.made_of(system), "attention": looked}
        stacked = np.stack([one.prediction for one in found])
        path = asked.measured.path(asked.condition, system)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = save({"predictions": stacked}, {"taemi": json.dumps(about, sort_keys=True)})
        files.write_bytes(path, data)


def clips_under(workspace: Workspace, condition: AnyCondition) -> ClipDataset:
    """The test clips under a condition, in memory."""
    test = worker_datasets(workspace)["test"]
    if condition.name == CLEAN:
        condition = COMPLETE
    elif isinstance(condition, Noisy):
        return noisy.clips(workspace, condition, test)
    elif isinstance(condition, Mixed):
        return noisy.mixed(workspace, condition, test)
    assert isinstance(condition, Condition)
    reads = condition.protocol == STEPS and "text" in condition.lost
    with devices.threads(1):
        encode = noisy.text_encoder(workspace.profile.encoders).encode if reads else None
        return lossy(test, condition, draw(test.clip_ids), encode)

"""A run's folder: what decides its result, what is there, and whether it is what is asked for.

config.json          system, sizes, settings, seed, and which clips, labels and features
history.json         one entry an epoch
best/, last/         checkpoints; last/ also holds what a resumed training needs
predictions.parquet  of the best epoch on the selection split
metrics.json         written last: the run is complete
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from taemi_lib import models, profiles
from taemi_lib.batches import ClipDataset
from taemi_lib.errors import RunError
from taemi_lib.evaluation import metrics
from taemi_lib.models.base import System
from taemi_lib.profiles import EMOTIONS, MODALITIES
from taemi_lib.support import device as devices
from taemi_lib.support import files
from taemi_lib.support.differences import differences


@dataclass
class Run:
    """One training, as it stands in its folder. `metrics` is None until it is finished."""

    folder: Path
    config: dict
    # one dict an epoch; those of a stage before the last have selection_loss, not selection_rho
    history: list[dict]
    metrics: dict | None

    @property
    def finished(self) -> bool:
        return self.metrics is not None

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) that is best on the selection split: the one in best/."""
        return best_epoch(self.history)

    def model(self, which: str = "best", device: str | torch.device = "cpu") -> System:
        """The system of the `best` or the `last` epoch, ready to predict."""
        return models.load(self.folder / which).to(devices.choose(device))

    def predictions(self) -> pd.DataFrame:
        """The best epoch's predictions on the selection split: clip_id, emotion, target,
        prediction."""
        return pd.read_parquet(self.folder / "predictions.parquet")


def is_finished(folder: str | Path) -> bool:
    """Whether this folder holds a complete run."""
    return (Path(folder) / "metrics.json").exists()


def load_run(folder: str | Path) -> Run:
    """A run from its folder, finished or not. Raises FileNotFoundError when the folder holds
    none."""
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"no run in {folder}: config.json is missing")
    read = {
        name: read_kept(path)
        for name in ("config", "metrics")
        if (path := folder / f"{name}.json").exists()
    }
    return Run(folder, upgraded(read["config"]), _history(folder), read.get("metrics"))


def upgraded(config: dict) -> dict:
    """A config.json with what earlier versions did not write, since it had one value only."""
    sizes = {"standardise": False, "own": [], "outputs": len(EMOTIONS)}
    upgraded = {"task": json.loads(json.dumps(asdict(profiles.Task())))} | config
    if isinstance(config.get("sizes"), dict):
        upgraded["sizes"] = sizes | config["sizes"]
    return upgraded


def read_kept(path: Path, kind: type = dict) -> Any:
    """What a run's JSON file holds. Raises RunError where that is of another kind."""
    try:
        return files.read_json(path, kind=kind)
    except ValueError as error:
        raise damaged(path, error) from error


def check_history(history: object, path: Path) -> list[dict]:
    """The entries of a run's epochs. Raises RunError for anything else."""
    try:
        for number, entry in enumerate(list(history), start=1):  # type: ignore[call-overload]
            if entry["epoch"] != number or not isinstance(merit(entry), (int, float)):
                raise ValueError(f"entry {number}")
    except (TypeError, KeyError, ValueError) as error:
        raise damaged(path, error) from error
    return list(history)  # type: ignore[call-overload]


def damaged(path: Path, error: Exception) -> RunError:
    """The error to raise for a file of a run that cannot be used, told in one line."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return RunError(
        f"{path} is damaged ({said}): copy the run's folder anew, or delete it to train again"
    )


def _history(folder: Path) -> list[dict]:
    path = folder / "history.json"
    return check_history(read_kept(path, list), path) if path.exists() else []


def merit(entry: Mapping) -> float:
    """What an epoch is chosen for: mean rho on the selection split in the last stage (or a low mean
    absolute error, where the task says so), a low loss there in earlier ones."""
    if "selection_mae" in entry:  # of a task that selects by it
        return -entry["selection_mae"]
    return entry["selection_rho"] if "selection_rho" in entry else -entry["selection_loss"]


def selection_merit(run: Run) -> float:
    """What a finished run is chosen for among settings: what its epoch was chosen for, on the whole
    selection split (higher is better)."""
    assert run.metrics is not None
    scores = run.metrics["selection"]
    return -scores["mae"] if run.config["task"]["selects"] == "mae" else scores["mean_rho"]


def best_epoch(history: list[dict]) -> int:
    """The epoch (from 1) that is best on the selection split."""
    return max((entry for entry in history if "selection_rho" in entry), key=merit)["epoch"]


# --------------------------------------------------------------------------------------------------
# what decides the result


def describe(
    system: str | type[System],
    train: ClipDataset,
    selection: ClipDataset,
    *,
    model: profiles.Model,
    training: profiles.Training,
    seed: int = 0,
    encoders: Mapping | None = None,
) -> tuple[dict, profiles.Training]:
    """(config, training): everything that decides the result, as it is written into the run's
    folder and compared when the run is asked for again; and the settings of training as the system
    makes them its own.

    Raises ValueError for datasets that cannot be trained on, naming the clip and what is missing.
    """
    found = models.find(system)
    training = found.preset(training)
    _refuse_unusable(train, selection, training)
    # a modality that the data does not have gets the width that nothing reads
    dims = {f"{name}_dim": train.dims.get(name, 1) for name in MODALITIES}
    config = {
        "system": found.name,
        "seed": seed,
        "sizes": dims | asdict(model) | {"outputs": len(train.task.targets)},
        "task": asdict(train.task),
        "training": asdict(training),
        "encoders": encoders and dict(encoders),
        "data": {"train": fingerprint(train), "selection": fingerprint(selection)},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "accelerate", "numpy")},
    }
    return config, training


def _refuse_unusable(
    train: ClipDataset, selection: ClipDataset, training: profiles.Training
) -> None:
    if not train.dims:
        raise ValueError("no training clip has any features: there is nothing to learn from")
    if unseen := [name for name in selection.dims if name not in train.dims]:
        raise ValueError(
            f"clips of the selection split have {', '.join(unseen)}, and no training clip has: "
            "there is nothing to learn it from. Leave it out, or split the clips otherwise"
        )
    if train.task != selection.task:
        raise ValueError(
            "the two datasets are of different tasks: "
            + "; ".join(differences(asdict(train.task), asdict(selection.task)))
        )
    for name, dataset in (("training", train), ("selection", selection)):
        missing = np.isnan(dataset.targets)
        some = dataset.task.missing_labels == "mask"
        unlabelled = missing.all(axis=1) if some else missing.any(axis=1)
        if unlabelled.any():
            first = dataset.clip_ids[int(np.argmax(unlabelled))]
            raise ValueError(
                f"{unlabelled.sum()} {name} clips have no labels, the first is {first!r}"
            )
        if dataset.audio_average != training.audio_average:
            raise ValueError(
                f"the {name} dataset averages {dataset.audio_average} audio steps, "
                f"the training preset says {training.audio_average}: "
                "make it with audio_average=training.audio_average"
            )
    # a split that has no rho says so now
    there = np.nan_to_num(selection.targets)
    task = selection.task
    metrics.pearson_per_emotion(
        there, selection.targets, task.targets, task.missing_labels == "mask"
    )
    if (none := np.isnan(train.targets).all(axis=0)).any():
        raise ValueError(f"no training clip has a label of {task.targets[int(np.argmax(none))]!r}")


def fingerprint(dataset: ClipDataset) -> dict:
    """Which clips, which labels, which encoders, which features (clips that were encoded again
    have others): enough to notice that a run was made from something else."""
    clips = hashlib.sha256("\n".join(dataset.clip_ids).encode()).hexdigest()
    labels = hashlib.sha256(np.ascontiguousarray(dataset.targets).tobytes()).hexdigest()
    return {
        "count": len(dataset),
        "clips": clips[:16],
        "labels": labels[:16],
        "encoders": dataset.store.identity,
        "features": dataset.store.fingerprint(dataset.clip_ids),
    }


def claim(folder: Path, config: dict) -> None:
    """Write config.json, or check that the one there is the same. Raises RunError naming the
    difference."""
    if (folder / "config.json").exists():
        _refuse_other(folder, config)
    else:
        files.write_json(folder / "config.json", config)


def check(
    system: str | type[System],
    train: ClipDataset,
    selection: ClipDataset,
    *,
    run_folder: str | Path,
    **settings,
) -> None:
    """Raises RunError naming the difference when `run_folder` holds a run, finished or not, that
    `train` with these settings would refuse."""
    if (Path(run_folder) / "config.json").exists():
        _refuse_other(Path(run_folder), describe(system, train, selection, **settings)[0])


def _refuse_other(folder: Path, config: dict) -> None:
    """Raises RunError when the folder's config.json says something else; other library versions are
    only recorded."""
    there = upgraded(read_kept(folder / "config.json"))
    asked = json.loads(json.dumps(config))
    if different := differences(there | {"versions": {}}, asked | {"versions": {}}):
        raise RunError(
            f"{folder} holds a run of another configuration: {'; '.join(different[:8])}. "
            "Choose another folder, or delete this one to train it anew"
        )


# --------------------------------------------------------------------------------------------------
# how far it is


def finished(history: list[dict], training: profiles.Training) -> bool:
    """All epochs of a stage done, or `patience` epochs without a better one."""
    if not history or len(history) >= training.epochs:
        return bool(history)
    return history[-1]["epoch"] - max(history, key=merit)["epoch"] >= training.patience


def refuse_other_features(run: Run, dataset: ClipDataset) -> None:
    """Raises RunError when a dataset's features come from other encoders than those of the run's
    training: their numbers would mean nothing to it."""
    trained = run.config["data"]["train"]["encoders"]
    if different := differences(trained, dataset.store.identity):
        raise RunError(
            f"{run.folder} was trained on features of other encoders: {'; '.join(different)}"
        )

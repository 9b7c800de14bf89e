"""Trained runs as a single clip needs them: their weights, the encoders they know, and their answer
to a batch. Several runs answer together, as their mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from taemi_lib import models
from taemi_lib.batches import Batch, average, collate
from taemi_lib.errors import CheckpointError
from taemi_lib.features.sequences import ClipFeatures, as_stored
from taemi_lib.models.base import Output, System
from taemi_lib.profiles import MODALITIES, Task
from taemi_lib.runs import Run
from taemi_lib.support import files
from taemi_lib.support.differences import differences

Source = str | Path | Run

# What has dropout inside: in training mode these drop, and do nothing else differently. Modality
# dropout is none of them: a clip's modalities are what they are.
_DROPPING = (nn.Dropout, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.RNNBase)


@dataclass(frozen=True)
class Checkpoint:
    """weights: the folder of model.safetensors; config: of the run it stands in, checked as far as
    a new clip needs it."""

    weights: Path
    config: dict

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.weights.parent

    @property
    def identity(self) -> dict[str, str]:
        """System, seed, and hashes (16 hex digits) of settings and weights: two checkpoints with
        the same identity answer alike."""
        settings = {name: entry for name, entry in self.config.items() if name != "versions"}
        text = json.dumps(settings, sort_keys=True).encode()
        weights = (self.weights / "model.safetensors").read_bytes()
        return {
            "system": str(self.config.get("system")),
            "seed": str(self.config.get("seed")),
            "config": hashlib.sha256(text).hexdigest()[:16],
            "weights": hashlib.sha256(weights).hexdigest()[:16],
        }


def find_checkpoint(source: Source) -> Checkpoint:
    """A run's best checkpoint, or the one that is named (best/, last/).

    Raises FileNotFoundError when there is none, CheckpointError for a config.json that is damaged
    or does not say what a new clip needs.
    """
    weights = _weights(source.folder if isinstance(source, Run) else Path(source))
    return Checkpoint(weights, _config(weights.parent))


def _weights(named: Path) -> Path:
    for folder in (named / "best", named):
        if (folder / "config.json").exists() and (folder / "model.safetensors").exists():
            return folder
    raise FileNotFoundError(f"no checkpoint in {named}: give a run folder, or its best/")


def _config(run: Path) -> dict:
    """The run's configuration: encoders, sizes, preset, and what its features came from."""
    path = run / "config.json"
    try:
        config = files.read_json(path) if path.exists() else {}
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): copy the run's folder anew, or train it again"
        ) from error
    if config and config.get("encoders") is None and config.get("data"):
        raise CheckpointError(
            f"{path} names no encoders: the run was trained on imported features (or by "
            "taemi_lib.train without encoders=...), so nobody knows how to make those of a new "
            "clip. `taemi evaluate` scores it on features that were imported with them"
        )
    wanted = ("encoders", "sizes", "training", "data")
    if missing := [name for name in wanted if not config.get(name)]:
        raise CheckpointError(
            f"{path} does not name its {', '.join(missing)}, which a new clip needs: "
            "train with taemi_lib.train(..., encoders=...), as the course does"
        )
    try:
        if int(config["training"]["audio_average"]) < 1:
            raise ValueError("audio_average")
        [int(config["sizes"][f"{name}_dim"]) for name in MODALITIES]
        dict(config["encoders"]), dict(config["data"]["train"]["encoders"] or {})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}): copy the run's folder anew, or "
            "train it again"
        ) from error
    return config


class Ensemble:
    """One run, or several that answer together.

    Raises as `find_checkpoint`, and CheckpointError for runs that need different encoders or steps.
    """

    def __init__(self, sources: Source | Sequence[Source], device: torch.device) -> None:
        named = [sources] if isinstance(sources, (str, Path, Run)) else list(sources)
        if not named:
            raise CheckpointError("no run was named: give a run's folder")
        self.checkpoints = [find_checkpoint(source) for source in named]
        first = self.checkpoints[0]
        for other in self.checkpoints[1:]:
            if different := differences(_reading(first), _reading(other)):
                raise CheckpointError(
                    f"{first.run} and {other.run} cannot answer together: {'; '.join(different)}"
                )
        self.device = device
        self.models: list[System] = [
            models.load(checkpoint.weights).to(device).eval() for checkpoint in self.checkpoints
        ]
        self.config = first.config
        self.audio_average = int(self.config["training"]["audio_average"])
        try:
            self.task = Task(**_tuples(self.config.get("task") or {}))
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{first.run}/config.json: its task is none of this version ({error})"
            ) from error
        self.dims = {name: int(self.config["sizes"][f"{name}_dim"]) for name in MODALITIES}
        for checkpoint, model in zip(self.checkpoints, self.models, strict=True):
            built = {name: getattr(model.sizes, f"{name}_dim") for name in MODALITIES}
            if different := differences(built, self.dims):
                raise CheckpointError(
                    f"{checkpoint.run}/config.json is not that of its weights: "
                    f"{'; '.join(different)}"
                )

    @property
    def identity(self) -> list[dict[str, str]]:
        """Of each run, in order."""
        return [checkpoint.identity for checkpoint in self.checkpoints]

    def prepared(self, features: ClipFeatures) -> ClipFeatures:
        """A clip as training saw it: rounded to what a store keeps, its sound averaged. Clips of a
        ClipDataset are that already."""
        features = as_stored(features)
        if features.audio is None:
            return features
        return replace(features, audio=average(features.audio, self.audio_average))

    def batch(self, features: ClipFeatures) -> Batch:
        """A prepared clip as a batch of one."""
        return collate([features], dims=self.dims)

    def outputs(self, batch: Batch) -> list[Output]:
        """What each run says."""
        batch = batch.to(self.device)
        with torch.inference_mode():
            return [model(batch) for model in self.models]

    def answers(self, batch: Batch) -> np.ndarray:
        """(runs, B, 6) float64, not clipped."""
        return np.stack([numbers(output) for output in self.outputs(batch)])

    def drawn(self, batch: Batch, draws: int) -> np.ndarray:
        """(draws, 6): what the first run says of a batch of one, time and again with dropout.

        The same seed for every clip, so that a clip has the same answers alone and among others.
        """
        model = self.models[0]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode(), _dropping(model):
            torch.manual_seed(0)
            return numbers(model(repeated(batch, draws).to(self.device)))


def _tuples(fields: Mapping) -> dict:
    """JSON knows lists only."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in dict(fields).items()}


def value(answers: np.ndarray) -> np.ndarray:
    """(..., K) in [0, 1] of the task's range, from the answers of all runs (runs, ..., K)."""
    return answers.mean(axis=0).clip(0, 1)


def repeated(batch: Batch, count: int) -> Batch:
    """A batch of one clip as one of the same clip `count` times."""

    def again(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in tensors.items()}

    pooled = None if batch.pooled is None else batch.pooled.expand(count, -1)
    return Batch(
        again(batch.values), again(batch.mask), again(batch.times), again(batch.present), pooled
    )


def numbers(output: Output) -> np.ndarray:
    """(B, 6) float64, not clipped."""
    return output.prediction.float().cpu().numpy().astype(np.float64)


def _reading(checkpoint: Checkpoint) -> dict:
    """What decides how a clip is read for a run."""
    config = checkpoint.config
    sizes = {name: config["sizes"][f"{name}_dim"] for name in MODALITIES}
    return {
        "encoders": config["encoders"],
        "features": config["data"]["train"]["encoders"],
        "sizes": sizes,
        "audio_average": config["training"]["audio_average"],
        "task": config.get("task"),
    }


@contextmanager
def _dropping(model: System) -> Iterator[None]:
    """The model in evaluation mode but for dropout."""
    parts = [module for module in model.modules() if isinstance(module, _DROPPING)]
    for part in parts:
        part.training = True  # of this module alone: .train() would reach those inside it, too
    try:
        yield
    finally:
        model.eval()

"""Training any system on any dataset: one loop to read from top to bottom, and the folder it
leaves, the run.

Datasets go in, a run comes out: config, history, best and last checkpoint, predictions on the
selection split, metrics. Killed at any moment, the same call goes on and ends in the same numbers,
because every epoch starts from a seed made of (seed, epoch) and from the state that the epoch
before left in `last/`. A system may bring stages, a loss, settings of its own and a calibration
(models.base.System: `stages`, `begin`, `loss`, `preset`, `calibrate`); nothing here asks which
system it trains.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_model
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from taemi_lib import models, profiles
from taemi_lib.batches import Batch, ClipDataset, LengthGroupedBatches
from taemi_lib.errors import RunError
from taemi_lib.evaluation import metrics
from taemi_lib.evaluation.scoring import Predictions, predict_dataset, score
from taemi_lib.models.base import System, parameter_count
from taemi_lib.profiles import MODALITIES
from taemi_lib.support import device as devices
from taemi_lib.support import files


@dataclass
class Run:
    """One training, as it stands in its folder. `metrics` is None until it is finished."""

    folder: Path
    config: dict
    history: list[
        dict
    ]  # one dict an epoch; those of a stage before the last have selection_loss, not selection_rho
    metrics: dict | None

    @property
    def finished(self) -> bool:
        return self.metrics is not None

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) with the highest mean rho on the selection split: the one in best/."""
        return _best_epoch(self.history)

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
        raise FileNotFoundError(f"there is no run in {folder}: config.json is missing")
    read = {
        name: json.loads(path.read_text())
        for name in ("config", "history", "metrics")
        if (path := folder / f"{name}.json").exists()
    }
    return Run(folder, read["config"], read.get("history", []), read.get("metrics"))


def train(
    system: str,
    train: ClipDataset,
    selection: ClipDataset,
    *,
    model: profiles.Model,
    training: profiles.Training,
    run_folder: str | Path,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    threads: int | None = 1,
    encoders: Mapping | None = None,
) -> Run:
    """Train `system` on `train`, keep the epoch with the best mean rho on the whole of `selection`
    (docs/paper.md row 16).

    A finished run in `run_folder` is returned as it is; an interrupted one goes on. Mixed precision
    with gradient scaling is used on CUDA only. A system with several stages trains each with the
    whole of `training`, from the best epoch of the one before (kept in best_<stage>/).

    threads    torch's CPU threads meanwhile: with 1, results do not depend on the core count
    encoders   profiles.Encoders as a dict, kept in config.json: `taemi predict` needs to know how
               to read a new clip

    Raises RunError naming the difference when the folder holds a run of another configuration or
    data; ValueError when clips have no labels or the selection split cannot be scored, and when the
    loss is no longer finite.
    """
    folder, place = Path(run_folder), devices.choose(device)
    config, training = _config(system, train, selection, model, training, seed, encoders)
    with files.locked(folder):
        _claim(folder, config)
        if is_finished(folder):
            return load_run(folder)
        with devices.threads(threads), _own_random_numbers(place):
            _train(_Work(system, train, selection, config, training, folder, seed, place, progress))
        return load_run(folder)


def check_run(
    system: str,
    train: ClipDataset,
    selection: ClipDataset,
    *,
    model: profiles.Model,
    training: profiles.Training,
    run_folder: str | Path,
    seed: int = 0,
    encoders: Mapping | None = None,
) -> None:
    """Raises RunError naming the difference when `run_folder` holds a run, finished or not, that
    `train` would refuse."""
    if (Path(run_folder) / "config.json").exists():
        _refuse_other(
            Path(run_folder), _config(system, train, selection, model, training, seed, encoders)[0]
        )


@dataclass(frozen=True)
class _Work:
    """One training, as `train` was asked for it."""

    system: str
    train: ClipDataset
    selection: ClipDataset
    config: dict
    training: profiles.Training
    folder: Path
    seed: int
    device: torch.device
    progress: bool


def _train(work: _Work) -> None:
    if work.device.type == "cuda":
        torch.cuda.set_device(work.device)
        torch.cuda.reset_peak_memory_stats(work.device)
    system = models.find(work.system)
    if system.needs_partner:
        work = replace(
            work, train=work.train.with_partners(), selection=work.selection.with_partners()
        )
    files.mend_folder(work.folder / "last")
    state = work.folder / "last" / "state.json"
    history = json.loads(state.read_text())["history"] if state.exists() else []
    reached = history[-1].get("stage", system.stages[-1]) if history else system.stages[0]
    for stage in system.stages[system.stages.index(reached) :]:
        _train_stage(work, stage, history)
    _finish(work, history)


def _train_stage(work: _Work, stage: str, history: list[dict]) -> None:
    """Start the stage, or go on with it; its epochs are added to `history`. Most systems have one
    stage: the training."""
    stages, training = models.find(work.system).stages, work.training
    earlier = sum(
        entry.get("stage", stage) != stage for entry in history
    )  # epochs of the stages before
    final = stage == stages[-1]
    best, last = work.folder / ("best" if final else f"best_{stage}"), work.folder / "last"
    accelerator = _accelerator(work.device, training)
    _seed(work.seed, 0)
    batches = LengthGroupedBatches(work.train.lengths, training.batch_size, work.seed)
    loader = DataLoader(work.train, batch_sampler=batches, collate_fn=work.train.collate)
    network = models.create(work.system, **work.config["sizes"])
    if earlier:
        load_model(
            network, work.folder / f"best_{stages[stages.index(stage) - 1]}" / "model.safetensors"
        )
    network.begin(stage)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=True,
    )
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    schedule = Schedule(training, updates_per_epoch=-(-len(batches) // training.accumulation))
    files.mend_folder(best)
    if len(history) > earlier:
        _resume(last, accelerator, network, optimizer)

    bar = tqdm(
        total=training.epochs * len(batches),
        initial=(len(history) - earlier) * len(batches),
        desc=f"{work.system}, seed {work.seed}" + ("" if len(stages) == 1 else f", {stage}"),
        unit="batch",
        disable=not work.progress,
    )
    with bar:
        while not _finished(history[earlier:], training):
            started, cpu_started, epoch = time.perf_counter(), time.process_time(), len(history) + 1
            _seed(work.seed, epoch)
            loader.set_epoch(epoch)
            entry = {"epoch": epoch} if len(stages) == 1 else {"epoch": epoch, "stage": stage}
            entry |= _one_epoch(
                accelerator, network, optimizer, loader, schedule, epoch - earlier, bar
            )
            plain = accelerator.unwrap_model(network)
            entry |= (
                _selection_scores(plain, work.selection)
                if final
                else _selection_loss(plain, work.selection)
            )
            entry["seconds"] = time.perf_counter() - started
            entry["cpu_seconds"] = (
                time.process_time() - cpu_started
            )  # what it cost, however busy the machine was
            history.append(entry)
            reached = (
                f"mean rho {entry['selection_rho']:.3f}"
                if final
                else f"{stage} loss {entry['selection_loss']:.4f}"
            )
            bar.set_postfix_str(f"{reached}, training loss {entry['loss']:.4f}")
            card = {
                "training": f"epoch {epoch}, {reached} on the selection split, seed {work.seed}"
            }
            # best/ first: killed before last/ is in place, the epoch is repeated and writes the
            # same best/ again.
            if _merit(entry) > max([-math.inf, *map(_merit, history[earlier:-1])]):
                with files.new_folder(best) as fresh:
                    plain.save_pretrained(fresh, model_card_kwargs=card)
            with files.new_folder(last) as fresh:
                plain.save_pretrained(fresh, model_card_kwargs=card)
                torch.save(_optimizer_state(accelerator, optimizer), fresh / "optimizer.pt")
                files.write_json(fresh / "state.json", {"history": history})
            files.write_json(work.folder / "history.json", history)


def _selection_scores(network: System, selection: ClipDataset) -> dict:
    """The last stage's: calibrate the system where it wants to be, then score it on the whole
    selection split."""
    network.eval()
    with torch.no_grad():
        network.calibrate(_batches(selection, network))
    scores = score(predict_dataset(network, selection), resamples=0)
    return {
        "selection_rho": scores.mean_rho,
        "selection_mse": scores.mse,
        "constant": list(scores.constant),
    }


def _selection_loss(network: System, selection: ClipDataset) -> dict:
    """An earlier stage's: what this stage minimises, on the selection split."""
    network.eval()
    with torch.no_grad():
        total = sum(
            network.loss(network(batch), batch).item() * len(batch)
            for batch in _batches(selection, network)
        )
    return {"selection_loss": total / len(selection)}


def _batches(dataset: ClipDataset, network: System, size: int = 64) -> Iterator[Batch]:
    """All clips in the dataset's order, where the network is. Lazy: a system that does not
    calibrate reads nothing."""
    device = next(network.parameters()).device
    for start in range(0, len(dataset), size):
        yield dataset.batch(range(start, min(start + size, len(dataset)))).to(device)


def _one_epoch(
    accelerator, network, optimizer, loader, schedule: Schedule, epoch: int, bar: tqdm
) -> dict:
    """One pass over the training clips: mean loss, last learning rate, and what modality dropout
    really left out.

    epoch: from 1, within the stage
    """
    network.train()
    plain, training = accelerator.unwrap_model(network), schedule.training
    update, clips = (epoch - 1) * schedule.updates_per_epoch, 0
    # Sums stay on the device until the epoch is over: reading one would make the GPU wait for
    # Python at every step.
    loss_sum = torch.zeros((), device=accelerator.device)
    shown: dict[
        str, torch.Tensor
    ] = {}  # modality: how often present, and how often left out of these
    for batch in loader:
        for group in optimizer.param_groups:
            group["lr"] = schedule(update)
        with accelerator.accumulate(network):
            output = network(batch)
            loss = plain.loss(output, batch)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                if training.clip_value is not None:
                    accelerator.clip_grad_value_(network.parameters(), training.clip_value)
                if training.clip_norm is not None:
                    accelerator.clip_grad_norm_(network.parameters(), training.clip_norm)
                update += 1
            optimizer.step()
            optimizer.zero_grad()
        loss_sum += loss.detach() * len(batch)
        clips += len(batch)
        for name, kept in output.kept.items():
            present = batch.present[name]
            shown[name] = shown.get(name, 0) + torch.stack([present.sum(), (present & ~kept).sum()])
        bar.update()
    mean_loss = loss_sum.item() / clips
    if not math.isfinite(mean_loss):
        raise ValueError(
            f"the training loss of epoch {epoch} is {mean_loss}: lower learning_rate (it is {training.learning_rate}), "
            "set clip_norm, or look for NaN in the features"
        )
    dropped = {name: (counts[1] / counts[0].clamp(min=1)).item() for name, counts in shown.items()}
    return {"loss": mean_loss, "learning_rate": schedule(update - 1), "dropped": dropped}


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each optimizer update (from 0): linear warm-up, then a cosine down to 0
    (paper, section 3.5)."""

    training: profiles.Training
    updates_per_epoch: int

    def __call__(self, update: int) -> float:
        warm = round(self.training.warmup_epochs * self.updates_per_epoch)
        total = self.training.epochs * self.updates_per_epoch
        if update < warm:
            return self.training.learning_rate * (update + 1) / warm
        return (
            self.training.learning_rate
            * 0.5
            * (1 + math.cos(math.pi * (update - warm) / max(1, total - warm)))
        )


# --- state: what is written, and how it comes back


def _finished(history: list[dict], training: profiles.Training) -> bool:
    """All epochs of a stage done, or `patience` epochs without a better one."""
    if not history or len(history) >= training.epochs:
        return bool(history)
    return history[-1]["epoch"] - max(history, key=_merit)["epoch"] >= training.patience


def _merit(entry: dict) -> float:
    """What an epoch is chosen for: mean rho on the selection split in the last stage, a low loss
    there in earlier ones."""
    return entry["selection_rho"] if "selection_rho" in entry else -entry["selection_loss"]


def _best_epoch(history: list[dict]) -> int:
    return max((entry for entry in history if "selection_rho" in entry), key=_merit)["epoch"]


def _optimizer_state(accelerator: Accelerator, optimizer) -> dict:
    state = {"optimizer": optimizer.state_dict()}
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    return state


def _resume(last: Path, accelerator: Accelerator, network, optimizer) -> None:
    """Put the state that the last complete epoch left in `last/` back."""
    load_model(
        accelerator.unwrap_model(network),
        last / "model.safetensors",
        device=str(accelerator.device),
    )
    saved = torch.load(last / "optimizer.pt", map_location=accelerator.device, weights_only=True)
    optimizer.load_state_dict(saved["optimizer"])
    if accelerator.scaler is not None and "scaler" in saved:
        accelerator.scaler.load_state_dict(saved["scaler"])


def _finish(work: _Work, history: list[dict]) -> None:
    """Score the best checkpoint, write its predictions; metrics.json comes last: it says that the
    run is complete."""
    network = models.load(work.folder / "best")
    result: Predictions = predict_dataset(network, work.selection, work.device)
    scores = score(result, resamples=0)
    buffer = result.table.to_parquet(index=False)
    files.write_bytes(work.folder / "predictions.parquet", buffer)
    files.write_json(work.folder / "history.json", history)
    cpu = [
        epoch.get("cpu_seconds") for epoch in history
    ]  # None: begun by a version that did not count them
    numbers = {
        "system": work.system,
        "seed": work.seed,
        "selection": scores.as_dict(),
        "best_epoch": _best_epoch(history),
        "epochs": len(history),
        "parameters": parameter_count(network),
        "seconds": sum(epoch["seconds"] for epoch in history),
        "cpu_seconds": None if None in cpu else sum(cpu),
        "peak_memory_mb": _peak_memory(work.device),
        "device": work.device.type,
    }
    files.write_json(work.folder / "metrics.json", numbers)


def _config(
    system, train, selection, model, training, seed, encoders
) -> tuple[dict, profiles.Training]:
    """Everything that decides the result; written into the run folder and compared when the run is
    asked for again.

    Also the settings of training as the system makes them its own.
    """
    training = models.find(system).preset(training)
    if absent := [name for name in MODALITIES if name not in train.dims]:
        raise ValueError(
            f"no training clip has {', '.join(absent)}, so the width of these features is unknown: "
            "give it to the dataset, ClipDataset(..., dims={'" + absent[0] + "': ...})"
        )
    for name, dataset in (("training", train), ("selection", selection)):
        if (unlabelled := np.isnan(dataset.targets).any(axis=1)).any():
            first = dataset.clip_ids[int(np.argmax(unlabelled))]
            raise ValueError(
                f"{unlabelled.sum()} {name} clips have no labels, the first is {first!r}"
            )
        if dataset.audio_average != training.audio_average:
            raise ValueError(
                f"the {name} dataset averages {dataset.audio_average} audio steps, the training preset says "
                f"{training.audio_average}: make it with audio_average=training.audio_average"
            )
    metrics.pearson_per_emotion(
        selection.targets, selection.targets
    )  # a split that has no rho says so now
    dims = {f"{name}_dim": train.dims[name] for name in MODALITIES}
    config = {
        "system": system,
        "seed": seed,
        "sizes": dims | asdict(model),
        "training": asdict(training),
        "encoders": encoders and dict(encoders),
        "data": {
            name: _fingerprint(dataset)
            for name, dataset in (("train", train), ("selection", selection))
        },
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "accelerate", "numpy")},
    }
    return config, training


def _fingerprint(dataset: ClipDataset) -> dict:
    """Which clips, which labels, which encoders: enough to notice that a run was made from
    something else."""
    clips = hashlib.sha256("\n".join(dataset.clip_ids).encode()).hexdigest()
    labels = hashlib.sha256(np.ascontiguousarray(dataset.targets).tobytes()).hexdigest()
    encoders = getattr(dataset.store, "identity", None)
    return {"count": len(dataset), "clips": clips[:16], "labels": labels[:16], "encoders": encoders}


def _claim(folder: Path, config: dict) -> None:
    """Write config.json, or check that the one there is the same."""
    if (folder / "config.json").exists():
        _refuse_other(folder, config)
    else:
        files.write_json(folder / "config.json", config)


def _refuse_other(folder: Path, config: dict) -> None:
    """Raises RunError when the folder's config.json says something else; other library versions are
    only recorded."""
    there, asked = json.loads((folder / "config.json").read_text()), json.loads(json.dumps(config))
    there, asked = _flat(there | {"versions": {}}), _flat(asked | {"versions": {}})
    different = [
        f"{key} is {there.get(key)!r} there, {asked.get(key)!r} now"
        for key in sorted(there.keys() | asked.keys())
        if there.get(key) != asked.get(key)
    ]
    if different:
        raise RunError(
            f"{folder} holds a run of another configuration: {'; '.join(different[:8])}. "
            "Choose another folder, or delete this one"
        )


def _flat(tree: object, prefix: str = "") -> dict:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: leaf
        for name, branch in tree.items()
        for key, leaf in _flat(branch, f"{prefix}.{name}" if prefix else name).items()
    }


# --- surroundings: accelerate, random numbers, memory


def _accelerator(device: torch.device, training: profiles.Training) -> Accelerator:
    cuda = device.type == "cuda"
    if not (PartialState._shared_state and PartialState().num_processes > 1):
        # accelerate keeps device, precision and unfinished loaders for the whole process; a
        # notebook trains more than once, on more than one device, and is interrupted.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return Accelerator(
        cpu=not cuda,
        mixed_precision=training.mixed_precision if cuda else "no",
        gradient_accumulation_steps=training.accumulation,
    )


def _seed(seed: int, epoch: int) -> None:
    """Seed torch from (seed, epoch); epoch 0 is the initial weights."""
    torch.manual_seed(
        int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
    )


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the caller's random numbers go on as if nothing had happened."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _peak_memory(device: torch.device) -> float:
    """MiB: of this run on CUDA, of the whole process so far on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )

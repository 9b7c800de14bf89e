"""Training any system on any dataset: one loop to read from top to bottom, and the folder it
leaves, the run.

Datasets go in, a run comes out: config, history, best and last checkpoint, predictions on the
selection split, metrics. Killed at any moment, the same call continues and ends in the same
numbers, because every epoch starts from a seed made of (seed, epoch) and from the state that the
epoch before left in `last/`. A system may bring stages, a loss, settings of its own and a
calibration, and keep something of the clips from epoch to epoch (models.base.System: `stages`,
`begin`, `loss`, `preset`, `calibrate`, `observe`); nothing here asks which system it trains.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from taemi_lib import models, profiles, runs
from taemi_lib.batches import Batch, ClipDataset, LengthGroupedBatches
from taemi_lib.errors import ChoiceError, Diverged
from taemi_lib.evaluation.scoring import Predictions, predict_dataset, score
from taemi_lib.models.base import System, parameter_count
from taemi_lib.support import device as devices
from taemi_lib.support import files

# what damaged or foreign checkpoints raise
_UNFIT = (
    *(SafetensorError, OSError, EOFError, MemoryError),
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError),
)


def train(
    system: str | type[System],
    train: ClipDataset | Batch,
    selection: ClipDataset | Batch,
    *,
    model: profiles.Model,
    training: profiles.Training,
    run_folder: str | Path,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    threads: int | None = 1,
    encoders: Mapping | None = None,
    after_epoch: Callable[[list[dict]], None] | None = None,
) -> runs.Run:
    """Train `system` on `train`, keep the epoch with the best mean rho on the whole of `selection`
    (docs/paper.md row 16).

    A finished run in `run_folder` is returned as it is; an interrupted one continues. Mixed
    precision with gradient scaling is used on CUDA only. A system with several stages trains each
    with the whole of `training`, from the best epoch of the one before (kept in best_<stage>/).

    system     a registered name, or a System class
    train, selection   datasets; or labelled batches, where the tensors are at hand
    threads    torch's CPU threads meanwhile: with 1, results do not depend on the core count
    encoders   profiles.Encoders as a dict, kept in config.json: `taemi predict` needs to know how
               to read a new clip
    after_epoch   called with the history so far, when the epoch is stored

    Raises RunError naming the difference when the folder holds a run of another configuration or
    data; ValueError when clips have no labels or the selection split cannot be scored; Diverged
    when the loss is no longer finite.
    """
    if isinstance(train, Batch):
        train = ClipDataset.from_batch(train)
    if isinstance(selection, Batch):
        selection = ClipDataset.from_batch(selection)
    folder, place, found = Path(run_folder), devices.choose(device), models.find(system)
    config, training = runs.describe(
        found, train, selection, model=model, training=training, seed=seed, encoders=encoders
    )
    # what is finished stays as it is, and may lie where nobody can write
    with nullcontext() if runs.is_finished(folder) else files.locked(folder):
        runs.claim(folder, config)
        if runs.is_finished(folder):
            return runs.load_run(folder)
        with devices.threads(threads), _own_random_numbers(place):
            _train(
                _Work(
                    system=found,
                    train=train,
                    selection=selection,
                    config=config,
                    training=training,
                    folder=folder,
                    seed=seed,
                    device=place,
                    progress=progress,
                    after_epoch=after_epoch,
                )
            )
        return runs.load_run(folder)


def try_out(
    system: str | type[System],
    train: ClipDataset,
    selection: ClipDataset,
    *,
    model: profiles.Model,
    training: profiles.Training,
    seed: int = 0,
    device: str | torch.device | None = None,
    threads: int | None = 1,
    after_epoch: Callable[[list[dict]], None] | None = None,
) -> list[dict]:
    """Train as `train` does, with the same numbers, and keep nothing but the history (a dict an
    epoch): what a search asks for many times. Checkpoints would cost it more than the training of a
    small system.

    after_epoch   called with the history so far; what it raises ends the training
    """
    place, found = devices.choose(device), models.find(system)
    config, training = runs.describe(
        found, train, selection, model=model, training=training, seed=seed
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        devices.threads(threads),
        _own_random_numbers(place),
    ):
        return _train(
            _Work(
                system=found,
                train=train,
                selection=selection,
                config=config,
                training=training,
                folder=Path(folder),
                seed=seed,
                device=place,
                progress=False,
                after_epoch=after_epoch,
                keep=False,
            )
        )


@dataclass(frozen=True)
class _Work:
    """One training, as it was asked for. keep: False where only the history is wanted."""

    system: type[System]
    train: ClipDataset
    selection: ClipDataset
    config: dict
    training: profiles.Training
    folder: Path
    seed: int
    device: torch.device
    progress: bool
    after_epoch: Callable[[list[dict]], None] | None
    keep: bool = True


def _train(work: _Work) -> list[dict]:
    if work.device.type == "cuda":
        torch.cuda.set_device(work.device)
        torch.cuda.reset_peak_memory_stats(work.device)
    system = work.system
    if system.needs_partner:
        work = replace(
            work, train=work.train.with_partners(), selection=work.selection.with_partners()
        )
    files.mend_folder(work.folder / "last")
    state = work.folder / "last" / "state.json"
    history = []
    if state.exists():
        history = runs.check_history(runs.read_kept(state).get("history"), state)
    reached = history[-1].get("stage", system.stages[-1]) if history else system.stages[0]
    for stage in system.stages[system.stages.index(reached) :]:
        _train_stage(work, stage, history)
    if work.keep:
        _finish(work, history)
    return history


def _train_stage(work: _Work, stage: str, history: list[dict]) -> None:
    """Start the stage, or continue it; its epochs are added to `history`. Most systems have one
    stage: the training."""
    training, final = work.training, stage == work.system.stages[-1]
    # epochs of the stages before
    earlier = sum(entry.get("stage", stage) != stage for entry in history)
    best = work.folder / ("best" if final else f"best_{stage}")
    accelerator = _accelerator(work.device, training)
    _seed(work.seed, 0)
    batches = LengthGroupedBatches(work.train.lengths, training.batch_size, work.seed)
    loader = DataLoader(work.train, batch_sampler=batches, collate_fn=work.train.collate)
    network = _network(work, stage, fresh=not earlier)
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
        _resume(work.folder / "last", accelerator, network, optimizer)

    with _bar(work, stage, len(batches), epochs_done=len(history) - earlier) as bar:
        while not runs.finished(history[earlier:], training):
            started, cpu_started, epoch = time.perf_counter(), time.process_time(), len(history) + 1
            _seed(work.seed, epoch)
            loader.set_epoch(epoch)
            entry = _named(work, stage, epoch)
            entry |= _one_epoch(
                accelerator, network, optimizer, loader, schedule, epoch - earlier, bar
            )
            plain = accelerator.unwrap_model(network)
            on_selection = _selection_scores if final else _selection_loss
            entry |= on_selection(plain, work.selection)
            entry["seconds"] = time.perf_counter() - started
            # what it cost, however busy the machine was
            entry["cpu_seconds"] = time.process_time() - cpu_started
            improved = runs.merit(entry) > max([-math.inf, *map(runs.merit, history[earlier:])])
            history.append(entry)
            bar.set_postfix_str(f"{_reached(entry)}, training loss {entry['loss']:.4f}")
            if work.keep or not final:  # the next stage starts from the best epoch of this one
                state = _optimizer_state(accelerator, optimizer, plain)
                _keep(work, plain, state, history, best if improved else None)
            if work.after_epoch is not None:
                work.after_epoch(history)


def _network(work: _Work, stage: str, fresh: bool) -> System:
    """The network as a stage starts with it: fresh, or the best epoch of the stage before."""
    network, stages = models.create(work.system, **work.config["sizes"]), work.system.stages
    if not fresh:
        before = stages[stages.index(stage) - 1]
        load_model(network, work.folder / f"best_{before}" / "model.safetensors")
    elif network.standard is not None:
        network.standard.fit(work.train)
    network.begin(stage)
    return network


def _bar(work: _Work, stage: str, batches: int, epochs_done: int) -> tqdm:
    one = len(work.system.stages) == 1
    return tqdm(
        total=work.training.epochs * batches,
        initial=epochs_done * batches,
        desc=f"{work.system.name}, seed {work.seed}" + ("" if one else f", {stage}"),
        unit="batch",
        disable=not work.progress,
    )


def _named(work: _Work, stage: str, epoch: int) -> dict:
    """How an epoch's entry in the history begins; of a single stage nobody needs the name."""
    return {"epoch": epoch} | ({"stage": stage} if len(work.system.stages) > 1 else {})


def _reached(entry: Mapping) -> str:
    if "selection_rho" in entry:
        return f"mean rho {entry['selection_rho']:.3f}"
    return f"{entry['stage']} loss {entry['selection_loss']:.4f}"


def _keep(
    work: _Work, network: System, state: dict, history: list[dict], best: Path | None
) -> None:
    """Write what an epoch has reached. best/ first: killed before last/ is in place, the epoch is
    repeated and writes the same best/ again.

    best   the folder to write the network to, or None: an earlier epoch was better
    """
    entry = history[-1]
    task = work.train.task
    card = {
        "training": f"epoch {entry['epoch']}, {_reached(entry)} on the selection split, "
        f"seed {work.seed}",
        "targets": ", ".join(task.targets),
        "lowest": task.low,
        "highest": task.high,
    }
    if best is not None:
        with files.new_folder(best) as fresh:
            network.save_pretrained(fresh, model_card_kwargs=card)
    with files.new_folder(work.folder / "last") as fresh:
        network.save_pretrained(fresh, model_card_kwargs=card)
        torch.save(state, fresh / "optimizer.pt")
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
    } | ({"selection_mae": scores.mae} if selection.task.selects == "mae" else {})


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
    # modality: how often present, and how often left out of these
    shown: dict[str, torch.Tensor] = {}
    for batch in loader:
        for group in optimizer.param_groups:
            group["lr"] = schedule(update)
        with accelerator.accumulate(network):
            output = network(batch)
            loss = plain.loss(output, batch)
            accelerator.backward(loss)
            plain.observe(output, batch)
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
        raise Diverged(
            f"the training loss of epoch {epoch} is {mean_loss}: "
            f"lower learning_rate (it is {training.learning_rate}), set clip_norm, "
            "or look for NaN in the features"
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
        done = (update - warm) / max(1, total - warm)
        return self.training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


# --- state: what is written, and how it comes back


def _optimizer_state(accelerator: Accelerator, optimizer, network: System) -> dict:
    state = {"optimizer": optimizer.state_dict()}
    if kept := network.training_state():
        state["system"] = kept
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    return state


def _resume(last: Path, accelerator: Accelerator, network, optimizer) -> None:
    """Put the state that the last complete epoch left in `last/` back."""
    place = last / "model.safetensors"
    try:
        load_model(accelerator.unwrap_model(network), place, device=str(accelerator.device))
        place = last / "optimizer.pt"
        files.check_archive(place)
        # a folder may come from anywhere: what is more than numbers is never run
        saved = torch.load(place, map_location=accelerator.device, weights_only=True)
        optimizer.load_state_dict(saved["optimizer"])
        _refuse_other_shapes(optimizer)
        accelerator.unwrap_model(network).load_training_state(saved.get("system", {}))
        if accelerator.scaler is not None and "scaler" in saved:
            accelerator.scaler.load_state_dict(saved["scaler"])
    except UnpicklingError as error:  # its own text advises to read the file all the same
        raise runs.damaged(place, ValueError("it holds more than numbers")) from error
    except _UNFIT as error:
        raise runs.damaged(place, error) from error


def _refuse_other_shapes(optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if getattr(value, "ndim", 0) and value.shape != parameter.shape:
                    raise ValueError(f"{name} is {tuple(value.shape)} of {tuple(parameter.shape)}")


def _finish(work: _Work, history: list[dict]) -> None:
    """Score the best checkpoint, write its predictions; metrics.json comes last: it says that the
    run is complete."""
    network = models.load(work.folder / "best")
    result: Predictions = predict_dataset(network, work.selection, work.device)
    scores = score(result, resamples=0)
    buffer = result.table.to_parquet(index=False)
    files.write_bytes(work.folder / "predictions.parquet", buffer)
    files.write_json(work.folder / "history.json", history)
    numbers = {
        "system": work.system.name,
        "seed": work.seed,
        "selection": scores.as_dict(),
        "best_epoch": runs.best_epoch(history),
        "epochs": len(history),
        "parameters": parameter_count(network),
        "seconds": sum(epoch["seconds"] for epoch in history),
        "cpu_seconds": sum(epoch["cpu_seconds"] for epoch in history),
        "peak_memory_mb": _peak_memory(work.device),
        "device": work.device.type,
    }
    files.write_json(work.folder / "metrics.json", numbers)


# --- surroundings: accelerate, random numbers, memory

_NOT_SUPPORTED = (
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)


def _accelerator(device: torch.device, training: profiles.Training) -> Accelerator:
    cuda = device.type == "cuda"
    if not (PartialState._shared_state and PartialState().num_processes > 1):
        # accelerate keeps device, precision and unfinished loaders for the whole process; a
        # notebook trains more than once, on more than one device, and is interrupted.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    with _without_its_variables():
        return Accelerator(
            cpu=not cuda,
            mixed_precision=training.mixed_precision if cuda else "no",
            gradient_accumulation_steps=training.accumulation,
        )


@contextmanager
def _without_its_variables() -> Iterator[None]:
    """The profile alone says how to train: `accelerate launch` and shells set variables that would
    change accumulation, precision or device behind config.json's back. Who is which process stays
    (RANK and the like). Raises ChoiceError for what is asked for and not supported."""
    theirs = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    for name in _NOT_SUPPORTED:
        if theirs.get(name, "").lower() in ("1", "true", "yes", "on"):
            raise ChoiceError(
                f"the environment says {name}={theirs[name]}, which is not supported here: "
                f"unset {name}"
            )
    for name in theirs:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(theirs)


def _seed(seed: int, epoch: int) -> None:
    """Seed torch from (seed, epoch); epoch 0 is the initial weights."""
    torch.manual_seed(
        int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
    )


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the caller's random numbers continue as if nothing had been."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _peak_memory(device: torch.device) -> float:
    """MiB: of this run on CUDA, of the whole process so far on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )

"""What stands beside a finished run of a study: its predictions on the test split, complete and
under missing masks, and where it looks."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from taemi_lib import runs
from taemi_lib.batches import ClipDataset
from taemi_lib.errors import RunError
from taemi_lib.evaluation.attention import attention_ratios
from taemi_lib.evaluation.scoring import Predictions, evaluate
from taemi_lib.experiments.masks import draw_masks, masked
from taemi_lib.experiments.plan import MASKED
from taemi_lib.experiments.tables import MASKED_TEST, TEST
from taemi_lib.runs import Run
from taemi_lib.support import files
from taemi_lib.support.differences import differences
from taemi_lib.workspace import Job, Workspace, worker_datasets

ATTENTION, CLIPS = "attention.json", "test_clips.json"


def train_and_predict(job: Job) -> None:
    """One job, in a process of its own: the trained run and all that stands beside it."""
    _forget_peak_memory()
    parts = worker_datasets(job.workspace)
    run = job.train(parts)
    with files.locked(run.folder):  # two studies may share this run
        # first: predictions that are there are about these clips
        if not (run.folder / CLIPS).exists():
            files.write_json(run.folder / CLIPS, runs.fingerprint(parts["test"]))
        _predict(run, parts["test"], TEST, partial(ratios_of_attention, workspace=job.workspace))
        if job.name in MASKED:
            _predict(run, masked(parts["test"], draw_masks(parts["test"])), MASKED_TEST)


def check_products(job: Job, test: ClipDataset) -> None:
    """Raises RunError when what stands beside a finished run is about other test clips, labels or
    features than these."""
    path = job.folder / CLIPS
    if not path.exists():
        return
    asked = json.loads(json.dumps(runs.fingerprint(test)))
    if different := differences(runs.read_kept(path), asked):
        raise RunError(
            f"{job.folder} holds predictions for other test clips ({'; '.join(different[:4])}): "
            "delete this folder, or give another folder for runs"
        )


def splits(system: str) -> tuple[str, ...]:
    """What a system is scored on."""
    return (TEST, MASKED_TEST) if system in MASKED else (TEST,)


def products(system: str) -> list[str]:
    """The files beside a finished run."""
    return [ATTENTION, CLIPS, *(f"{split}.parquet" for split in splits(system))]


def _predict(
    run: Run,
    dataset: ClipDataset,
    split: str,
    attention: Callable[[Predictions], dict] | None = None,
) -> None:
    """Store what a finished run predicts for a split, and where it looks, unless that is there."""
    path, looked = run.folder / f"{split}.parquet", run.folder / ATTENTION
    if path.exists() and (attention is None or looked.exists()):
        return
    predictions = evaluate(
        run, dataset, "cpu", resamples=0, attention=attention is not None
    ).predictions
    if attention is not None and not looked.exists():
        files.write_json(looked, attention(predictions))
    if not path.exists():
        buffer = io.BytesIO()
        predictions.table.to_parquet(buffer, index=False)
        files.write_bytes(path, buffer.getvalue())


def ratios_of_attention(predictions: Predictions, workspace: Workspace) -> dict[str, float | None]:
    """{modality: attention on the event that counts / on the decoy} over sound and face, where
    there is planted truth with a decoy, and any clip with that modality."""
    seen = {
        name: weights
        for name, weights in predictions.attention.items()
        if name in ("audio", "vision") and any(one is not None for one in weights)
    }
    truth = workspace.truth() if seen else None
    if (
        truth is None or workspace.label_set == "both"
    ):  # with the labels "both", no event is a decoy
        return {}
    ratios = attention_ratios(replace(predictions, attention=seen), truth, workspace.label_set)
    # None: nothing at all on any decoy
    return {name: ratio if np.isfinite(ratio) else None for name, ratio in ratios.items()}


def _forget_peak_memory() -> None:
    """Linux: the peak that training reports is this run's, not that of the largest run this process
    has made before."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass

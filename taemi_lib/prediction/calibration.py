"""Intervals that hold what they promise: by how much a system's answers vary, scaled by how wrong
it was on clips with labels.

For each emotion and each clip of the selection split, score = |error| / (spread + FLOOR). The
interval of a new clip is value +- quantile * (spread + FLOOR), cut to [0, 1], where the true
intensity lies anyway (split-conformal prediction, normalised).

Which quantile: what share of new clips a calibration on n clips holds is itself a matter of luck, a
beta distribution. The usual rank, ceil((n + 1) * level), is right on average and falls short every
second time; here more often, since the selection split also chose the training's epoch and is
somewhat too easy. So the rank is the smallest that holds the level with a probability of CONFIDENCE
(111 instead of 109 of 120 clips). This was decided after the usual rank had been seen to hold 87 to
88 % on the demo's test split; the share that is measured there and kept is that much less blind.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy import stats

from taemi_lib.batches import Batch, ClipDataset
from taemi_lib.errors import CheckpointError, RunError, TaemiError
from taemi_lib.prediction.answer import LEVEL
from taemi_lib.prediction.checkpoint import Ensemble, value
from taemi_lib.prediction.world import Cloud, World, fit
from taemi_lib.profiles import EMOTIONS, MODALITIES
from taemi_lib.runs import fingerprint
from taemi_lib.support import device as devices
from taemi_lib.support import files
from taemi_lib.support.differences import differences
from taemi_lib.workspace import Workspace

VERSION = 1  # raise when the same runs would be calibrated otherwise
DRAWS = 32  # passes with dropout
FLOOR = 0.1  # a spread of nearly nothing must not promise an interval of nearly nothing
CONFIDENCE = 0.75
LARGEST = 100_000  # bytes; nothing larger is read as a calibration.json


@dataclass(frozen=True)
class Coverage:
    """What share of true intensities the intervals of a split hold.

    overall      over clips and emotions
    per_emotion  emotion -> share
    clips        how many
    """

    overall: float
    per_emotion: dict[str, float]
    clips: int


@dataclass(frozen=True)
class Calibration:
    """What turns an answer of these runs into intervals.

    runs      identity of each run (checkpoint.Checkpoint.identity)
    spread    "seeds": standard deviation over the runs; "dropout": over passes of the one run
    scale     emotion -> quantile of the scores; None: too few clips to promise anything, the
              interval is the whole range
    level     promised share
    clips     of the selection split
    lacking   modality -> how many of them lack it
    world     of the training clips
    measured  on the test split, where there is one
    """

    runs: list[dict[str, str]]
    spread: str
    scale: dict[str, float | None]
    level: float
    clips: int
    lacking: dict[str, int]
    world: World
    measured: Coverage | None = None

    def bounds(self, values: np.ndarray, spreads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each (..., K) in [0, 1] of the task's range, of values and spreads (..., K)
        in that unit."""
        scale = np.array(list(self.scale.values()), dtype=np.float64)
        scale = np.where(np.isnan(scale), np.inf, scale)
        reach = scale * (spreads + FLOOR)
        return (values - reach).clip(0, 1), (values + reach).clip(0, 1)

    def __str__(self) -> str:
        source = f"{len(self.runs)} seeds" if self.spread == "seeds" else "dropout"
        said = (
            f"{self.level:.0%} intervals from the spread of {source}, calibrated on {self.clips} "
            "selection clips"
        )
        if few := [name for name, scale in self.scale.items() if scale is None]:
            of = "" if len(few) == len(self.scale) else f" for {', '.join(few)}"
            return f"{said}, which are too few{of}: there they are the whole range"
        if self.measured is None:
            return f"{said}; what they hold was not measured on a test split"
        return f"{said}; on {self.measured.clips} test clips they held {self.measured.overall:.1%}"


def spread(ensemble: Ensemble, batch: Batch, answers: np.ndarray) -> np.ndarray:
    """(6,) by how much the answers (runs, 6) to a batch of one vary: of several runs the standard
    deviation over the runs, of one over its passes with dropout (0 for a system without)."""
    varied = answers if len(answers) > 1 else ensemble.drawn(batch, DRAWS)
    return varied.std(axis=0, ddof=1)


def _answers(ensemble: Ensemble, dataset: ClipDataset) -> tuple[np.ndarray, np.ndarray]:
    """(N, 6) values and spreads of a dataset's clips, each alone, as a new clip is."""
    values, spreads = [], []
    with devices.threads(1):
        for index in range(len(dataset)):
            batch = dataset.batch([index])
            answers = ensemble.answers(batch)[:, 0]
            values.append(value(answers))
            spreads.append(spread(ensemble, batch, answers))
    return np.array(values), np.array(spreads)


def rank(clips: int, level: float = LEVEL) -> int | None:
    """Which of the sorted scores of so many clips is the quantile (from 1); None: too few.

    The share of new clips below the k-th of n scores follows Beta(k, n + 1 - k).
    """
    for k in range(min(math.ceil((clips + 1) * level), clips + 1), clips + 1):
        if stats.beta.sf(level, k, clips + 1 - k) >= CONFIDENCE:
            return k
    return None


def scale(
    targets: np.ndarray,
    values: np.ndarray,
    spreads: np.ndarray,
    level: float = LEVEL,
    names: Sequence[str] = EMOTIONS,
) -> dict[str, float | None]:
    """{target: quantile of the scores} of labelled clips, all (N, K) between 0 and 1; None where
    too few have a label."""
    found: dict[str, float | None] = {}
    for column, name in enumerate(names):
        known = ~np.isnan(targets[:, column])
        error = np.abs(targets[known, column] - values[known, column])
        scores = np.sort(error / (spreads[known, column] + FLOOR))
        k = rank(len(scores), level)
        found[name] = None if k is None else float(scores[k - 1])
    return found


def calibrate(
    ensemble: Ensemble,
    train: ClipDataset,
    selection: ClipDataset,
    test: ClipDataset | None = None,
    level: float = LEVEL,
) -> Calibration:
    """Calibrate runs on the splits they were trained and selected with; `test` only measures.

    Raises RunError for other datasets than the runs', ValueError when `test` has no labels.
    Nothing is written: `keep` does.
    """
    _refuse_other_datasets(ensemble, train, selection)
    values, spreads = _answers(ensemble, selection)
    there = [selection[index][0].absent for index in range(len(selection))]
    made = Calibration(
        runs=ensemble.identity,
        spread="seeds" if len(ensemble.models) > 1 else "dropout",
        scale=scale(
            selection.task.scaled(selection.targets),
            values,
            spreads,
            level,
            selection.task.targets,
        ),
        level=level,
        clips=len(selection),
        lacking={name: sum(name in absent for absent in there) for name in MODALITIES},
        world=fit(train, selection),
    )
    return made if test is None else replace(made, measured=coverage(made, ensemble, test))


def coverage(calibration: Calibration, ensemble: Ensemble, dataset: ClipDataset) -> Coverage:
    """What the intervals hold on a labelled split. Raises ValueError naming a clip without
    labels."""
    known, task = ~np.isnan(dataset.targets), dataset.task
    unlabelled = ~(known.any(axis=1) if task.missing_labels == "mask" else known.all(axis=1))
    if unlabelled.any():
        first = dataset.clip_ids[int(np.argmax(unlabelled))]
        raise ValueError(f"clip {first!r} has no labels: coverage cannot be measured on it")
    low, high = calibration.bounds(*_answers(ensemble, dataset))
    targets = task.scaled(dataset.targets)
    held = np.where(known, (targets >= low) & (targets <= high), np.nan)
    shares = dict(zip(task.targets, np.nanmean(held, axis=0).tolist(), strict=True))
    return Coverage(float(np.nanmean(held)), shares, len(dataset))


def _refuse_other_datasets(ensemble: Ensemble, train: ClipDataset, selection: ClipDataset) -> None:
    found = {"train": fingerprint(train), "selection": fingerprint(selection)}
    for checkpoint in ensemble.checkpoints:
        if different := differences(checkpoint.config["data"], found):
            raise RunError(
                f"{checkpoint.run} was trained on other data than these: {'; '.join(different[:4])}"
            )


# --------------------------------------------------------------------------------------------------
# beside the run


def place(ensemble: Ensemble) -> Path:
    """Where the calibration of these runs is kept: in the first one's folder. That of one run's
    best epoch is calibration.json; others name their seeds, or last/."""
    checkpoints = ensemble.checkpoints
    parts = ["calibration"]
    if len(checkpoints) > 1:
        parts += ["seeds", *(str(checkpoint.config.get("seed")) for checkpoint in checkpoints)]
    if (weights := checkpoints[0].weights.name) != "best":
        parts.append(weights)
    return checkpoints[0].run / ("-".join(parts) + ".json")


def keep(calibration: Calibration, ensemble: Ensemble) -> Path:
    """Write it beside the runs: numbers as JSON, arrays as safetensors. The JSON comes last and
    holds the arrays' hash: a kill in between leaves the old one unusable, never a mixture."""
    path = place(ensemble)
    world = calibration.world
    arrays = {
        f"{name}.{part}": getattr(cloud, part)
        for name, cloud in world.clouds.items()
        for part in ("mean", "white")
    }
    data = save(arrays or {"nothing": np.zeros(1, np.float32)})
    about = {
        "version": VERSION,
        **{
            name: getattr(calibration, name)
            for name in ("runs", "spread", "scale", "level", "clips", "lacking")
        },
        "threshold": world.threshold,
        "clouds": list(world.clouds),
        "arrays": hashlib.sha256(data).hexdigest(),
        "measured": calibration.measured and asdict(calibration.measured),
    }
    files.write_bytes(path.with_suffix(".safetensors"), data)
    files.write_json(path, about)
    return path


def kept(ensemble: Ensemble) -> Calibration:
    """The calibration of these very runs. Raises CheckpointError saying why there is none: not
    made, damaged, or of other weights or settings."""
    path = place(ensemble)
    if not path.exists():
        raise CheckpointError(f"the run is not calibrated ({path.name} is not in {path.parent})")
    try:
        about = files.read_json(path, LARGEST)
        if about["version"] != VERSION or about["runs"] != ensemble.identity:
            raise CheckpointError(f"{path} is of other weights, settings or an earlier version")
        arrays = path.with_suffix(".safetensors")
        return _read(about, arrays, ensemble.dims, ensemble.task.targets)
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        if isinstance(error, TaemiError):
            raise
        raise CheckpointError(f"{path} is damaged ({error}): delete it") from error


def _read(about: dict, arrays: Path, dims: dict[str, int], names: Sequence[str]) -> Calibration:
    # What an honest file holds at most; more is not taken into memory.
    if arrays.stat().st_size > 4 * sum(dim * (dim + 1) for dim in dims.values()) + LARGEST:
        raise ValueError(f"{arrays.name} is larger than its features allow")
    data = arrays.read_bytes()
    if hashlib.sha256(data).hexdigest() != about["arrays"]:
        raise ValueError(f"{arrays.name} is not the file it was made with")
    tensors = load(data)
    clouds = {
        name: Cloud(tensors[f"{name}.mean"], tensors[f"{name}.white"]) for name in about["clouds"]
    }
    if wrong := [name for name, cloud in clouds.items() if cloud.mean.shape != (dims[name],)]:
        raise ValueError(f"{', '.join(wrong)} of another width")
    scale = {
        name: None if about["scale"][name] is None else float(about["scale"][name])
        for name in names
    }
    measured = None
    if (found := about["measured"]) is not None:
        shares = {name: float(found["per_emotion"][name]) for name in names}
        measured = Coverage(float(found["overall"]), shares, int(found["clips"]))
    return Calibration(
        about["runs"],
        str(about["spread"]),
        scale,
        float(about["level"]),
        int(about["clips"]),
        {name: int(about["lacking"][name]) for name in MODALITIES},
        World(clouds, float(about["threshold"])),
        measured,
    )


def calibrated(
    ensemble: Ensemble, workspace: Workspace | None = None
) -> tuple[Calibration | None, str]:
    """(calibration, "") of these runs: the kept one, or made from the workspace's datasets where
    their clips and features are there, and kept; or (None, why not).

    Nothing is generated or encoded for it.
    """
    try:
        return kept(ensemble), ""
    except CheckpointError as error:
        reason = str(error)
    if workspace is None:
        return None, reason
    try:
        parts = workspace.stored()
        made = calibrate(ensemble, parts["train"], parts["selection"], parts.get("test"))
    except KeyError as error:
        return None, f"{reason}, and the data has no split {error}"
    except (TaemiError, ValueError, OSError) as error:
        return None, f"{reason}, and cannot be: {error}"
    try:
        keep(made, ensemble)
    except OSError:
        pass  # a folder that cannot be written to: it is as good, and made again next time
    return made, ""

"""A folder of SynthMimic clips in the official Vidmimic2 layout, plus truth.parquet: written in
parallel, resumable.

<root>/raw/00000.mp4 ...  train_split.csv  valid_split.csv    as in Hume-Vidmimic2 (labels of the
                                                              first regime)
<root>/truth.parquet      every latent, the event times, and for every regime the labels and the
                          noiseless intensities
<root>/generator.json     what was asked for: a folder made otherwise is refused
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from taemi_lib.data.manifest import Manifest
from taemi_lib.data.synthmimic import render, world
from taemi_lib.errors import ChoiceError, ManifestError
from taemi_lib.profiles import EMOTIONS, Data
from taemi_lib.support import files, workers
from taemi_lib.support.differences import differences

# Raise VERSION whenever the same seed gives another clip or other columns.
VERSION = 2
SHARES = {"train": 0.48, "selection": 0.10, "test": 0.42}
TRUTH = "truth.parquet"
SETTINGS = "generator.json"
NOISE = Data().label_noise  # of the labels that truth.parquet holds


def split_of(count: int) -> list[str]:
    """Split of clip 0, 1, ... count - 1: train first, then selection, then test."""
    train, selection = round(SHARES["train"] * count), round(SHARES["selection"] * count)
    return ["train"] * train + ["selection"] * selection + ["test"] * (count - train - selection)


def _truth(latents: world.Latents, speech) -> dict:
    """One row of truth.parquet, without id, split and labels."""
    row = {
        "voice": latents.voice,
        "identity": latents.identity,
        "sentence": latents.sentence,
        "duration": speech.duration,
        "missing": latents.missing,
        "damaged": latents.damaged,
        "cue": latents.cue,
        "gaze": latents.gaze,
        "words": " ".join(
            f"{word}@{start:.3f}" for word, start in zip(latents.words, speech.starts)
        ),
    }
    row |= {f"text/{emotion}": strength for emotion, strength in zip(EMOTIONS, latents.text)}
    for index, (start, end) in enumerate(speech.events):
        row |= {
            f"event{index}_start": start,
            f"event{index}_end": end,
            f"event{index}_emotion": EMOTIONS[latents.emotions[index]],
            f"event{index}_face": latents.face[index],
            f"event{index}_voice": latents.voice_strength[index],
        }
    return row


def _labels(latents: world.Latents, noise: float) -> dict:
    """The columns of every regime: which event counts (-1: both), the noiseless intensities, the
    labels."""
    row: dict[str, float] = {}
    # the raters' moods are the same in every regime, so that regimes can be compared clip by clip
    for regime in world.REGIMES:
        true = world.noiseless(latents, regime)
        label = world.rate(true, noise, np.random.default_rng([latents.seed, 7]))
        row[f"counts/{regime}"] = world.counting_event(latents, regime)
        row |= {
            f"noiseless/{regime}/{emotion}": float(value) for emotion, value in zip(EMOTIONS, true)
        }
        row |= {
            f"label/{regime}/{emotion}": float(round(value, 4))
            for emotion, value in zip(EMOTIONS, label)
        }
    return row


def _latents(number: int, split: str, seed: int) -> world.Latents:
    return world.draw(seed * 1_000_000 + number, split)


def _make(job: tuple[int, str], root: Path, seed: int) -> None:
    """Write clip `number` and then, as the sign that it is complete, its row of truth."""
    number, split = job
    done = root / "rows" / f"{number:05d}.json"
    if not done.exists():
        latents = _latents(number, split, seed)
        speech = render.write(latents, root / "raw" / f"{number:05d}.mp4")
        files.write_json(done, _truth(latents, speech))


def generate(
    root: str | Path, data: Data, processes: int | None = None, progress: bool = True
) -> Path:
    """Make what is missing of `data.clips` clips in `root`; a complete folder is left as it is.
    Returns `root`.

    Only `clips` and `seed` make clips; labels are told by `read`. A second command on the same
    folder waits, then finds the work done. Raises ManifestError if the folder was made with other
    settings, naming both, or holds files that the generator did not make.
    """
    root = Path(root)
    asked = {"version": VERSION, "clips": data.clips, "seed": data.seed}
    _refuse_other_settings(root, asked)
    if not (root / TRUTH).exists():
        workers.refuse_unguarded()
        with files.locked(root):
            _refuse_other_settings(root, asked)  # once more: another command may have been first
            files.write_json(root / SETTINGS, asked)
            if not (root / TRUTH).exists():
                _fill(root, data, processes, progress)
    # also one left by a kill in the very last moment
    shutil.rmtree(root / "rows", ignore_errors=True)
    return root


def _refuse_other_settings(root: Path, asked: dict) -> None:
    settings = root / SETTINGS
    if settings.exists():
        try:
            found = files.read_json(settings)
        except ValueError as error:
            raise ManifestError(str(root), [f"{settings}: is damaged ({error})"]) from error
        if different := differences({key: found.get(key) for key in asked}, asked):
            lines = [f"{settings}: {line}" for line in different]
            raise ManifestError(
                str(root), [*lines, "delete the folder or choose another data_root"]
            )
    elif root.exists() and any(not path.name.startswith(".") for path in root.iterdir()):
        raise ManifestError(
            str(root),
            [f"{root}: holds files that the generator did not make; choose another data_root"],
        )


def _fill(root: Path, data: Data, processes: int | None, progress: bool) -> None:
    """Make the clips that have no row of truth yet, then the tables."""
    for folder in ("raw", "rows"):
        (root / folder).mkdir(exist_ok=True)
    splits = split_of(data.clips)
    make = partial(_make, root=root, seed=data.seed)
    # a notebook's kernel holds threads; forking it would not be safe
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes or os.cpu_count(), mp_context=context, initializer=workers.end_with_parent
    ) as executor:
        finished = executor.map(make, enumerate(splits), chunksize=4)
        for _ in tqdm(
            finished, total=len(splits), desc="generating clips", unit="clip", disable=not progress
        ):
            pass

    ids = [f"{number:05d}" for number in range(data.clips)]
    rows = [
        {"clip_id": i, "split": split, **json.loads((root / "rows" / f"{i}.json").read_text())}
        for i, split in zip(ids, splits)
    ]
    clips = pd.DataFrame(rows).set_index("clip_id")
    table = _labelled(clips, data.seed, NOISE)
    official = table[[f"label/{world.REGIMES[0]}/{emotion}" for emotion in EMOTIONS]].set_axis(
        EMOTIONS, axis=1
    )
    official.index.name = "Filename"
    for name, chosen in (
        ("train_split.csv", table["split"] != "test"),
        ("valid_split.csv", table["split"] == "test"),
    ):
        official[chosen].to_csv(root / name)
    _write_truth(root, table)  # last: this file says that the folder is complete


def _labelled(table: pd.DataFrame, seed: int, noise: float) -> pd.DataFrame:
    """The table with the label columns of all regimes, made anew from the seed."""
    drawn = [_latents(number, split, seed) for number, split in enumerate(table["split"])]
    labels = pd.DataFrame([_labels(latents, noise) for latents in drawn], index=table.index)
    return table.drop(columns=[name for name in labels if name in table]).join(labels)


def _write_truth(root: Path, table: pd.DataFrame) -> None:
    unfinished = root / (TRUTH + ".part")
    table.to_parquet(unfinished)
    os.replace(unfinished, root / TRUTH)


def truth(root: str | Path) -> pd.DataFrame:
    """Every latent of every clip, one row a clip_id, and labels of the usual noise (NOISE); `read`
    knows those of another. Raises ManifestError if the folder is not complete."""
    path = Path(root) / TRUTH
    if not path.exists():
        raise ManifestError(
            str(root),
            [f"{path}: is missing; let `taemi_lib.data.synthmimic.generate` finish the folder"],
        )
    return pd.read_parquet(path)


def regime_table(table: pd.DataFrame, regime: str, kind: str = "label") -> pd.DataFrame:
    """(N, 6) "label" or "noiseless" intensities of a regime, with emotions as columns. Raises
    ChoiceError for an unknown regime."""
    known = sorted({column.split("/")[1] for column in table if column.startswith("label/")})
    if regime not in known:
        raise ChoiceError(f"unknown regime {regime!r}; the regimes are: {', '.join(known)}")
    return table[[f"{kind}/{regime}/{emotion}" for emotion in EMOTIONS]].set_axis(EMOTIONS, axis=1)


def read(root: str | Path, data: Data | None = None) -> Manifest:
    """The clips with the labels of `data.regime` and `data.label_noise`.

    Raises ManifestError for an incomplete folder.
    """
    data, table = data or Data(), truth(root)
    if data.label_noise != NOISE:
        made = json.loads((Path(root) / SETTINGS).read_text(encoding="utf-8"))
        table = _labelled(table, made["seed"], data.label_noise)
    rows = regime_table(table, data.regime).assign(
        split=table["split"], video=[f"raw/{clip_id}.mp4" for clip_id in table.index]
    )
    return Manifest(rows, Path(root), "SynthMimic", labels=data.regime)

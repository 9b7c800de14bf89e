"""Small feature files in the layouts of the field, made by the tests, and what must come back.

Every function writes one and returns {clip id as stored: {modality: (T, D)}}; labels are a function
of the sound alone, so a system that can hear must find them.
"""

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save_file

from taemi_lib.profiles import EMOTIONS

WIDTHS = {"audio": 5, "vision": 4, "text": 6}
SPLITS = {"train": 8, "valid": 4, "test": 4}
LETTER = {"train": "t", "valid": "v", "val": "v", "validation": "v", "test": "x"}
LONGEST = {"audio": 9, "vision": 7, "text": 6}


class Clip:
    """One clip's true arrays and label (-1 to 1)."""

    def __init__(self, name, rng, lengths=None):
        self.name = name
        self.label = float(np.float32(rng.uniform(-1, 1)))
        self.arrays = {}
        for modality, width in WIDTHS.items():
            steps = int(rng.integers(2, LONGEST[modality] + 1)) if lengths is None else lengths
            self.arrays[modality] = rng.normal(size=(steps, width)).astype(np.float32)
        # what decides: the first dimension of the sound
        self.arrays["audio"][:, 0] = self.label


def clips(counts=SPLITS, seed=0, aligned=False):
    """{split: [Clip]}"""
    rng = np.random.default_rng(seed)
    return {
        split: [
            Clip(
                f"vid{LETTER[split]}{i // 2}$_${i}",
                rng,
                int(rng.integers(2, 6)) if aligned else None,
            )
            for i in range(count)
        ]
        for split, count in counts.items()
    }


def padded(arrays, length, front=False):
    out = np.zeros((len(arrays), length, arrays[0].shape[1]), np.float32)
    for row, array in zip(out, arrays, strict=True):
        row[slice(length - len(array), None) if front else slice(len(array))] = array
    return out


def expected(made):
    return {clip.name.replace("$_$", "__"): clip.arrays for part in made.values() for clip in part}


def mmsa(path, kind="unaligned", sims=False, ids_only=False, change=None, protocol=4, **kw):
    """MOSI- or SIMS-shaped. change: a function of the dictionary, before it is written."""
    made, scale = clips(aligned=kind == "aligned", **kw), 1 if sims else 3
    whole = {}
    for split, part in made.items():
        size = LONGEST if kind == "unaligned" else dict.fromkeys(LONGEST, 6)
        lengths = [len(clip.arrays["text"]) for clip in part]
        mask = (np.arange(size["text"]) < np.array(lengths)[:, None]).astype(np.float32)
        ids = np.where(mask, 100 + np.arange(size["text"]), 0)
        arrays = {m: padded([clip.arrays[m] for clip in part], size[m]) for m in WIDTHS}
        # what stands behind the mask is no zero in the real files
        arrays["text"] = np.where(mask[..., None] > 0, arrays["text"], 7).astype(np.float32)
        whole[split] = {
            "raw_text": np.array([f"words of {clip.name}" for clip in part]),
            "id": [clip.name for clip in part],
            **arrays,
            "text_bert": np.stack([ids, mask, np.zeros_like(mask)], axis=1).astype(np.float32),
            "regression_labels": np.array([scale * clip.label for clip in part], np.float32),
            "classification_labels": np.zeros(len(part)),
            "annotations": np.array(["Neutral"] * len(part)),
        }
        if kind == "unaligned":
            for modality in ("audio", "vision"):
                steps = [len(clip.arrays[modality]) for clip in part]
                whole[split][f"{modality}_lengths"] = steps
        if sims:
            for letter in "TAV":
                whole[split][f"regression_labels_{letter}"] = whole[split]["regression_labels"] / 2
        if ids_only:
            del whole[split]["text"]
    if change:
        change(whole)
    path.write_bytes(pickle.dumps(whole, protocol=protocol))
    return expected(made)


def mult(path, front=False, protocol=2, ids=True):
    made, whole = clips(), {}
    for split, part in made.items():
        arrays = {
            m: padded([clip.arrays[m] for clip in part], LONGEST[m] + 1, front) for m in WIDTHS
        }
        names = [clip.name.split("$_$") for clip in part]
        whole[split] = arrays | {
            "labels": np.array([3 * clip.label for clip in part], np.float32)[:, None, None],
        }
        if ids:
            table = [[video, number, f"{number}.5"] for video, number in names]
            whole[split]["id"] = np.array(table, dtype="S")
    path.write_bytes(pickle.dumps(whole, protocol=protocol))
    found = {}
    for split, part in made.items():
        for row, clip in enumerate(part):
            video, number = clip.name.split("$_$")
            name = f"{video}_{number}_{number}.5" if ids else f"{split}_{row:05d}"
            found[name] = clip.arrays
    return found


def merbench(folder):
    """Sound as vectors (D,) and text as (T, D), faces a file a frame; the last clip has no face."""
    made = clips({"train": 8, "val": 4, "test": 4})
    corpora, found = {}, {}
    for split, part in made.items():
        corpora[f"{split}_corpus"] = {}
        for clip in part:
            name = clip.name.replace("$_$", "_")
            label = {"emo": "happy", "val": 4 * clip.label}
            corpora[f"{split}_corpus"][name] = label
            found[name] = dict(clip.arrays)
            found[name]["audio"] = clip.arrays["audio"][:1]
            save(
                folder / "features/chinese-hubert-large-UTT" / f"{name}.npy",
                clip.arrays["audio"][0],
            )
            save(folder / "features/bert-base-FRA" / f"{name}.npy", clip.arrays["text"])
            for number, frame in enumerate(clip.arrays["vision"], start=7):  # 7 ... 12: no zeros
                save(folder / "features/resnet50face-FRA" / name / f"{number}.npy", frame)
    last = folder / "features/resnet50face-FRA" / name
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    del found[name]["vision"]
    np.savez(folder / "label.npz", **corpora)  # each a dictionary in an array of one object
    return found


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def vidmimic2(folder):
    """Faces as pickled arrays, sound as pickled tensors; test ids have no labels."""
    rng, found, rows = np.random.default_rng(0), {}, {"train": [], "valid": []}
    for number in range(40):
        name = f"{number:05d}"
        arrays = {
            "audio": rng.normal(size=(int(rng.integers(2, 6)), 5)).astype(np.float32),
            "vision": rng.normal(size=(int(rng.integers(2, 6)), 4)).astype(np.float32),
        }
        found[name] = arrays
        for place, value in (
            ("wav2vec2", torch.from_numpy(arrays["audio"])),
            ("vit", arrays["vision"]),
        ):
            (folder / place).mkdir(parents=True, exist_ok=True)
            (folder / place / f"{name}.pkl").write_bytes(pickle.dumps(value))
        labels = np.clip(0.5 + arrays["audio"][:, 0].mean() / 4 + rng.normal(size=6) / 20, 0, 1)
        if number < 38:
            part = "train" if number < 30 else "valid"
            rows[part].append({"Filename": name, **dict(zip(EMOTIONS, labels, strict=True))})
    for part, table in rows.items():
        pd.DataFrame(table).to_csv(folder / f"{part}_split.csv", index=False)
    return found


def own(folder, splits=True, change=None):
    """Half of the sounds as .safetensors; two targets."""
    made, rows = clips(), []
    for split, part in made.items():
        for number, clip in enumerate(part):
            name = clip.name.replace("$_$", "-")
            for modality, array in clip.arrays.items():
                if modality == "audio" and number % 2:
                    (folder / "audio").mkdir(parents=True, exist_ok=True)
                    save_file({"values": array}, folder / "audio" / f"{name}.safetensors")
                else:
                    save(folder / modality / f"{name}.npy", array)
            rows.append(
                {"clip_id": name, "split": split, "Calm": clip.label, "Tense": -clip.label / 2}
            )
    table = pd.DataFrame(rows)
    if not splits:
        table = table.drop(columns="split")
    if change:
        table = change(table)
    table.to_csv(folder / "labels.csv", index=False)
    return {clip.name.replace("$_$", "-"): clip.arrays for part in made.values() for clip in part}


def hf(folder):
    (folder / "data").mkdir(parents=True)
    made = clips({"train": 8, "validation": 4, "test": 4})
    for split, part in made.items():
        columns = {m: [clip.arrays[m].tolist() for clip in part] for m in ("audio", "text")}
        kind = pa.list_(pa.list_(pa.float32()))
        fixed = pa.list_(pa.float32(), 4)
        table = pa.table(
            {
                "id": [clip.name for clip in part],
                "transcript": ["so glad"] * len(part),
                "score": pa.array([clip.label for clip in part], pa.float32()),
                **{m: pa.array(values, kind) for m, values in columns.items()},
                "vision": pa.array([clip.arrays["vision"][0].tolist() for clip in part], fixed),
            }
        )
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    found = expected(made)
    return {name: arrays | {"vision": arrays["vision"][:1]} for name, arrays in found.items()}


# name -> (writes into an empty folder and returns what must come back, what to import)
FORMATS = {
    "mmsa": lambda folder: (mmsa(folder / "mosi.pkl"), folder / "mosi.pkl"),
    "mmsa_aligned": lambda folder: (mmsa(folder / "mosi.pkl", "aligned"), folder / "mosi.pkl"),
    "sims": lambda folder: (mmsa(folder / "sims.pkl", sims=True), folder / "sims.pkl"),
    "mult": lambda folder: (mult(folder / "mosei.pkl"), folder / "mosei.pkl"),
    "merbench": lambda folder: (merbench(folder), folder),
    "vidmimic2": lambda folder: (vidmimic2(folder), folder),
    "own": lambda folder: (own(folder), folder),
    "hf": lambda folder: (hf(folder), folder),
}

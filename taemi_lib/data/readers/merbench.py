"""Folders of MERBench: features/<name>/<clip>.npy, (T, D) or (D,), or a folder of one .npy a frame,
and labels in a .npz: train_corpus, val_corpus, test_corpus (MER2023: test1_corpus, ...) ->
{clip: {emo, val}}.

`val` is read, which is a number; `emo`, a class, is not.

Source: the layout that github.com/zeroQiaoba/MERTools reads (MERBench/toolkit/utils/read_data.py
and toolkit/dataloader).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taemi_lib.data.readers.base import (
    SPLITS,
    FeatureClip,
    Source,
    natural,
    npz,
    of_modalities,
    reader,
    steps,
    text_of,
)
from taemi_lib.profiles import MODALITIES

LABEL = "Valence"
_CORPUS = "_corpus"
# parts of the names of MERBench's feature folders; a modality of another is named by the user
_KNOWN = {
    "audio": "hubert|wav2vec|wavlm|whisper|vggish|opensmile|egemaps|mfcc|is09|is13|emotion2vec",
    "vision": "clip|vit-|vit_|resnet|senet|manet|emonet|videomae|eva|dino|openface|msceleb|face",
    "text": "bert|bloom|llama|baichuan|chatglm|gpt|moss|xlnet|electra|vicuna|alpaca|qwen|falcon",
}


def recognises(source: Source) -> bool:
    return source.path.is_dir() and bool(list(source.path.glob("*.npz"))) and bool(_folders(source))


def _root(source: Source) -> Path:
    inner = source.path / "features"
    return inner if inner.is_dir() else source.path


def _folders(source: Source) -> list[str]:
    """Folders that hold an .npy, or folders of such, seen from the source."""
    return sorted(
        folder.relative_to(source.path).as_posix()
        for folder in _root(source).iterdir()
        if folder.is_dir() and (any(folder.glob("*.npy")) or any(folder.glob("*/*.npy")))
    )


@reader("merbench", "folders of MERBench: features/<name>/<clip>.npy and a label .npz", recognises)
def read(source: Source) -> Iterator[FeatureClip]:
    """Clips of a data set in MERBench's folders."""
    tables = sorted(path.name for path in source.path.glob("*.npz"))
    if len(tables) != 1:
        raise source.stop(f"expected one .npz with labels beside the features, found {tables}")
    corpora = _corpora(source, tables[0])
    folders = _chosen(source)
    source.task((LABEL,))
    for split, clips in corpora:
        for clip, label in clips.items():
            absent: dict[str, str] = {}
            found = {}
            for modality, folder in folders.items():
                array = _feature(source, folder, str(clip), absent, modality)
                if array is not None:
                    found[modality] = array
            value = _val(source, split, str(clip), label)
            yield FeatureClip(str(clip), split, {LABEL: value}, found, absent=absent)


def _corpora(source: Source, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(our split, {clip: label}) of the tables; the first test only."""
    try:
        arrays = npz(source.bytes(name))
    except ValueError as error:
        raise source.stop(f"{name}: {error}") from error
    found: list[tuple[str, Mapping[str, Any]]] = []
    for key in sorted(arrays):
        corpus = key.removesuffix(_CORPUS)
        split = SPLITS.get(corpus.rstrip("0123456789"))
        if not key.endswith(_CORPUS) or split is None:
            source.assume(f"{name}: {key} is not read")
            continue
        if split in [there for there, _ in found]:
            source.assume(f"{name}: {key} is not read: the split {split} is the table before it")
            continue
        clips = arrays[key].reshape(-1)[0] if arrays[key].size == 1 else None
        if not isinstance(clips, dict):
            source.problem(f"{name}: {key} is not one dictionary of clips")
        elif not clips:
            source.problem(f"split {corpus!r} has no clips")
        else:
            found.append((split, clips))
    if not found:
        raise source.stop(f"{name}: has no train_corpus, val_corpus or test_corpus with clips")
    return found


def _chosen(source: Source) -> dict[str, str]:
    """{modality: feature folder}, as the user says, or by names where only one folder fits."""
    there = _folders(source)
    names = {Path(folder).name: folder for folder in there}
    chosen, unclear = {}, []
    for modality in MODALITIES:
        if modality in source.options.leave_out:
            continue
        asked = source.options.columns.get(modality)
        if asked is not None:
            if asked not in names:
                source.problem(f"--column {modality}={asked}: no such folder of features")
            else:
                chosen[modality] = names[asked]
            continue
        fitting = [name for name in names if _modality_of(name) == modality]
        if len(fitting) == 1:
            chosen[modality] = names[fitting[0]]
            source.assume(f"{modality}: the features in {names[fitting[0]]}, by its name")
        elif len(fitting) > 1:
            unclear.append(modality)
    unknown = [name for name in names if _modality_of(name) is None]
    if unclear or not chosen:
        form = " ".join(f"--column {modality}=FOLDER" for modality in unclear or MODALITIES)
        raise source.stop(
            f"which folders shall be read? There are {', '.join(names)}; say {form}, or leave a "
            "modality out: --without text"
        )
    for name in unknown:
        if names[name] not in chosen.values():
            source.assume(f"{names[name]}: not read (--column audio={name} reads it as audio)")
    return of_modalities(chosen)


def _modality_of(name: str) -> str | None:
    return next((m for m, known in _KNOWN.items() if re.search(known, name, re.IGNORECASE)), None)


def _feature(
    source: Source, folder: str, clip: str, absent: dict[str, str], modality: str
) -> np.ndarray | None:
    """(T, D) of a clip's file, or of its folder of frames."""
    if Path(clip).name != clip:
        source.problem(f"clip {clip!r}: its name is a path")
        return None
    file, frames = f"{folder}/{clip}.npy", source.place(f"{folder}/{clip}")
    try:
        if source.place(file).is_file():
            array = source.array(file)
            found = None if array is None else steps(array)
        elif frames.is_dir():
            names = sorted((path.name for path in frames.glob("*.npy")), key=natural)
            parts = [source.array(f"{folder}/{clip}/{name}") for name in names]
            whole = [steps(part) for part in parts if part is not None]
            found = np.concatenate(whole) if whole else np.zeros((0, 1))
        else:
            absent[modality] = "no file in the source"
            return None
    except ValueError as error:
        source.problem(f"{folder}/{clip}: {error}")
        return None
    if found is not None and not len(found):
        absent[modality] = "no steps in the source"
        return None
    return found


def _val(source: Source, split: str, clip: str, label: Any) -> float:
    value = label.get("val") if isinstance(label, dict) else label
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    try:
        return float(text_of(value))
    except ValueError:
        source.problem(f"{split}: val of {clip} is {text_of(value)[:40]!r}, no number")
        return math.nan

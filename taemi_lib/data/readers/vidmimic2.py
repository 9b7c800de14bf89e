"""The features that come with Hume-Vidmimic2: vit/00000.pkl and wav2vec2/00000.pkl, arrays or
tensors (T, D), with train_split.csv and valid_split.csv.

As in the reader of its clips (`data.vidmimic2`), train gives train and selection, valid is the
test, and clips in neither table are to be predicted. There is no text.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from taemi_lib.data.manifest import as_number, composed
from taemi_lib.data.readers.base import FeatureClip, Source, reader, steps
from taemi_lib.data.vidmimic2 import TRAIN, VALID, id_of
from taemi_lib.profiles import EMOTIONS

_FOLDERS = {"audio": "wav2vec2", "vision": "vit"}
_ENDINGS = (".pkl", ".pickle", ".pt", ".npy")


def recognises(source: Source) -> bool:
    some = any((source.path / folder).is_dir() for folder in _FOLDERS.values())
    return some and (source.path / TRAIN).is_file()


@reader(
    "vidmimic2",
    "the official features: vit/, wav2vec2/, train_split.csv, valid_split.csv",
    recognises,
)
def read(source: Source) -> Iterator[FeatureClip]:
    """Clips of the official features."""
    source.task(EMOTIONS, 0, 1)
    source.assume("valid_split.csv is the test split, as in the official layout of clips")
    labelled = set()
    files = {modality: _files(source, folder) for modality, folder in _FOLDERS.items()}
    for table, split in ((TRAIN, "train"), (VALID, "test")):
        for number, row in enumerate(source.table(table, ("Filename", *EMOTIONS)), start=2):
            clip = composed(id_of(row["Filename"]))
            labelled.add(clip)
            labels = {
                name: _number(source, row[name], f"{table}, row {number}") for name in EMOTIONS
            }
            yield _clip(source, clip, split, labels, files)
    rest = {clip for found in files.values() for clip in found} - labelled
    for clip in sorted(rest):
        yield _clip(source, clip, "predict", {}, files)


def _number(source: Source, cell: str, place: str) -> float:
    try:
        return as_number(cell)
    except ValueError:
        source.problem(f"{place}: {cell!r} is not a number")
        return float("nan")


def _files(source: Source, folder: str) -> dict[str, str]:
    """{clip: its file}"""
    place = source.place(folder)
    found = sorted(place.iterdir()) if place.is_dir() else []
    return {
        composed(path.stem): f"{folder}/{path.name}" for path in found if path.suffix in _ENDINGS
    }


def _clip(
    source: Source,
    clip: str,
    split: str,
    labels: dict[str, float],
    files: dict[str, dict[str, str]],
) -> FeatureClip:
    absent, found = {"text": "the official features have no text"}, {}
    for modality, there in files.items():
        if clip not in there:
            absent[modality] = "no file in the source"
            continue
        array = source.array(there[clip])
        if array is None:
            continue
        try:
            values = steps(array)
        except ValueError as error:
            source.problem(f"{there[clip]}: {error}")
            continue
        if len(values):
            found[modality] = np.asarray(values)
        else:
            absent[modality] = "no steps in the source"
    return FeatureClip(clip, split, labels, found, absent=absent)

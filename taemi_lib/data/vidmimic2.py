"""Reader of the official Hume-Vidmimic2 layout (docs/paper.md, "The data's real layout"); the data
itself is licence-gated.

Sound and picture both come from raw/. The other folders of the release (audio/, face_images/, vit/,
wav2vec2/) are derived from it and are not read: here every feature is made by the same encoders.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from taemi_lib.data.manifest import Manifest, composed
from taemi_lib.data.tables import hold_out, read_rows
from taemi_lib.errors import ManifestError
from taemi_lib.profiles import EMOTIONS, Data

TRAIN, VALID, RAW = "train_split.csv", "valid_split.csv", "raw"


def read(root: str | Path, data: Data | None = None) -> Manifest:
    """The folder's clips: train -> train + selection (seeded), valid -> test, ids of raw/ in
    neither table -> predict.

    Models are chosen on a fold held out of train, so that the official validation set stays
    untouched until the end (docs/paper.md row 16). Which share, with which seed, and what becomes
    of rows without their file is told by `data`. Raises ManifestError when a table or the folder
    raw/ is missing, or when a row breaks a rule.
    """
    root, data = Path(root), data or Data()
    if not (root / RAW).is_dir():
        raise ManifestError(
            str(root), [f"{root / RAW}: missing folder; expected {RAW}/00000.mp4 and so on"]
        )
    problems, rows, places = [], [], []
    for name, split in ((TRAIN, "train"), (VALID, "test")):
        try:
            labels, where = read_rows(root / name, required=("Filename", *EMOTIONS))
        except ManifestError as error:  # both tables are looked at before anything is reported
            problems += error.problems
            continue
        for row in labels:
            clip_id = id_of(row["Filename"])
            rows.append(
                {**row, "clip_id": clip_id, "split": split, "video": f"{RAW}/{clip_id}.mp4"}
            )
        places += where
    if problems:
        raise ManifestError(str(root), problems)
    labelled = {composed(row["clip_id"]) for row in rows}
    for video in sorted((root / RAW).glob("*.mp4")):
        if composed(video.stem) not in labelled:
            rows.append({"clip_id": video.stem, "split": "predict", "video": f"{RAW}/{video.name}"})
            places.append(f"{RAW}/{video.name}")
    table = pd.DataFrame(rows, columns=["clip_id", "split", "video", *EMOTIONS])
    manifest = Manifest(
        table,
        root,
        root.name,
        places=places,
        names={"clip_id": "Filename", "video": "Filename"},
        missing_files=data.missing_files,
        links=data.links,
    )
    table = manifest.table
    train = {clip_id: clip_id for clip_id in table.index[table["split"] == "train"]}
    held_out = hold_out(train, data.selection_share, data.seed)
    table.loc[sorted(held_out), "split"] = "selection"
    return manifest


def id_of(filename: str) -> str:
    """ "00042", "00042.mp4" and a 42 that lost its zeros in a spreadsheet are the same clip."""
    stem = filename.removesuffix(".mp4")
    return stem.zfill(5) if stem.isdecimal() else stem

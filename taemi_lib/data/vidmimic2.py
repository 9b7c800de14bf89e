"""Reader of the official Hume-Vidmimic2 layout (docs/paper.md, "The data's real layout"); the data
itself is licence-gated.

Sound and picture both come from raw/. The other folders of the release (audio/, face_images/, vit/,
wav2vec2/) are derived from it and are not read: here every feature is made by the same encoders.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from taemi_lib.data.manifest import Manifest, hold_out, read_rows
from taemi_lib.errors import ManifestError
from taemi_lib.profiles import EMOTIONS

TRAIN, VALID, RAW = "train_split.csv", "valid_split.csv", "raw"


def read(root: str | Path, seed: int = 0, selection_share: float = 0.1) -> Manifest:
    """The folder's clips: train -> train + selection (seeded), valid -> test, ids of raw/ in
    neither table -> predict.

    Models are chosen on a fold held out of train, so that the official validation set stays
    untouched until the end (docs/paper.md row 16). Raises ManifestError when a table or the folder
    raw/ is missing, or when a row breaks a rule.
    """
    root = Path(root)
    if not (root / RAW).is_dir():
        raise ManifestError(
            str(root),
            [f"{root / RAW}: there is no such folder; expected {RAW}/00000.mp4 and so on"],
        )
    problems, rows, places = [], [], []
    for name, split in ((TRAIN, "train"), (VALID, "test")):
        try:
            labels, where = read_rows(root / name, required=("Filename", *EMOTIONS))
        except ManifestError as error:  # both tables are looked at before anything is reported
            problems += error.problems
            continue
        for row in labels:
            clip_id = _clip_id(row["Filename"])
            rows.append(
                {**row, "clip_id": clip_id, "split": split, "video": f"{RAW}/{clip_id}.mp4"}
            )
        places += where
    if problems:
        raise ManifestError(str(root), problems)
    labelled = {row["clip_id"] for row in rows}
    for video in sorted((root / RAW).glob("*.mp4")):
        if video.stem not in labelled:
            rows.append({"clip_id": video.stem, "split": "predict", "video": f"{RAW}/{video.name}"})
            places.append(f"{RAW}/{video.name}")
    table = pd.DataFrame(rows, columns=["clip_id", "split", "video", *EMOTIONS])
    manifest = Manifest(
        table, root, root.name, places=places, names={"clip_id": "Filename", "video": "Filename"}
    )
    table = manifest.table
    held_out = hold_out(table.index[table["split"] == "train"], selection_share, seed)
    table.loc[sorted(held_out), "split"] = "selection"
    return manifest


def _clip_id(filename: str) -> str:
    """ "00042", "00042.mp4" and a 42 that lost its zeros in a spreadsheet are the same clip."""
    stem = filename.removesuffix(".mp4")
    return stem.zfill(5) if stem.isdecimal() else stem

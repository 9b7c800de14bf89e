"""A split that is encoded already, as the challenge wants its predictions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from taemi_lib.batches import ClipDataset
from taemi_lib.evaluation.scoring import predict_dataset
from taemi_lib.runs import Run, refuse_other_features
from taemi_lib.support import files


def write_submission(
    run: Run, dataset: ClipDataset, path: str | Path, device: str = "auto"
) -> None:
    """Predictions of a run for stored features, as the challenge wants them: a CSV of Filename and
    the six intensities in [0, 1] (the targets of another task in its range), one row a clip.

    Raises RunError for features of other encoders.
    """
    refuse_other_features(run, dataset)
    task = dataset.task
    found = predict_dataset(run.model(), dataset, device)
    table = pd.DataFrame(found.prediction.clip(task.low, task.high), columns=list(task.targets))
    table.insert(0, "Filename", found.clip_ids)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())

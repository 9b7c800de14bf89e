"""One media file to six intensities: the whole flow for a single clip, with the encoders its
checkpoint was trained on.

clip -> extract_clip -> collate -> model -> values clipped to [0, 1]
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch

from taemi_lib import models, profiles
from taemi_lib.batches import ClipDataset, collate
from taemi_lib.data.manifest import Clip
from taemi_lib.errors import CheckpointError
from taemi_lib.evaluation.scoring import predict_dataset
from taemi_lib.features import load_encoders
from taemi_lib.features.clip import extract_clip
from taemi_lib.prediction.answer import Prediction
from taemi_lib.profiles import EMOTIONS, MODALITIES
from taemi_lib.runs import Run, refuse_other_features
from taemi_lib.support import device as devices
from taemi_lib.support import files
from taemi_lib.support.differences import differences


def predict(path: str | Path, checkpoint: str | Path, device: str = "auto") -> Prediction:
    """Six intensities for one media file.

    checkpoint  a run folder of taemi_lib.train, or its best/ or last/. Its config.json names the
                encoders, which are loaded anew; where they are not the ones it was trained on, it
                is refused.
    Raises FileNotFoundError (clip or checkpoint), CheckpointError, EncoderError,
    ChoiceError (device).
    """
    path, weights = Path(path), _weights(Path(checkpoint))
    if not path.is_file():
        raise FileNotFoundError(f"no such clip: {path}")
    config = _config(weights.parent)
    place = devices.choose(device)
    encoders = load_encoders(profiles.Encoders(**config["encoders"]), str(place))
    _refuse_other_encoders(config, encoders.identity, weights.parent)
    model = models.load(weights).to(place).eval()

    features = extract_clip(Clip(path.stem, "predict", path.resolve()), encoders)
    batch = collate(
        [features],
        audio_average=config["training"]["audio_average"],
        dims={name: config["sizes"][f"{name}_dim"] for name in MODALITIES},
    )
    with torch.inference_mode():
        values = model(batch.to(place)).prediction[0].float().clamp(0, 1).tolist()
    return Prediction(
        path.name,
        dict(zip(EMOTIONS, values, strict=True)),
        features.transcript,
        dict(features.absent),
        dict(features.damaged),
        all_absent=set(features.absent) == set(MODALITIES),
    )


def _weights(checkpoint: Path) -> Path:
    """The folder with the weights: a run's best/, or the one that was named."""
    if (checkpoint / "best" / "config.json").exists():
        return checkpoint / "best"
    if (checkpoint / "model.safetensors").exists():
        return checkpoint
    raise FileNotFoundError(f"no checkpoint in {checkpoint}: give a run folder, or its best/")


def _config(run: Path) -> dict:
    """The run's configuration: encoders, sizes, preset."""
    path = run / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if missing := [name for name in ("encoders", "sizes", "training") if not config.get(name)]:
        raise CheckpointError(
            f"{path} does not name its {', '.join(missing)}, which a new clip needs: "
            "train with taemi_lib.train(..., encoders=...), as the course does"
        )
    return config


def _refuse_other_encoders(config: dict, found: dict[str, str], run: Path) -> None:
    trained = config["data"]["train"]["encoders"] or {}
    if different := differences(trained, {role: found.get(role) for role in trained}):
        raise CheckpointError(
            f"{run} was trained on features of other encoders: {'; '.join(different)}"
        )


def write_submission(
    run: Run, dataset: ClipDataset, path: str | Path, device: str = "auto"
) -> None:
    """Predictions of a run for stored features, as the challenge wants them: a CSV of Filename and
    the six intensities in [0, 1], one row a clip.

    Raises RunError for features of other encoders.
    """
    refuse_other_features(run, dataset)
    found = predict_dataset(run.model(), dataset, device)
    table = pd.DataFrame(found.prediction.clip(0, 1), columns=list(EMOTIONS))
    table.insert(0, "Filename", found.clip_ids)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())

"""One media file to six intensities: the whole flow for a single clip, with the encoders its
checkpoint was trained on.

clip -> extract_clip -> collate -> model -> values clipped to [0, 1], their intervals, where the
system looked, what each modality was worth, and whether the clip is like the training's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from taemi_lib import profiles
from taemi_lib.batches import Batch
from taemi_lib.data.manifest import Clip
from taemi_lib.errors import CheckpointError
from taemi_lib.features import Encoders, identity, load_encoders
from taemi_lib.features.clip import extract_clip
from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.models.base import Output
from taemi_lib.prediction.answer import (
    CAUTION,
    CAUTION_OTHER,
    LEVEL,
    Attention,
    Outside,
    Prediction,
)
from taemi_lib.prediction.calibration import Calibration, calibrated, rank, spread
from taemi_lib.prediction.checkpoint import Checkpoint, Ensemble, Source, numbers, value
from taemi_lib.profiles import EMOTIONS, MODALITIES
from taemi_lib.support import device as devices
from taemi_lib.support import naming
from taemi_lib.support.differences import differences
from taemi_lib.workspace import Workspace


class Predictor:
    """Encoders and runs, loaded once for many clips.

    runs         a run's folder (or its best/ or last/), a Run, or several of one system under other
                 seeds: their mean answers, and their spread makes the intervals
    device       as everywhere: "auto", "cpu", "cuda", ...
    workspace    where a calibration may be made from, if none is kept beside the run and clips and
                 features are there already
    calibration  the one to use instead
    Raises FileNotFoundError (no checkpoint), CheckpointError (a config.json that is damaged or says
    too little, other encoders than those of the training, runs that do not fit), EncoderError,
    ChoiceError (device, or a system that nobody imported).
    """

    def __init__(
        self,
        runs: Source | Sequence[Source],
        device: str = "auto",
        workspace: Workspace | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.device = devices.choose(device)
        self.ensemble = Ensemble(runs, self.device)
        try:
            self.settings = profiles.Encoders(**self.ensemble.config["encoders"])
        except (TypeError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{self.ensemble.checkpoints[0].run}/config.json: its encoders are no settings of "
                f"this version ({said})"
            ) from error
        made_by = identity(self.settings)
        for checkpoint in self.ensemble.checkpoints:
            _refuse_other_encoders(checkpoint, made_by)
        self.calibration, self.uncalibrated = calibration, ""
        if calibration is None:
            self.calibration, self.uncalibrated = calibrated(self.ensemble, workspace)

    @cached_property
    def encoders(self) -> Encoders:
        """Loaded when a clip is first encoded here: clips that are encoded need none."""
        return load_encoders(self.settings, str(self.device))

    def predict(self, clip: str | Path | Clip) -> Prediction:
        """Six intensities for one media file, or one clip of a table. Raises FileNotFoundError."""
        if isinstance(clip, Clip):
            return self.predict_features(extract_clip(clip, self.encoders))
        path = existing(clip)
        made = extract_clip(Clip(path.stem, "predict", path.resolve()), self.encoders)
        return replace(self.predict_features(made), clip=naming.visible(path.name))

    def predict_features(self, clip: ClipFeatures) -> Prediction:
        """Six intensities for a clip that is encoded already, as `extract_clip` gives it (a
        ClipDataset's clips have their sound averaged already).

        Raises ValueError for features of another width, CheckpointError when the answer is no
        number.
        """
        clip = self.ensemble.prepared(clip)
        batch = self.ensemble.batch(clip)
        outputs = self.ensemble.outputs(batch)
        answers = np.stack([numbers(output)[0] for output in outputs])
        if not np.isfinite(answers).all():
            raise CheckpointError(
                f"{clip.clip_id}: the answer of {self.ensemble.checkpoints[0].run} is no "
                "number: its weights are damaged, or the features of this clip are"
            )
        there = [name for name in MODALITIES if name not in clip.absent]
        outside = self.calibration.world.place(clip) if self.calibration and there else None
        low, high, interval = self._interval(clip, batch, answers, outside)
        return Prediction(
            clip.clip_id,
            self._named(value(answers)),
            clip.transcript,
            dict(clip.absent),
            dict(clip.damaged),
            all_absent=not there,
            notes=dict(clip.notes),
            language=clip.language,
            words=clip.words,
            low=low,
            high=high,
            level=self.calibration.level if self.calibration else LEVEL,
            interval=interval,
            attention=_attention(outputs, batch),
            without={name: self._without(batch, name) for name in there},
            outside=outside,
            scale=(self.ensemble.task.low, self.ensemble.task.high),
            caution=CAUTION if self.ensemble.task.targets == EMOTIONS else CAUTION_OTHER,
        )

    def _interval(
        self, clip: ClipFeatures, batch: Batch, answers: np.ndarray, outside: Outside | None
    ) -> tuple[dict[str, float] | None, dict[str, float] | None, str]:
        """(low, high, the sentence about them)."""
        if self.calibration is None:
            return None, None, f"no interval: {self.uncalibrated}"
        if len(clip.absent) == len(MODALITIES):
            return None, None, "no interval: nothing of the clip could be used"
        low, high = self.calibration.bounds(value(answers), spread(self.ensemble, batch, answers))
        said = str(self.calibration)
        if outside is not None and outside.is_outside:
            said += "; this clip is unlike those, so they promise nothing about it"
        elif rare := [name for name in clip.absent if rank(self.calibration.lacking[name]) is None]:
            said += f"; hardly any of those lacks {' and '.join(rare)}, as this one does"
        return self._named(low), self._named(high), said

    def _named(self, values: np.ndarray) -> dict[str, float]:
        """{target: value in the task's units} of values between 0 and 1."""
        task = self.ensemble.task
        return dict(zip(task.targets, task.unscaled(values).tolist(), strict=True))

    def _without(self, batch: Batch, modality: str) -> dict[str, float]:
        """The values, had the clip come without a modality: its missing token stands in."""
        present = batch.present | {modality: batch.present[modality] & False}
        return self._named(value(self.ensemble.answers(replace(batch, present=present))[:, 0]))


def predict(path: str | Path, checkpoint: Source, device: str = "auto") -> Prediction:
    """Six intensities for one media file; for many, a `Predictor` loads everything once.

    checkpoint  a run folder of taemi_lib.train, or its best/ or last/. Its config.json names the
                encoders, which are loaded anew; where they are not the ones it was trained on, it
                is refused.
    Raises FileNotFoundError (clip or checkpoint), CheckpointError, EncoderError,
    ChoiceError (device).
    """
    path = existing(path)
    return Predictor(checkpoint, device).predict(path)


def existing(path: str | Path) -> Path:
    """The path of a file that is there. Raises FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such clip: {path}")
    return path


def _refuse_other_encoders(checkpoint: Checkpoint, found: dict[str, str]) -> None:
    trained = checkpoint.config["data"]["train"]["encoders"] or {}
    if different := differences(trained, {role: found.get(role) for role in trained}):
        raise CheckpointError(
            f"{checkpoint.run} was trained on features of other encoders: {'; '.join(different)}"
        )


def _attention(outputs: Sequence[Output], batch: Batch) -> dict[str, Attention] | None:
    """Mean over heads and runs, on the real steps of the branches that the clip has; None where no
    run attends."""
    if not all(output.attention for output in outputs):
        return None
    found = {}
    for name in outputs[0].attention:
        if not batch.present[name][0]:
            continue  # a missing token stands there: it has no time
        real = batch.mask[name][0].numpy()
        heads = np.stack([output.attention[name][0].float().cpu().numpy() for output in outputs])
        weights = heads.astype(np.float64).mean(axis=(0, 1))[real]
        times = batch.times[name][0].numpy()[real].astype(np.float64)
        found[name] = Attention(tuple(times.tolist()), tuple(weights.tolist()))
    return found

"""One media file, or a split to submit, to intensities with everything needed to judge them.

answer       `Prediction`: what is handed on
checkpoint   trained runs, and what they say of a batch
world        how far a clip is from the training clips
calibration  from how much answers vary to intervals that hold what they promise; kept beside a run
predictor    `Predictor`, `predict`: the whole flow for a clip
inputs       files, folders and tables as clips; all of them predicted, each encoded once
tables       predictions as a CSV
submission   a split as the challenge wants it
"""

from taemi_lib.prediction.answer import CAUTION, LEVEL, Attention, Distance, Outside, Prediction
from taemi_lib.prediction.calibration import Calibration, Coverage, calibrate, calibrated, coverage
from taemi_lib.prediction.checkpoint import Ensemble
from taemi_lib.prediction.predictor import Predictor, predict
from taemi_lib.prediction.submission import write_submission

__all__ = [
    "CAUTION",
    "LEVEL",
    "Attention",
    "Calibration",
    "Coverage",
    "Distance",
    "Ensemble",
    "Outside",
    "Prediction",
    "Predictor",
    "calibrate",
    "calibrated",
    "coverage",
    "predict",
    "write_submission",
]

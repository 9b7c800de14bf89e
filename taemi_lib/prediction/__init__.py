"""One media file, or a split to submit, to intensities with everything needed to judge them.

answer       `Prediction`: what is handed on
world        how far a clip is from the training clips
spread       by how much a system's answers vary
calibration  from that to intervals that hold what they promise; kept beside the run
predictor    `Predictor`, `predict`: the whole flow for a clip
submission   a split as the challenge wants it
"""

from taemi_lib.prediction.answer import CAUTION, LEVEL, Attention, Distance, Outside, Prediction
from taemi_lib.prediction.predictor import predict, write_submission

__all__ = [
    "CAUTION",
    "LEVEL",
    "Attention",
    "Distance",
    "Outside",
    "Prediction",
    "predict",
    "write_submission",
]

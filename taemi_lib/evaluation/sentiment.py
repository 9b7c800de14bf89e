"""The scores of the sentiment field (MOSI, MOSEI, CH-SIMS), as in MMSA's regression mode.

One number a clip is predicted; classes are made from it afterwards, and these rules differ from
one another in ways that move published numbers, so that they stand here literally (source:
thuiar/MMSA, src/MMSA/utils/metricsTop.py). All from (N,) predictions and targets, unclipped, as
arrays or tensors, of the whole split.

Two things are not MMSA's. A prediction that is the same for every clip has no correlation: MMSA
gives NaN, here it counts as 0 with a ConstantPrediction warning, as everywhere in this project
(docs/paper.md row 17). And nothing is rounded to four digits: whoever prints does that.

Classes are made in float32, which is what MMSA holds: there -0.1 lies on the border of its bin
whether the number came as float32 or float64.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from taemi_lib.evaluation import metrics

SENTIMENT = (
    "mae",
    "corr",
    "acc_7",
    "acc_5",
    "acc_3",
    "acc_2_has0",
    "f1_has0",
    "acc_2_non0",
    "f1_non0",
)
SIMS = ("mae", "corr", "acc_5", "acc_3", "acc_2", "f1")

# Upper borders, which belong to the bin below: (-0.1, 0.1] is SIMS's neutral.
_SIMS_BORDERS = {"acc_5": (-0.7, -0.1, 0.1, 0.7), "acc_3": (-0.1, 0.1), "acc_2": (0.0,)}


def sentiment(prediction, target) -> dict[str, float]:
    """The scores of MOSI and MOSEI, whose truth lies in [-3, 3]: the keys are SENTIMENT.

    mae, corr: of the values as they are. acc_7, acc_5, acc_3: values clipped to +-3, +-2, +-1 and
    rounded, halves to the even number (2.5 is 2, 0.5 and -0.5 are 0). acc_2_has0, f1_has0: >= 0
    against >= 0, all clips. acc_2_non0, f1_non0: > 0 against > 0 on the clips whose truth is not
    0, so that a prediction of exactly 0 counts as positive in the first and as negative here. F1
    is weighted by the truth's classes.

    prediction, target: (N,). Raises ValueError on NaN, infinity, fewer than 2 clips, shapes that
    do not fit, and a truth that is the same for all clips (all 0 leaves nothing for non0). Warns
    ConstantPrediction.
    """
    prediction, target, scores = _checked(prediction, target)
    for classes, limit in ((7, 3), (5, 2), (3, 1)):
        rounded = (np.round(np.clip(values, -limit, limit)) for values in (prediction, target))
        scores[f"acc_{classes}"] = float(np.mean(np.equal(*rounded)))
    _two_classes(scores, "has0", prediction >= 0, target >= 0)
    known = target != 0
    _two_classes(scores, "non0", prediction[known] > 0, target[known] > 0)
    return scores


def sims(prediction, target) -> dict[str, float]:
    """The scores of CH-SIMS, whose truth lies in [-1, 1]: the keys are SIMS.

    Everything, mae and corr too, is of values clipped to +-1. acc_2: above 0 or not. acc_3: borders
    -0.1 and 0.1. acc_5: borders -0.7, -0.1, 0.1 and 0.7. A value on a border belongs below it. f1
    is that of acc_2's classes, weighted by the truth's.

    prediction, target: (N,). Raises and warns as `sentiment` does.
    """
    prediction, target, scores = _checked(prediction, target, limit=1.0)
    for name, borders in _SIMS_BORDERS.items():
        edges = np.array(borders, np.float32)
        classes = [np.digitize(values, edges, right=True) for values in (prediction, target)]
        scores[name] = float(np.mean(np.equal(*classes)))
    scores["f1"] = float(f1_score(target > 0, prediction > 0, average="weighted"))
    return scores


def _checked(
    prediction, target, limit: float | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Both as (N,) float32 to make classes of, and mae and corr of what was given, in float64;
    limit: clip first."""
    pair = [
        np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        for values in (prediction, target)
    ]
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
        raise ValueError(
            f"prediction is {pair[0].shape} and target {pair[1].shape}; both must be (N,), one "
            "number a clip, the whole split at once"
        )
    metrics.checked(pair[0][:, None], pair[1][:, None])  # before clipping, which hides infinity
    if limit is not None:
        pair = [np.clip(values, -limit, limit) for values in pair]
    columns = pair[0][:, None], pair[1][:, None]  # (N, 1)
    exact = metrics.checked(*columns)  # in float64
    scores = {
        "mae": float(np.mean(np.abs(exact[0] - exact[1]))),
        "corr": float(metrics.pearson_per_emotion(columns[0], columns[1])[0]),
    }
    return pair[0].astype(np.float32), pair[1].astype(np.float32), scores


def _two_classes(
    scores: dict[str, float], name: str, prediction: np.ndarray, target: np.ndarray
) -> None:
    """Add the accuracy and weighted F1 of two classes, as (N,) bool."""
    scores[f"acc_2_{name}"] = float(accuracy_score(target, prediction))
    scores[f"f1_{name}"] = float(f1_score(target, prediction, average="weighted"))

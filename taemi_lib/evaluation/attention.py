"""Attention held against planted truth: does a system look at the event that counts, or at the
decoy as well?

The generator plants two events in a clip and knows which one the label comes from. Looking at both
is no selection, so the score is a ratio: attention on the event that counts over attention on the
decoy, pooled over clips. Chance is 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from taemi_lib.evaluation.scoring import Predictions


def event_windows(
    truth: pd.DataFrame, regime: str, clip_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) start and end in s of the event that counts, and of the decoy, for these clips.

    `truth` is truth.parquet; its column counts/<regime> says which event counts (0 or 1). Where
    both do (-1), there is no decoy and both windows are NaN. Raises ValueError naming a missing
    column or clip.
    """
    columns = [f"event{k}_{edge}" for k in (0, 1) for edge in ("start", "end")] + [
        f"counts/{regime}"
    ]
    rows = truth.set_index("clip_id") if "clip_id" in truth.columns else truth
    if missing := [column for column in columns if column not in rows.columns]:
        raise ValueError(
            f"truth has no column {', '.join(missing)}; "
            "regimes are named in its columns counts/<regime>"
        )
    if unknown := [clip_id for clip_id in clip_ids if clip_id not in rows.index]:
        raise ValueError(
            f"truth has no row for {len(unknown)} of the clips, the first is {unknown[0]!r}"
        )
    rows = rows.loc[list(clip_ids)]
    # (N, event, start and end)
    events = rows[columns[:4]].to_numpy(dtype=np.float64).reshape(-1, 2, 2)
    counts = rows[columns[4]].to_numpy(dtype=int)
    picked = np.arange(len(events)), np.maximum(counts, 0)
    other = np.arange(len(events)), 1 - np.maximum(counts, 0)
    both = (counts < 0)[:, None]
    return np.where(both, np.nan, events[picked]), np.where(both, np.nan, events[other])


def mass(weights: np.ndarray, times: np.ndarray, window: np.ndarray) -> float:
    """Share of attention (H, T), mean over heads, on the steps whose time (s) lies in window =
    (start, end)."""
    inside = (times >= window[0]) & (times < window[1])
    return float(np.asarray(weights, dtype=np.float64)[:, inside].sum(axis=1).mean())


def attention_over_decoy(
    attention: Sequence[np.ndarray | None],
    times: Sequence[np.ndarray | None],
    counts: np.ndarray,
    decoy: np.ndarray,
) -> float:
    """Mean attention on the event that counts, divided by mean attention on the decoy.

    attention, times   N x (H, T) weights and (T,) seconds; None: the modality is absent, the clip
                       is left out
    counts, decoy      (N, 2) windows in s; NaN: the clip is left out
    The masses are averaged over clips before dividing: a mean of single ratios would be ruled by
    clips with a tiny denominator. Infinite when nothing at all is on the decoys. Raises ValueError
    when no clip is left.
    """
    on_event, on_decoy = [], []
    for weights, clock, window, other in zip(attention, times, counts, decoy, strict=True):
        if weights is None or clock is None or np.isnan([window, other]).any():
            continue
        on_event.append(mass(weights, clock, window))
        on_decoy.append(mass(weights, clock, other))
    if not on_event:
        raise ValueError(
            "no clip has both attention and an event with a decoy: there is nothing to compare"
        )
    decoys = float(np.mean(on_decoy))
    return float(np.mean(on_event)) / decoys if decoys > 0 else float("inf")


def attention_ratios(
    predictions: Predictions, truth: pd.DataFrame, regime: str
) -> dict[str, float]:
    """{modality: attention_over_decoy} for predictions made with attention=True."""
    if not predictions.attention:
        raise ValueError(
            "these predictions hold no attention: "
            "predict with attention=True, with a system that attends"
        )
    counts, decoy = event_windows(truth, regime, predictions.clip_ids)
    return {
        name: attention_over_decoy(weights, predictions.times[name], counts, decoy)
        for name, weights in predictions.attention.items()
    }

"""Figures of one prediction: the intensities with their intervals, what each modality was worth,
where the system looked, and the frames that mattered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from taemi_lib.data.media import Audio, Frames, Unreadable, read_audio, read_frames
from taemi_lib.figures.networks import attention_explorer_figure
from taemi_lib.figures.style import COLOURS, LINES, MARKERS, Figure, listed, one_line, plain, plural
from taemi_lib.prediction.answer import Prediction

SIDE = 160  # pixels of a thumbnail


def intensities(prediction: Prediction) -> Figure:
    """Six bars, with the interval of each where there is one."""
    names, values = list(prediction.values), np.array([*prediction.values.values()])
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(names))[::-1]
    axis.barh(places, values, color=COLOURS[5], edgecolor="#333333", height=0.6)
    bounds = ""
    if prediction.low is not None and prediction.high is not None:
        low, high = (
            np.array([side[name] for name in names]) for side in (prediction.low, prediction.high)
        )
        reach = np.stack([values - low, high - values]).clip(min=0)
        axis.errorbar(values, places, xerr=reach, fmt="none", ecolor="black", capsize=4, lw=1.5)
        bounds = f", with intervals that promise {prediction.level:.0%}"
    axis.set(xlim=(0, 1), xlabel="intensity", yticks=places, yticklabels=names)
    axis.set_title(plain(prediction.clip), fontsize=10)
    said = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, values))
    figure.alt = f"Predicted intensities of {prediction.clip}{bounds}: {said}."
    return figure


def without(prediction: Prediction) -> Figure:
    """What the numbers would be without each modality that is there: a line for each emotion from
    the full clip to the clip that lacks it."""
    names, asked = list(prediction.values), list(prediction.without)
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    columns = ["complete" if not prediction.absent else "as it is", *(f"no {n}" for n in asked)]
    for number, name in enumerate(names):
        line = [prediction.values[name], *(prediction.without[left][name] for left in asked)]
        axis.plot(
            range(len(columns)),
            line,
            marker=MARKERS[number],
            color=COLOURS[number],
            linestyle=LINES[number],
            label=name,
        )
    axis.set(xticks=range(len(columns)), xticklabels=columns, ylim=(0, 1), ylabel="intensity")
    axis.set_title(plain(prediction.clip), fontsize=10)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    largest = {
        left: max(abs(prediction.without[left][name] - prediction.values[name]) for name in names)
        for left in asked
    }
    said = listed([f"by up to {change:.2f} without {left}" for left, change in largest.items()])
    figure.alt = f"Intensities of {prediction.clip} with one modality left out: they move {said}."
    return figure


def attention(prediction: Prediction, video: str | Path | None = None) -> Figure:
    """Where the system looked and listened, over the clip's time: above its frames and its sound,
    where `video` gives them, and the words that were heard.

    Raises ValueError for a prediction without attention, or a file with neither sound nor picture.
    """
    if not prediction.attention:
        raise ValueError(f"{prediction.clip}: this system gives no attention, or the clip nothing")
    sound, frames = _decoded(video)
    if sound is None and frames is None:
        ends = [max(branch.times) for branch in prediction.attention.values() if branch.times]
        sound = Audio(np.zeros(round(16_000 * max(ends)) or 1, np.float32), max(ends))
    return attention_explorer_figure(
        attention={n: _array(prediction, n, "weights") for n in ("audio", "vision")},
        times={n: _array(prediction, n, "times") for n in ("audio", "vision")},
        audio=sound,
        frames=frames,
        words=[(one_line(word.text), word.start) for word in prediction.words],
        transcript=one_line(prediction.transcript or ""),
        title=one_line(prediction.clip),
    )


def moments(prediction: Prediction, video: str | Path | None, count: int = 4) -> Figure:
    """The frames of `video` at the highest picture weights, in order of time, with their weights in
    multiples of what even attention would give.

    Raises ValueError when there is no attention on pictures or the file gives none.
    """
    branch = (prediction.attention or {}).get("vision")
    _, frames = _decoded(video)
    if branch is None or frames is None:
        raise ValueError(f"{prediction.clip}: no pictures, or no attention on them")
    weights, times = np.array(branch.weights), np.array(branch.times)
    highest = sorted(_apart(weights, times, count))
    figure = Figure(figsize=(2.1 * len(highest), 2.4), layout="constrained")
    for axis, step in zip(np.atleast_1d(figure.subplots(1, len(highest))), highest):
        nearest = int(np.abs(frames.times - times[step]).argmin())
        _picture(axis, frames.images[nearest])
        axis.set_title(f"{times[step]:.1f} s: {weights[step] * len(weights):.1f} x", fontsize=9)
    told = listed([f"{times[step]:.1f} s" for step in highest])
    figure.alt = f"The {plural(len(highest), 'frame')} of {prediction.clip} looked at most: {told}."
    return figure


def _apart(weights: np.ndarray, times: np.ndarray, count: int) -> list[int]:
    """Steps of the highest weights that are not neighbours: a tenth of the clip apart."""
    found: list[int] = []
    distance = (times[-1] - times[0]) / 10
    for step in np.argsort(-weights, kind="stable"):
        if len(found) < count and all(abs(times[step] - times[one]) >= distance for one in found):
            found.append(int(step))
    return found


def _picture(axis: Axes, image: np.ndarray) -> None:
    step = max(1, -(-max(image.shape[:2]) // SIDE))
    axis.imshow(image[::step, ::step])
    axis.set_axis_off()


def _array(prediction: Prediction, name: str, what: str) -> np.ndarray | None:
    branch = (prediction.attention or {}).get(name)
    return None if branch is None else np.array(getattr(branch, what))


def _decoded(video: str | Path | None) -> tuple[Audio | None, Frames | None]:
    found: list = []
    for read in (read_audio, read_frames):
        try:
            found.append(None if video is None else read(video))
        except Unreadable:
            found.append(None)
    return found[0], found[1]

"""Figures of one prediction: the intensities with their intervals, what each modality was worth,
where the system looked, and the frames that mattered.

They name the clip in their alternative text only: whoever shows one says beside it which clip it is
of. `looked_at` gives the frames themselves, for a page that writes its own captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from taemi_lib.data.media import Unreadable, read_frames
from taemi_lib.figures.clips import draw_words
from taemi_lib.figures.style import COLOURS, MARKERS, Figure, listed, plural
from taemi_lib.prediction.answer import Attention, Prediction
from taemi_lib.support.naming import visible

SIDE = 160  # pixels of a thumbnail's longer side
_AWAY = 0.2  # s that a frame may lie from the step it stands for; further off, it is another one
NAMES = {"audio": "sound", "vision": "picture", "text": "words"}  # modality -> what readers call it


@dataclass(frozen=True)
class Moment:
    """A frame that was looked at: its time in s, its weight (all frames of the clip: 1), and the
    image (h, w, 3) uint8, at most SIDE pixels long."""

    time: float
    weight: float
    image: np.ndarray


def intensities(prediction: Prediction) -> Figure:
    """A bar for each target, with a whisker for the interval of each where there is one."""
    names, values = list(prediction.values), np.array([*prediction.values.values()])
    figure = Figure(figsize=(6, 2.5), layout="constrained")
    axis = figure.subplots()
    rows = np.arange(len(names))
    axis.barh(rows, values, color=COLOURS[5], edgecolor="#333333", hatch="//", height=0.6)
    spans = [""] * len(names)
    if prediction.low is not None and prediction.high is not None:
        low, high = (
            np.array([side[name] for name in names]) for side in (prediction.low, prediction.high)
        )
        reach = np.stack([values - low, high - values]).clip(min=0)
        axis.errorbar(values, rows, xerr=reach, fmt="none", ecolor="black", capsize=4, lw=1.5)
        spans = [f" ({a:.2f} to {b:.2f})" for a, b in zip(low, high)]
    lowest, highest = prediction.scale
    unit = f"intensity ({lowest:g} to {highest:g})"
    axis.set(xlim=prediction.scale, xlabel=unit, yticks=rows, yticklabels=names)
    axis.grid(axis="x", alpha=0.3)
    axis.invert_yaxis()
    kind = f" with {prediction.level:.0%} intervals" if any(spans) else ""
    said = listed(f"{name} {value:.2f}{span}" for name, value, span in zip(names, values, spans))
    what = "six intensities" if len(names) == 6 else "intensities"
    figure.alt = f"Bars of the {what} of {_name(prediction)}{kind}: {said}."
    return figure


def without(prediction: Prediction) -> Figure:
    """What the numbers would be without each modality that is there: a row for each emotion, lines
    from the value of the clip as it is to those of the clip that lacks one.

    Raises ValueError where nothing was there that could be left out.
    """
    if not prediction.without:
        raise ValueError("nothing of the clip was there that could be left out")
    names, values = list(prediction.values), np.array([*prediction.values.values()])
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    rows = np.arange(len(names))
    axis.plot(values, rows, "D", color="black", markersize=8, label="as it is", zorder=3)
    lanes = (
        np.linspace(-0.24, 0.24, len(prediction.without)) if len(prediction.without) > 1 else [0]
    )
    moved = []
    for number, (modality, others) in enumerate(prediction.without.items()):
        lacking, lane = np.array([others[name] for name in names]), rows + lanes[number]
        colour, marker = COLOURS[number % 6], MARKERS[number % 3]
        axis.hlines(lane, values, lacking, color=colour, linewidth=1.6)
        axis.plot(lacking, lane, marker, color=colour, label=f"without {_said(modality)}")
        most = int(np.abs(lacking - values).argmax())
        moved.append(
            f"without {_said(modality)} {names[most]} moves most, from {values[most]:.2f} "
            f"to {lacking[most]:.2f}"
        )
    lowest, highest = prediction.scale
    margin = 0.02 * (highest - lowest)
    unit = f"intensity ({lowest:g} to {highest:g})"
    axis.set(xlim=(lowest - margin, highest + margin), xlabel=unit)
    axis.set(yticks=rows, yticklabels=names)
    axis.grid(axis="x", alpha=0.3)
    axis.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    figure.alt = f"Intensities of {_name(prediction)} with one modality left out: {listed(moved)}."
    return figure


def attention(prediction: Prediction, count: int = 4) -> Figure:
    """How the attention on sound and picture spreads over the clip's time, in shares of a whole,
    above the words that were heard at their times. Dotted: what even attention would give. The
    numbers stand at the `count` moments that `moments` shows.

    Raises ValueError for a prediction without attention.
    """
    branches = _branches(prediction)
    panels = len(branches) + bool(prediction.words)
    figure = Figure(figsize=(8, 1.5 * len(branches) + 0.8), layout="constrained")
    ratios = [1.0] * len(branches) + [0.45] * bool(prediction.words)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for number, (axis, (name, branch)) in enumerate(zip(axes, branches.items())):
        _draw_branch(axis, name, branch, number)
        if name == "vision":
            _number(axis, branch, highest(branch, count))
    if prediction.words:
        draw_words(axes[-1], [(visible(word.text), word.start) for word in prediction.words], "")
    ends = [branch.times[-1] for branch in branches.values()]
    axes[0].set_xlim(0, max([*ends, *(word.end for word in prediction.words), 0.1]) * 1.02)
    axes[-1].set_xlabel("time (s)")
    peaks = listed(
        f"on the {_said(name)} highest at {branch.times[int(np.argmax(branch.weights))]:.1f} s "
        f"({max(branch.weights):.0%} of it)"
        for name, branch in branches.items()
    )
    words = f", above {plural(len(prediction.words), 'word')}" if prediction.words else ""
    figure.alt = f"Attention over time in {_name(prediction)}{words}: {peaks}."
    return figure


def moments(prediction: Prediction, video: str | Path | None, count: int = 4) -> Figure:
    """The frames of `video` at the highest picture weights as thumbnails in order of time, each
    with its time and its weight.

    Raises ValueError when there is no attention on pictures or the file does not give them.
    """
    found = looked_at(prediction, video, count)
    figure = Figure(figsize=(max(2.0 * len(found), 3), 2.2), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for number, (axis, moment) in enumerate(zip(panels, found), 1):
        axis.imshow(moment.image)
        axis.set_axis_off()
        axis.set_title(f"{number}: {moment.time:.1f} s, {moment.weight:.0%}", fontsize=9)
    told = listed(f"{moment.time:.1f} s ({moment.weight:.0%})" for moment in found)
    figure.alt = (
        f"The {plural(len(found), 'frame')} of {_name(prediction)} with most of the attention on "
        f"the picture: {told}."
    )
    return figure


def looked_at(prediction: Prediction, video: str | Path | None, count: int = 4) -> list[Moment]:
    """The frames behind `moments`, in order of time. Only these are kept while the file is read.

    Raises ValueError when there is no attention on pictures, or the file does not give them (with
    the reason, such as a file that is gone or is another one by now).
    """
    branch = (prediction.attention or {}).get("vision")
    if branch is None or not branch.times:
        raise ValueError("the system did not attend to any picture of this clip")
    if video is None:
        raise ValueError("no video file is at hand")
    steps = highest(branch, count)
    try:
        frames = read_frames(video, choice=[branch.times[step] for step in steps])
    except Unreadable as error:
        raise ValueError(
            f"the file does not give the frames that were looked at ({error.reason}); is it still "
            "the one that was predicted?"
        ) from error
    found = []
    for step in steps:
        nearest = int(np.abs(frames.times - branch.times[step]).argmin())
        if abs(frames.times[nearest] - branch.times[step]) > _AWAY:
            raise ValueError(
                f"the file has no frame at {branch.times[step]:.1f} s, where one was looked at: "
                "it is not the file that was predicted"
            )
        image = _thumbnail(frames.images[nearest])
        found.append(Moment(branch.times[step], branch.weights[step], image))
    return found


def highest(branch: Attention, count: int) -> list[int]:
    """The steps of the `count` highest weights, in order of time: above what even attention would
    give, and none within a tenth of the clip of another, as neighbours show the same."""
    times, weights = np.asarray(branch.times), np.asarray(branch.weights)
    found: list[int] = []
    even = (1 - 1e-6) / len(weights)  # reached by all, where the attention is even
    for step in np.argsort(-weights, kind="stable"):
        apart = all(abs(times[step] - times[one]) >= (times[-1] - times[0]) / 10 for one in found)
        if apart and len(found) < count and weights[step] >= even:
            found.append(int(step))
    return sorted(found)


def _branches(prediction: Prediction) -> dict[str, Attention]:
    """Those with steps, sound first. Raises ValueError when there is none."""
    given = prediction.attention or {}
    found = {name: branch for name, branch in sorted(given.items()) if branch.times}
    if not found:
        raise ValueError(
            "this system does not attend with a query"
            if prediction.attention is None
            else "neither sound nor picture was there to attend to"
        )
    return found


def _draw_branch(axis: Axes, name: str, branch: Attention, number: int) -> None:
    shares = 100 * np.asarray(branch.weights)
    colour, marker = COLOURS[number], MARKERS[number]
    axis.fill_between(branch.times, shares, color=colour, alpha=0.2, linewidth=0)
    axis.plot(branch.times, shares, color=colour, linewidth=1.8, marker=marker, markersize=3)
    axis.axhline(100 / len(shares), color="black", linestyle=":", linewidth=1)
    axis.set_ylim(0, 1.25 * float(shares.max()))
    axis.set_ylabel(f"{_said(name)}\n(% of attention)", fontsize=9)


def _number(axis: Axes, branch: Attention, steps: Sequence[int]) -> None:
    for number, step in enumerate(steps, 1):
        place = branch.times[step], 100 * branch.weights[step]
        style: dict[str, Any] = {"ha": "center", "textcoords": "offset points", "fontsize": 9}
        axis.annotate(str(number), place, (0, 5), fontweight="bold", **style)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image)
    small.thumbnail((SIDE, SIDE))
    return np.asarray(small)


def _name(prediction: Prediction) -> str:
    return visible(prediction.clip)


def _said(modality: str) -> str:
    return NAMES.get(modality, modality)

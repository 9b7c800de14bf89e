"""Figures of single clips and of their labels: pictures, sound, words, intensities.

The parts of a clip (`draw_...`) are also panels of the attention explorer in `networks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from taemi_lib.data.media import SAMPLE_RATE, Audio, Frames
from taemi_lib.figures.style import Figure, centred, listed, one_line, plural, shortened
from taemi_lib.profiles import EMOTIONS, Task

Words = Sequence[tuple[str, float]]  # each word and when it begins, in s
MOST_WORDS = 150  # at their times; more of them would only cover each other


# -------------------------------------------------------------------------------------- one clip


def waveform_and_face(
    audio: Audio | None,
    frames: Frames | None,
    words: Words = (),
    transcript: str = "",
    title: str = "",
    pictures: int = 8,
) -> Figure:
    """One clip on one time axis: pictures, sound, words.

    words: (word, start in s); without them the transcript is shown. Raises ValueError for a clip
    that has neither sound nor pictures.
    """
    duration = clip_duration(audio, frames)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    strip, wave, text = figure.subplots(3, 1, sharex=True, height_ratios=(1.1, 1, 0.5))
    draw_frames(strip, frames, duration, pictures)
    draw_waveform(wave, audio)
    draw_words(text, words, transcript)
    strip.set_xlim(0, duration)
    text.set_xlabel("time (s)")
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.alt = describe_clip(audio, frames, words, transcript, title) + "."
    return figure


def clip_duration(audio: Audio | None, frames: Frames | None) -> float:
    """In s. Raises ValueError for a clip that has neither sound nor pictures."""
    ends = [audio.duration] if audio is not None else []
    if frames is not None and len(frames.times):
        ends.append(float(frames.times[-1]) + 0.1)
    if not ends:
        raise ValueError("nothing to draw: the clip has neither sound nor pictures")
    return max(ends)


def describe_clip(
    audio: Audio | None, frames: Frames | None, words: Words, transcript: str, title: str
) -> str:
    """The alternative text of a clip's panels, without a full stop."""
    said = shortened(one_line(_said(words) or transcript))
    parts = (
        "no picture" if frames is None or not len(frames.images) else "pictures of the face",
        "no sound" if audio is None or not len(audio.samples) else "the waveform of the sound",
        f"the words “{said}”" if said else "no words",
    )
    duration = clip_duration(audio, frames)
    return f"{one_line(title) or 'One clip'}, over {duration:.1f} s: {listed(parts)}"


def draw_frames(axis: Axes, frames: Frames | None, duration: float, count: int) -> None:
    """`count` pictures along the time axis, each the one nearest to the middle of its stretch."""
    axis.set_yticks([])
    axis.set_ylabel("face")
    if frames is None or not len(frames.images):
        centred(axis, "no picture")
        return
    edges = np.linspace(0, duration, count + 1)
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        nearest = int(np.abs(np.asarray(frames.times) - (left + right) / 2).argmin())
        axis.imshow(
            frames.images[nearest],
            extent=(left, right, 0, 1),
            aspect="auto",
            interpolation="antialiased",
        )
    axis.set_ylim(0, 1)


def draw_waveform(axis: Axes, audio: Audio | None) -> None:
    """The sound's amplitude over time, or a note that there is no sound."""
    axis.set_ylabel("sound\n(amplitude)")
    if audio is None or not len(audio.samples):
        centred(axis, "no sound")
        return
    times, low, high = _envelope(audio.samples)
    axis.fill_between(times, low, high, color="#444444", linewidth=0.3)
    peak = max(float(np.abs(audio.samples).max()), 1e-3)
    axis.set_ylim(-1.1 * peak, 1.1 * peak)


def _envelope(samples: np.ndarray, bins: int = 800) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (s), lowest and highest sample in each of at most `bins` stretches, quick to draw."""
    edges = np.unique(np.linspace(0, len(samples), min(bins, len(samples)) + 1).astype(int))
    low, high = (extreme.reduceat(samples, edges[:-1]) for extreme in (np.minimum, np.maximum))
    return (edges[:-1] + edges[1:]) / 2 / SAMPLE_RATE, low, high


def draw_words(axis: Axes, words: Words, transcript: str) -> None:
    """Words where they begin, in two alternating lines so that they do not run into each other;
    more than MOST_WORDS as one text."""
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_ylabel("words")
    placed = words if len(words) <= MOST_WORDS else ()
    for index, (word, start) in enumerate(placed):
        axis.annotate(
            shortened(word, 60),
            (start, 0.72 if index % 2 == 0 else 0.28),
            (2, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            parse_math=False,
        )
        axis.axvline(start, color="#BBBBBB", linewidth=0.5)
    if not placed:
        said = _said(words) or transcript
        text = f"“{shortened(said)}”" if said else "nothing heard"
        centred(axis, text, fontsize=9, wrap=True)


def _said(words: Words) -> str:
    return " ".join(word for word, _ in words)


# --------------------------------------------------------------------------------------- labels


def intensities(
    values: np.ndarray,
    target: np.ndarray | None = None,
    name: str = "prediction",
    task: Task | None = None,
) -> Figure:
    """(K,) intensities as bars called `name`, with the labels as diamonds where they are given.

    task  which targets, in which range; None: the six emotions
    """
    values = np.asarray(values)
    figure = Figure(figsize=(4.5, 2.6), layout="constrained")
    draw_intensities(figure.subplots(), values, target, name, task)
    kind = "six intensities" if len(values) == 6 else "intensities"
    figure.alt = f"Bars of the {kind} ({name}): {describe_intensities(values, task)}"
    figure.alt += "." if target is None else f"; the labels as diamonds: {_numbers(target)}."
    return figure


def draw_intensities(
    axis: Axes,
    values: np.ndarray,
    target: np.ndarray | None = None,
    name: str = "prediction",
    task: Task | None = None,
) -> None:
    """`intensities` in a panel of another figure."""
    task = task or Task()
    rows = np.arange(len(task.targets))
    axis.barh(
        rows,
        np.clip(values, task.low, task.high),
        color="#56B4E9",
        edgecolor="black",
        hatch="//",
        label=name,
    )
    if target is not None:
        axis.plot(
            target, rows, linestyle="none", marker="D", color="black", markersize=6, label="label"
        )
    axis.set_yticks(rows, task.targets, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(task.low, task.high)
    axis.set_xlabel(f"intensity ({task.low:g} to {task.high:g})")
    axis.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def describe_intensities(values: np.ndarray, task: Task | None = None) -> str:
    """Values as part of a sentence: "Admiration 0.10, Amusement 0.85, ..."."""
    names = (task or Task()).targets
    return listed(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True))


def _numbers(values: np.ndarray) -> str:
    return listed(f"{value:.2f}" for value in np.asarray(values))


# ------------------------------------------------------------------------------------ many clips


def contact_sheet(
    clips: Sequence[Frames | None], captions: Sequence[str], columns: int = 6
) -> Figure:
    """One row a clip: `columns` of its pictures, evenly chosen, each with its time.

    clips: the pictures of each clip, None where it has none; captions: the text beside each row.
    """
    figure = Figure(figsize=(1.25 * columns + 2.2, 1.35 * len(clips)), layout="constrained")
    grid = figure.subplots(len(clips), columns, squeeze=False)
    for row, frames, caption in zip(grid, clips, captions, strict=True):
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
        row[0].set_ylabel(
            caption, rotation=0, ha="right", va="center", fontsize=8, parse_math=False
        )
        if frames is None or not len(frames.images):
            centred(row[0], "no picture", fontsize=8)
            continue
        chosen = np.linspace(0, len(frames.images) - 1, columns).round().astype(int)
        for axis, index in zip(row, chosen, strict=True):
            axis.imshow(frames.images[index])
            axis.set_title(f"{frames.times[index]:.1f} s", fontsize=7, pad=2)
    figure.alt = (
        f"Contact sheet of {plural(len(clips), 'clip')}, {columns} pictures in each row, "
        f"from top to bottom: {listed(captions)}."
    )
    return figure


def label_statistics(labels: np.ndarray | pd.DataFrame, task: Task | None = None) -> Figure:
    """How (N, K) labels (an array, or a table with the targets as columns) spread, and how they
    correlate, where there are several.

    task  which targets, in which range; None: the six emotions
    """
    task = task or Task()
    names = task.targets
    columns = labels[list(names)] if isinstance(labels, pd.DataFrame) else labels
    values = np.asarray(columns, dtype=np.float64)
    values = values[~np.isnan(values).any(axis=1)]
    figure = Figure(figsize=(10 if len(names) > 1 else 5, 3.6), layout="constrained")
    kind = "six emotions" if names == EMOTIONS else "targets"
    figure.alt = (
        f"Labels of {len(values)} clips: box plots of the {kind}, with the means "
        f"{describe_intensities(values.mean(axis=0), task)}"
    )
    if len(names) == 1:
        _label_boxes(figure.subplots(), values, task)
        figure.alt += "."
        return figure
    spread, together = figure.subplots(1, 2, width_ratios=(1.5, 1))
    _label_boxes(spread, values, task)
    matrix = np.asarray(np.corrcoef(values.T))
    _correlations(together, matrix, task)
    off = matrix[~np.eye(len(names), dtype=bool)]
    kind = "emotions" if names == EMOTIONS else "targets"
    figure.alt += (
        f", and a matrix of the correlations between {kind}, "
        f"from {off.min():.2f} to {off.max():.2f}."
    )
    return figure


def _label_boxes(axis: Axes, values: np.ndarray, task: Task) -> None:
    names = [
        f"{name}\n{(column == 0).mean():.0%} zero"
        for name, column in zip(task.targets, values.T, strict=True)
    ]
    axis.boxplot(
        values,
        whis=(5, 95),
        tick_labels=names,
        medianprops={"color": "black", "linewidth": 2},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black"},
        showmeans=True,
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": "#999999"},
    )
    axis.tick_params(axis="x", labelsize=7)
    axis.set_ylabel(f"intensity ({task.low:g} to {task.high:g})")
    axis.set_title(
        f"{len(values)} clips: box half of them, whiskers 90 %, diamond mean", fontsize=9
    )


def _correlations(axis: Axes, matrix: np.ndarray, task: Task) -> None:
    picture = axis.imshow(matrix, cmap="PuOr", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        colour = "white" if abs(value) > 0.7 else "black"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    rows, names = range(len(matrix)), task.targets
    axis.set_xticks(rows, names, rotation=40, ha="right", fontsize=7)
    axis.set_yticks(rows, names, fontsize=7)
    kind = "emotions" if names == EMOTIONS else "targets"
    axis.set_title(f"correlation between {kind} (r)", fontsize=9)
    axis.figure.colorbar(picture, ax=axis, shrink=0.8)

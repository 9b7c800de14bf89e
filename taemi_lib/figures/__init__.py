"""Every figure of the course, as functions that return a matplotlib Figure and print nothing.

The figures belong to no global state: the last expression of a cell, or display(figure), shows one
exactly once; plt.show() knows nothing of them. All are readable in grey: hatch, marker or line
style stand beside every colour.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from taemi_lib import profiles
from taemi_lib.profiles import EMOTIONS

REWRITE = "TAEMI_REWRITE_FIGURES"  # environment: "1" asks save() to write
FIGURES = "figures"

# Okabe and Ito's colours, which stay apart for colour-blind readers; markers and line styles for
# print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 3)))
COUNTS = {
    "facecolor": "#E69F00",
    "alpha": 0.35,
    "hatch": "//",
    "edgecolor": "#555555",
    "linewidth": 0,
}
DECOY = {"facecolor": "none", "hatch": "..", "edgecolor": "#AAAAAA", "linewidth": 0}


class Figure(matplotlib.figure.Figure):
    """A matplotlib Figure that Jupyter shows by itself, without pyplot and whatever its backend
    is."""

    def png(self, dpi: int = 90) -> bytes:
        """The picture as PNG bytes."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def save(figure: Figure, name: str, rewrite: bool | None = None) -> Path:
    """figures/<name>.png. It is written only on request, so that a run leaves git clean: `rewrite`,
    or by default the environment variable TAEMI_REWRITE_FIGURES=1 (`make figures` sets it). Returns
    the path either way."""
    path = profiles.resolve(FIGURES) / f"{name}.png"
    if rewrite or (rewrite is None and os.environ.get(REWRITE) == "1"):
        path.parent.mkdir(exist_ok=True)
        figure.savefig(
            path, dpi=120, metadata={"Software": None}
        )  # a pyplot figure as well as this module's
    return path


# ------------------------------------------------------------------------------------------------------ parts of clips


def _envelope(
    samples: np.ndarray, rate: float, bins: int = 800
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (s), lowest and highest sample in each of at most `bins` stretches, quick to draw."""
    edges = np.unique(np.linspace(0, len(samples), min(bins, len(samples)) + 1).astype(int))
    low, high = (extreme.reduceat(samples, edges[:-1]) for extreme in (np.minimum, np.maximum))
    return (edges[:-1] + edges[1:]) / 2 / rate, low, high


def _waveform(axis: Axes, samples: np.ndarray | None, rate: float) -> None:
    axis.set_ylabel("sound\n(amplitude)")
    if samples is None or not len(samples):
        axis.text(0.5, 0.5, "no sound", transform=axis.transAxes, ha="center", va="center")
        return
    times, low, high = _envelope(samples, rate)
    axis.fill_between(times, low, high, color="#444444", linewidth=0.3)
    peak = max(float(np.abs(samples).max()), 1e-3)
    axis.set_ylim(-1.1 * peak, 1.1 * peak)


def _filmstrip(axis: Axes, frames, duration: float, count: int) -> None:
    """`count` pictures along the time axis, each the one nearest to the middle of its stretch."""
    axis.set_yticks([])
    axis.set_ylabel("face")
    if frames is None or not len(frames.images):
        axis.text(0.5, 0.5, "no picture", transform=axis.transAxes, ha="center", va="center")
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


def _words(axis: Axes, words: Sequence[tuple[str, float]], transcript: str) -> None:
    """Words where they begin, in two alternating lines so that they do not run into each other."""
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_ylabel("words")
    for index, (word, start) in enumerate(words):
        axis.annotate(
            word,
            (start, 0.72 if index % 2 == 0 else 0.28),
            (2, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        axis.axvline(start, color="#BBBBBB", linewidth=0.5)
    if not words:
        axis.text(
            0.5,
            0.5,
            f"“{transcript}”" if transcript else "nothing heard",
            transform=axis.transAxes,
            ha="center",
            va="center",
            fontsize=9,
            wrap=True,
        )


def _duration(audio, frames) -> float:
    ends = [audio.duration] if audio is not None else []
    if frames is not None and len(frames.times):
        ends.append(float(frames.times[-1]) + 0.1)
    if not ends:
        raise ValueError("nothing to draw: the clip has neither sound nor pictures")
    return max(ends)


# ----------------------------------------------------------------------------------------------------- looking at clips


def contact_sheet(clips: Sequence, captions: Sequence[str], columns: int = 6) -> Figure:
    """One row a clip: `columns` of its pictures, evenly chosen, each with its time.

    clips: media.Frames, or None where there is no picture; captions: what to write beside each row.
    """
    figure = Figure(figsize=(1.25 * columns + 2.2, 1.35 * len(clips)), layout="constrained")
    grid = figure.subplots(len(clips), columns, squeeze=False)
    for row, frames, caption in zip(grid, clips, captions, strict=True):
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
        row[0].set_ylabel(caption, rotation=0, ha="right", va="center", fontsize=8)
        if frames is None or not len(frames.images):
            row[0].text(
                0.5,
                0.5,
                "no picture",
                transform=row[0].transAxes,
                ha="center",
                va="center",
                fontsize=8,
            )
            continue
        for axis, index in zip(
            row, np.linspace(0, len(frames.images) - 1, columns).round().astype(int), strict=True
        ):
            axis.imshow(frames.images[index])
            axis.set_title(f"{frames.times[index]:.1f} s", fontsize=7, pad=2)
    return figure


def waveform_and_face(
    audio,
    frames,
    words: Sequence[tuple[str, float]] = (),
    transcript: str = "",
    title: str = "",
    pictures: int = 8,
) -> Figure:
    """One clip on one time axis: pictures, sound, words.

    audio: media.Audio or None; frames: media.Frames or None; words: (word, start in s), else the
    transcript is shown.
    """
    duration = _duration(audio, frames)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    strip, wave, text = figure.subplots(3, 1, sharex=True, height_ratios=(1.1, 1, 0.5))
    _filmstrip(strip, frames, duration, pictures)
    _waveform(wave, None if audio is None else audio.samples, 16_000)
    _words(text, words, transcript)
    strip.set_xlim(0, duration)
    text.set_xlabel("time (s)")
    figure.suptitle(title, fontsize=10)
    return figure


def label_statistics(labels) -> Figure:
    """How (N, 6) labels (an array, or a table with the emotions as columns) spread, and how they
    correlate."""
    values = np.asarray(
        labels[list(EMOTIONS)] if hasattr(labels, "columns") else labels, dtype=np.float64
    )
    values = values[~np.isnan(values).any(axis=1)]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    spread, together = figure.subplots(1, 2, width_ratios=(1.5, 1))
    names = [
        f"{name}\n{(column == 0).mean():.0%} zero"
        for name, column in zip(EMOTIONS, values.T, strict=True)
    ]
    spread.boxplot(
        values,
        whis=(5, 95),
        tick_labels=names,
        medianprops={"color": "black", "linewidth": 2},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black"},
        showmeans=True,
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": "#999999"},
    )
    spread.tick_params(axis="x", labelsize=7)
    spread.set_ylabel("intensity (0 to 1)")
    spread.set_title(
        f"{len(values)} clips: box half of them, whiskers 90 %, diamond mean", fontsize=9
    )
    matrix = np.corrcoef(values.T)
    picture = together.imshow(matrix, cmap="PuOr", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        colour = "white" if abs(value) > 0.7 else "black"
        together.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour
        )
    together.set_xticks(range(6), EMOTIONS, rotation=40, ha="right", fontsize=7)
    together.set_yticks(range(6), EMOTIONS, fontsize=7)
    together.set_title("correlation between emotions (r)", fontsize=9)
    figure.colorbar(picture, ax=together, shrink=0.8)
    return figure


# ------------------------------------------------------------------------------------------------------------- scores


def scatter_per_emotion(prediction, target) -> Figure:
    """(N, 6) predictions against targets, one panel an emotion with its rho over the whole
    split."""
    from taemi_lib.evaluation import metrics

    prediction, target = (
        np.asarray(prediction, dtype=np.float64),
        np.asarray(target, dtype=np.float64),
    )
    rho = metrics.pearson_per_emotion(prediction, target)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    low, high = min(0.0, prediction.min()), max(1.0, prediction.max())
    for index, (axis, name) in enumerate(zip(panels.flat, EMOTIONS, strict=True)):
        axis.plot([0, 1], [0, 1], linestyle="--", color="#888888", linewidth=1)
        axis.plot(
            target[:, index],
            prediction[:, index],
            linestyle="none",
            marker=MARKERS[index],
            markersize=3,
            alpha=0.5,
            color=COLOURS[index],
            markeredgewidth=0,
        )
        axis.set_title(f"{name}: rho {rho[index]:.2f}", fontsize=9)
        axis.set_ylim(low - 0.03, high + 0.03)
    figure.supxlabel("label (0 to 1)", fontsize=9)
    figure.supylabel("prediction", fontsize=9)
    return figure


def training_curves(histories: Mapping[str, Sequence]) -> Figure:
    """Loss and selection rho by epoch. histories: system -> one history (a list of dicts an epoch)
    or several (seeds).

    The first seed is drawn with markers, the others as thin lines (each may stop at another epoch);
    the ring marks the epoch that was kept of the first.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = dict(zip(("loss", "selection_rho"), figure.subplots(1, 2), strict=True))
    for number, (name, runs) in enumerate(histories.items()):
        runs = [runs] if isinstance(runs[0], Mapping) else list(runs)
        runs = [
            [epoch for epoch in run if "selection_rho" in epoch] for run in runs
        ]  # earlier stages have another loss
        style = number % len(COLOURS)
        for key, axis in panels.items():
            for seed, run in enumerate(runs):
                marked = (
                    {
                        "marker": MARKERS[style],
                        "markevery": max(1, len(run) // 8),
                        "markersize": 4,
                        "linewidth": 1.6,
                        "label": name,
                    }
                    if seed == 0
                    else {"linewidth": 0.8, "alpha": 0.6}
                )
                axis.plot(
                    np.arange(1, len(run) + 1),
                    [epoch[key] for epoch in run],
                    color=COLOURS[style],
                    linestyle=LINES[style],
                    **marked,
                )
        rho = [epoch["selection_rho"] for epoch in runs[0]]
        best = int(np.argmax(rho))
        panels["selection_rho"].plot(
            best + 1, rho[best], marker="o", markersize=10, fillstyle="none", color="black"
        )
    for axis, label in zip(
        panels.values(), ("training loss (MSE)", "mean rho, selection split"), strict=True
    ):
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    panels["loss"].legend(fontsize=8)
    return figure


def bars_with_intervals(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    label: str = "mean rho, test split",
    reference: tuple[str, float] | None = None,
) -> Figure:
    """One horizontal bar a name, with its interval (low, high) where there is one; `reference` is a
    named line."""
    intervals = intervals or {}
    figure = Figure(figsize=(8, 0.42 * len(values) + 1.1), layout="constrained")
    axis = figure.subplots()
    hatches = ("", "//", "..", "xx", "--", "\\\\", "oo")
    for row, (name, value) in enumerate(values.items()):
        axis.barh(
            row,
            value,
            color=COLOURS[row % 7],
            hatch=hatches[row % 7],
            alpha=0.75,
            edgecolor="white",
        )
        low, high = intervals.get(name, (value, value))
        if name in intervals:
            axis.plot(
                [low, high], [row, row], color="black", linewidth=1.5, marker="|", markersize=8
            )
        axis.annotate(
            f"{value:.2f}",
            (max(value, high, 0), row),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    if reference:
        axis.axvline(reference[1], color="black", linestyle="--", linewidth=1, label=reference[0])
        axis.legend(fontsize=8, loc="lower right")
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(values)), values)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel(label + (" (line: 95 % interval)" if intervals else ""))
    return figure


# ---------------------------------------------------------------------------------------------------------- attention


def _attention(axis: Axes, name: str, weights: np.ndarray | None, times: np.ndarray | None) -> None:
    axis.set_ylabel(f"attention\non {name}")
    if weights is None or times is None:
        axis.text(0.5, 0.5, f"{name} is absent", transform=axis.transAxes, ha="center", va="center")
        return
    weights = np.atleast_2d(weights)  # (H, T)
    for head in weights if len(weights) > 1 else ():
        axis.plot(times, head, color="#AAAAAA", linewidth=0.7)
    axis.plot(times, weights.mean(axis=0), color=COLOURS[0], linewidth=2, marker="o", markersize=3)
    axis.axhline(1 / weights.shape[1], color="black", linestyle=":", linewidth=1)
    axis.set_ylim(bottom=0)


def attention_explorer_figure(
    *,
    attention: Mapping[str, np.ndarray | None],
    times: Mapping[str, np.ndarray | None],
    audio=None,
    frames=None,
    words: Sequence[tuple[str, float]] = (),
    transcript: str = "",
    counts: tuple[float, float] | None = None,
    decoy: tuple[float, float] | None = None,
    prediction: np.ndarray | None = None,
    target: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Where one clip was looked at and listened to: attention over time above the frames, the
    waveform and the words.

    attention, times  {"audio", "vision"}: (H, T) or (T,) weights and (T,) s; None where the
                      modality is absent
    audio, frames     media.Audio and media.Frames, or None
    words             (word, start in s); without them the transcript is shown
    counts, decoy     (start, end) in s of the planted event that counts and of the other one, where
                      known
    prediction, target  (6,) intensities, drawn as bars and diamonds
    Blue: mean over heads; grey: single heads; dotted: what even attention would give.
    """
    duration = _duration(audio, frames)
    figure = Figure(figsize=(11 if prediction is not None else 9, 6), layout="constrained")
    ratios = (0.8, 1.1, 0.8, 0.8, 0.45)
    if prediction is None:
        panels = figure.subplots(5, 1, sharex=True, height_ratios=ratios)
    else:
        left, right = figure.subfigures(1, 2, width_ratios=(3, 1))
        panels = left.subplots(5, 1, sharex=True, height_ratios=ratios)
        _intensities(right.subplots(), prediction, target)
    seen, strip, heard, wave, text = panels
    _attention(seen, "vision", attention.get("vision"), times.get("vision"))
    _filmstrip(strip, frames, duration, 8)
    _attention(heard, "audio", attention.get("audio"), times.get("audio"))
    _waveform(wave, None if audio is None else audio.samples, 16_000)
    _words(text, words, transcript)
    for axis in (seen, heard, wave):
        for window, style, name in ((counts, COUNTS, "event that counts"), (decoy, DECOY, "decoy")):
            if window is not None:
                axis.axvspan(*window, label=name, zorder=0, **style)
    if counts is not None or decoy is not None:
        seen.legend(fontsize=7, loc="upper right", ncols=2)
    seen.set_xlim(0, duration)
    text.set_xlabel("time (s)")
    figure.suptitle(title, fontsize=10)
    return figure


def _intensities(
    axis: Axes, values: np.ndarray, target: np.ndarray | None = None, name: str = "prediction"
) -> None:
    rows = np.arange(len(EMOTIONS))
    axis.barh(
        rows, np.clip(values, 0, 1), color="#56B4E9", edgecolor="black", hatch="//", label=name
    )
    if target is not None:
        axis.plot(
            target, rows, linestyle="none", marker="D", color="black", markersize=6, label="label"
        )
    axis.set_yticks(rows, EMOTIONS, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("intensity (0 to 1)")
    axis.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def intensities(values, target=None, name: str = "prediction") -> Figure:
    """(6,) intensities as bars called `name`, with the labels as diamonds where they are given."""
    figure = Figure(figsize=(4.5, 2.6), layout="constrained")
    _intensities(figure.subplots(), np.asarray(values), target, name)
    return figure


# ------------------------------------------------------------------------------------------ the
# model and its training


def curves(
    panels: Mapping[str, Mapping[str, tuple]], x_label: str, y_label: str, even: float | None = None
) -> Figure:
    """Lines side by side: panels is title -> {name: (x, y)}; `even` draws a dotted level, the even
    share."""
    figure = Figure(
        figsize=(4.6 * len(panels) + 0.8 * (len(panels) == 1), 3.1), layout="constrained"
    )
    for axis, (title, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for number, (name, (x, y)) in enumerate(lines.items()):
            style = number % len(COLOURS)
            axis.plot(
                x,
                y,
                color=COLOURS[style],
                linestyle=LINES[style],
                marker=MARKERS[style],
                label=name,
                markevery=max(1, len(x) // 12),
                markersize=4,
                linewidth=1.6,
            )
        if even is not None:
            axis.axhline(even, color="black", linestyle=":", linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(x_label)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
        axis.set_ylabel(y_label)
        axis.legend(fontsize=8)
    return figure


def time_features(times: np.ndarray, features: np.ndarray) -> Figure:
    """(T,) s and (T, width) sines and cosines: a few of them as lines, all of them as a picture."""
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    lines, picture = figure.subplots(1, 2, width_ratios=(1.1, 1))
    half = features.shape[1] // 2
    for number, column in enumerate(np.linspace(0.35 * half, half - 1, 4).round().astype(int)):
        lines.plot(
            times,
            features[:, column],
            color=COLOURS[number],
            linestyle=LINES[number],
            linewidth=1.5,
            label=f"sine {column}",
        )
    lines.set_xlabel("time (s)")
    lines.set_ylabel("feature value")
    lines.set_ylim(-1.15, 1.7)
    lines.legend(fontsize=8, ncols=2, loc="upper right")
    edges = (times[0], times[-1], features.shape[1] - 0.5, -0.5)
    image = picture.imshow(
        features.T,
        aspect="auto",
        cmap="gray",
        vmin=-1,
        vmax=1,
        extent=edges,
        interpolation="nearest",
    )
    picture.set_xlabel("time (s)")
    picture.set_ylabel("feature (sines, then cosines)")
    figure.colorbar(image, ax=picture, shrink=0.8)
    return figure


def padding(layouts: Mapping[str, Sequence[Sequence[int]]], unit: str = "steps") -> Figure:
    """What a batch order pays for. layouts: title -> batches of clip lengths. Filled: real steps;
    hatched: padding."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axis, (title, batches) in zip(
        figure.subplots(1, len(layouts), sharex=True, sharey=True, squeeze=False)[0],
        layouts.items(),
        strict=True,
    ):
        row = 0
        for lengths in batches:
            rows = np.arange(row, row + len(lengths))
            axis.barh(
                rows,
                max(lengths),
                height=1,
                facecolor="white",
                edgecolor="#888888",
                hatch="////",
                linewidth=0,
            )
            axis.barh(rows, lengths, height=1, color=COLOURS[0], linewidth=0)
            row += len(lengths) + 4  # a gap between batches
        share = 1 - sum(map(sum, batches)) / sum(len(lengths) * max(lengths) for lengths in batches)
        axis.set_title(f"{title}: {share:.0%} padding", fontsize=9)
        axis.set_xlabel(f"length ({unit})")
        axis.set_yticks([])
        axis.invert_yaxis()
    figure.supylabel("clips, batch by batch", fontsize=9)
    return figure


def gradient_sizes(gradients: Mapping[str, np.ndarray]) -> Figure:
    """How large single gradient values are, on a log axis, against what half precision (fp16) can
    hold."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis = figure.subplots()
    sizes = {name: np.abs(values[values != 0]) for name, values in gradients.items()}
    bins = np.logspace(-12, 6, 73)
    grey = {"edgecolor": "#AAAAAA", "linewidth": 0}
    axis.axvspan(
        bins[0], 2.0**-25, facecolor="#DDDDDD", hatch="..", label="fp16 rounds to 0", **grey
    )
    axis.axvspan(65504, bins[-1], facecolor="none", hatch="xx", label="fp16 overflows", **grey)
    axis.axvline(2.0**-14, color="black", linestyle=":", linewidth=1.2, label="below: fewer digits")
    for number, (name, values) in enumerate(sizes.items()):
        axis.hist(
            values,
            bins,
            histtype="step",
            color=COLOURS[number],
            linestyle=LINES[number],
            linewidth=1.8,
            label=name,
        )
    axis.set_xscale("log")
    axis.set_xlim(bins[0], bins[-1])
    axis.set_xlabel("size of a gradient value")
    axis.set_ylabel("how many")
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


# --------------------------------------------------------------------------------------------------------- the diagram


def pipeline_diagram() -> Figure:
    """TAEMI from left to right: three encoders, self-attention, the words as query over sound and
    face, six numbers."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.set_xlim(0, 110)
    axis.set_ylim(0, 42)
    axis.set_aspect("equal")
    axis.axis("off")

    def box(x, y, width, text, shade="#FFFFFF", height=7.0, style="-"):
        axis.add_patch(
            FancyBboxPatch(
                (x, y - height / 2),
                width,
                height,
                boxstyle="round,pad=0.2,rounding_size=1",
                facecolor=shade,
                edgecolor="black",
                linewidth=1.1,
                linestyle=style,
            )
        )
        axis.text(x + width / 2, y, text, ha="center", va="center", fontsize=8.5)

    def arrow(*points, style="-", label="", at=None):
        xs, ys = zip(*points, strict=True)
        axis.plot(xs[:-1], ys[:-1], color="black", linewidth=1.2, linestyle=style)
        axis.annotate(
            "",
            points[-1],
            points[-2],
            arrowprops={
                "arrowstyle": "-|>",
                "color": "black",
                "linestyle": style,
                "linewidth": 1.2,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
        if label:
            axis.text(
                *at,
                label,
                fontsize=8,
                ha="center",
                va="center",
                style="italic",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )

    sound, words, face, encoder, model = 36, 21, 6, "#DDE9F3", "#F7E3C8"
    box(1, words, 10, "one clip\n(MP4)", "#EEEEEE", 10)
    box(19, sound, 15, "wav2vec 2.0\n+ emotion logits", encoder)
    box(19, words, 15, "Whisper →\ntext encoder", encoder)
    box(19, face, 15, "ViT,\nframe by frame", encoder)
    arrow((11.2, words), (18.8, words), label="speech", at=(15, words + 1.8))
    arrow((6, words + 5.2), (6, sound), (18.8, sound), label="sound", at=(12, sound + 1.8))
    arrow((6, words - 5.2), (6, face), (18.8, face), label="frames", at=(12, face + 1.8))
    for y, name in ((sound, "sound"), (face, "face")):
        box(41, y, 16, f"self-attention\nover the {name}", model)
        box(66, y, 16, f"cross-attention\non the {name}", model)
        arrow((34.2, y), (40.8, y))
        arrow((57.2, y), (65.8, y), label="keys,\nvalues", at=(61.3, y + 3.2))
    # the anchor: one text vector asks both streams, and is itself part of what the head sees
    arrow((34.2, words), (89.8, words), label="text vector t", at=(44, words + 1.8))
    axis.plot(74, words, marker="o", markersize=4, color="black")
    arrow((74, words), (74, sound - 3.7), label="query", at=(74, 27))
    arrow((74, words), (74, face + 3.7), label="query", at=(74, 15))
    arrow((82.2, sound), (93, sound), (93, words + 6.7), label="$h_a$", at=(88, sound + 1.6))
    arrow((82.2, face), (93, face), (93, words - 6.7), label="$h_v$", at=(88, face + 1.6))
    box(90, words, 8, "[t; $h_a$; $h_v$]\n\nMLP", model, 13)
    arrow((98.2, words), (101.8, words))
    axis.text(102.3, words, "\n".join(EMOTIONS), fontsize=7.5, va="center", linespacing=1.5)
    note = "A missing modality is replaced by a learned token; in training, each is left out now and then."
    axis.text(61.5, 0.2, note, fontsize=8, ha="center", color="#333333")
    return figure


# -------------------------------------------------------------------------------------------------
# systems side by side

SHADES = {
    "sound": "#CFE4F3",
    "face": "#F9DDB8",
    "words": "#CDEBDD",
}  # of the modalities; their names stand beside


def system_sketches(sketches: Mapping[str, Mapping], columns: int = 3) -> Figure:
    """One small drawing a system: sound, face and words -> temporal part -> one vector -> fusion ->
    six intensities.

    sketches  name -> {"sound", "face", "words": (temporal part or "", how it becomes one vector);
              left out: not used, "fusion": text, "looks": [(from, into)], "asks": [(from, into)],
              "note": text}
    `looks` are arrows from an input into another one's temporal part, `asks` those of a query into
    another one's pooling.
    """
    rows = -(-len(sketches) // columns)
    figure = Figure(figsize=(3.75 * columns, 2.05 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axis in panels:
        axis.set_axis_off()
    for axis, (name, parts) in zip(figure.axes, sketches.items(), strict=False):
        _sketch(axis, name, parts)
    return figure


def _sketch(axis: Axes, name: str, parts: Mapping) -> None:
    axis.set(xlim=(0, 100), ylim=(-1, 47))
    heights = {"sound": 37, "face": 23, "words": 9}
    temporal, pooling, fusion = (16, 37), (45, 67), (73, 91)  # left and right edges

    def box(edges, y, text, shade, height=10.5, **style):
        axis.add_patch(
            FancyBboxPatch(
                (edges[0], y - height / 2),
                edges[1] - edges[0],
                height,
                facecolor=shade,
                boxstyle="round,pad=0,rounding_size=1.5",
                linewidth=0.9,
                **{"edgecolor": "black"} | style,
            )
        )
        axis.text(
            sum(edges) / 2,
            y,
            text,
            ha="center",
            va="center",
            fontsize=7,
            linespacing=1.05,
            color=style.get("edgecolor"),
        )

    def arrow(start, end, **style):
        axis.annotate(
            "",
            end,
            start,
            arrowprops={
                "arrowstyle": "-|>",
                "linewidth": 0.9,
                "mutation_scale": 7,
                "shrinkA": 0,
                "shrinkB": 0,
                **style,
            },
        )

    for modality, y in heights.items():
        if modality not in parts:
            box((0, 11), y, modality, "white", 6, edgecolor="#999999", linestyle=":")
            continue
        shade, (before, vector) = SHADES[modality], parts[modality]
        box((0, 11), y, modality, shade, 6)
        if before:
            arrow((11, y), (temporal[0], y))
            box(temporal, y, before, shade)
        arrow((temporal[1] if before else 11, y), (pooling[0], y))
        box(pooling, y, vector, shade)
        arrow((pooling[1], y), (fusion[0], y))
    lines = {"color": "#A03060", "linestyle": "--"}
    for source, target in parts.get("looks", ()):
        arrow(
            (11, heights[source]),
            (temporal[0], heights[target] + (2.5 if heights[source] > heights[target] else -2.5)),
            **lines,
        )
    for source, target in parts.get("asks", ()):
        turn, end = (
            40,
            heights[target] - 3,
        )  # where the query leaves its own row, and where it arrives
        axis.plot(
            [turn, turn],
            [heights[source], end],
            **lines,
            linewidth=1.1,
            marker="o",
            markersize=2.5,
            markevery=[0],
        )
        arrow((turn, end), (pooling[0], end), color=lines["color"])
    used = [y for modality, y in heights.items() if modality in parts]
    middle, height = (max(used) + min(used)) / 2, max(max(used) - min(used) + 10.5, 10.5)
    box(fusion, middle, parts["fusion"], "#EEEEEE", height)
    arrow((fusion[1], middle), (96, middle))
    axis.text(96.5, middle, "6", fontsize=9, va="center", fontweight="bold")
    axis.set_title(name, fontsize=9, pad=1, family="monospace", fontweight="bold")
    axis.text(50, 0.2, parts.get("note", ""), ha="center", va="center", fontsize=7, style="italic")


def score_against_cost(
    points: Mapping[str, tuple[float, float, float]],
    groups: Mapping[str, str],
    x_label: str,
    emphasis: Sequence[str] = (),
    y_label: str = "mean rho, test split (line: SD over seeds)",
) -> Figure:
    """One point a system, its name beside it. points: name -> (cost, score, SD); groups: name ->
    what it uses (marker).

    The cost axis is logarithmic; names in `emphasis` are bold. Names are moved until they cover
    nothing.
    """
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axis = figure.subplots()
    for number, group in enumerate(dict.fromkeys(groups[name] for name in points)):
        members = [name for name in points if groups[name] == group]
        cost, score, spread = zip(*(points[name] for name in members), strict=True)
        axis.errorbar(
            cost,
            score,
            np.nan_to_num(spread),
            linestyle="none",
            marker=MARKERS[number],
            markersize=8,
            label=group,
            color=COLOURS[number],
            ecolor="#777777",
            elinewidth=1,
            markeredgecolor="black",
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,.10g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.16, y=0.1)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="upper left", title="what it uses", title_fontsize=8)
    _name_points(figure, axis, points, emphasis)
    return figure


def _name_points(
    figure: Figure,
    axis: Axes,
    points: Mapping[str, tuple[float, float, float]],
    emphasis: Sequence[str],
) -> None:
    """Write each name near its point (x, y, SD of y), where it covers no other name, no point, no
    line of an SD and not the legend.

    A name that stands away from its point, or near another one too, gets a line to it.
    """
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    places = {name: axis.transData.transform(point[:2]) for name, point in points.items()}
    taken = [Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in places.values()]
    for x, y, spread in points.values():
        ends = axis.transData.transform(
            [(x, y - np.nan_to_num(spread)), (x, y + np.nan_to_num(spread))]
        )
        taken.append(Bbox(ends).padded(2))
    if axis.get_legend() is not None:
        taken.append(axis.get_legend().get_window_extent(renderer))
    frame = axis.get_window_extent(renderer)
    directions = [(1, 0), (-1, 0), (0.6, 1), (-0.6, 1), (0.6, -1), (-0.6, -1), (0, 1), (0, -1)]
    leader = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "shrinkB": 4}
    tries = [(x, y, distance) for distance in (9, 16, 24, 34, 46, 60, 80) for x, y in directions]
    for name in sorted(points, key=lambda name: places[name][1], reverse=True):
        for x, y, distance in tries:
            text = axis.annotate(
                name,
                points[name][:2],
                (x * distance, y * distance),
                textcoords="offset points",
                va="center",
                fontsize=8,
                ha="left" if x > 0 else "right" if x < 0 else "center",
                fontweight="bold" if name in emphasis else None,
                arrowprops=leader if distance > 12 else None,
            )
            text.update_positions(renderer)
            extent = Text.get_window_extent(text, renderer)  # of the name without its line
            inside = (
                frame.containsx(extent.x0)
                and frame.containsx(extent.x1)
                and frame.containsy(extent.y0)
                and frame.containsy(extent.y1)
            )
            others = [_distance(extent, place) for other, place in places.items() if other != name]
            own = distance > 12 or _distance(extent, places[name]) < 0.6 * min(
                others, default=np.inf
            )  # nobody takes it for another's
            if (inside and own and not any(extent.overlaps(other) for other in taken)) or (
                x,
                y,
                distance,
            ) == tries[-1]:
                taken.append(extent)
                break
            text.remove()


def _distance(box: Bbox, point: Sequence[float]) -> float:
    """From a point to the nearest place of a box, in pixels."""
    return float(
        np.hypot(
            max(box.x0 - point[0], 0, point[0] - box.x1),
            max(box.y0 - point[1], 0, point[1] - box.y1),
        )
    )


def heat_map(table, label: str = "rho, test split") -> Figure:
    """A table of scores as shades with their numbers: rows and columns as they stand; a frame marks
    each column's best row."""
    values = table.to_numpy(dtype=float)
    figure = Figure(figsize=(8.5, 0.33 * len(values) + 1.3), layout="constrained")
    axis = figure.subplots()
    top = max(1e-6, 1.15 * values.max())
    picture = axis.imshow(
        values, cmap="Blues", aspect="auto", vmin=min(0.0, values.min()), vmax=top
    )
    for (row, column), value in np.ndenumerate(values):
        best = row == values[:, column].argmax()
        axis.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold" if best else None,
            color="white" if value > 0.7 * top else "black",
            bbox={
                "boxstyle": "round,pad=0.25",
                "facecolor": "none",
                "edgecolor": "#D55E00",
                "linewidth": 1.6,
            }
            if best
            else None,
        )
    axis.set_xticks(range(values.shape[1]), table.columns, fontsize=8)
    axis.set_yticks(range(len(values)), table.index, fontsize=8)
    axis.tick_params(length=0)
    axis.xaxis.tick_top()
    figure.colorbar(picture, ax=axis, label=label, shrink=0.8)
    return figure


def lines_with_intervals(
    lines: Mapping[str, tuple], x_label: str, y_label: str = "mean rho, test split"
) -> Figure:
    """Scores over a size on a logarithmic axis. lines: name -> (sizes, means, lows, highs); names
    stand at the ends of the lines."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axis = figure.subplots()
    ends = {}
    for number, (name, (sizes, means, lows, highs)) in enumerate(lines.items()):
        style = number % len(COLOURS)
        means, moved = (
            np.asarray(means),
            np.asarray(sizes) * 1.012 ** (number - (len(lines) - 1) / 2),
        )  # side by side, not covered
        reach = np.maximum(means - lows, 0), np.maximum(highs - means, 0)
        axis.errorbar(
            moved,
            means,
            reach,
            color=COLOURS[style],
            marker=MARKERS[style],
            linestyle=LINES[style],
            linewidth=1.6,
            markersize=6,
            capsize=3,
            elinewidth=1,
        )
        ends[name] = moved[-1], means[-1], COLOURS[style]
    axis.set_xscale("log", base=2)
    ticks = sorted({size for sizes, *_ in lines.values() for size in sizes})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlim(ticks[0] * 0.92, ticks[-1] * (ticks[-1] / ticks[0]) ** 0.28)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    low, high = axis.get_ylim()
    height = -np.inf
    for name, (x, y, colour) in sorted(ends.items(), key=lambda end: end[1][1]):
        height = max(
            y, height + 0.055 * (high - low)
        )  # names of lines that end close to each other stand above one another
        axis.annotate(
            name,
            (x, y),
            (x * 1.06, height),
            textcoords="data",
            va="center",
            fontsize=9,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6},
        )
    return figure


# ----------------------------------------------------------------------------------------------
# systems against a reference

# verdict -> colour, marker, sign in a matrix: filled triangles are differences, an open circle is
# none that can be detected
VERDICTS = {
    "worse": ("#D55E00", "v", "▼"),
    "better": ("#0072B2", "^", "▲"),
    "no detectable difference": ("#666666", "o", "○"),
}


def differences(
    panels: Mapping[str, Mapping[str, tuple]],
    reference: str,
    label: str = "mean rho",
    columns: int = 3,
    reach: float | None = None,
) -> Figure:
    """System minus reference with intervals, a panel for each title: {title: {system: (delta, low,
    high, verdict)}}.

    All panels have the same scale and the systems of the first one, from top to bottom. reach: show
    only differences up to so much on either side; an arrow at the edge stands for one beyond it.
    """
    names = list(next(iter(panels.values())))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(3.0 * columns + 2.0, (0.21 * len(names) + 0.75) * rows + 0.4), layout="constrained"
    )
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis in axes[len(panels) :]:  # what is left of the grid
        axis.axis("off")
    for axis, (title, systems) in zip(axes, panels.items(), strict=False):
        axis.axvline(0, color="black", linewidth=1)
        for row, name in enumerate(names):
            if name not in systems:
                continue
            delta, low, high, verdict = systems[name]
            colour, marker, _ = VERDICTS[verdict]
            if reach is not None and abs(delta) > reach:
                axis.annotate(
                    "",
                    (np.sign(delta) * reach, row),
                    (np.sign(delta) * 0.88 * reach, row),
                    arrowprops={
                        "arrowstyle": "-|>",
                        "color": colour,
                        "linewidth": 1.6,
                        "shrinkA": 0,
                        "shrinkB": 0,
                    },
                )
                continue
            axis.plot([low, high], [row, row], color=colour, linewidth=1.6)
            open_ = {"markerfacecolor": "white"} if verdict == "no detectable difference" else {}
            axis.plot(
                delta, row, marker=marker, color=colour, markersize=6, linestyle="none", **open_
            )
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.tick_params(axis="x", labelbottom=True, labelsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    if reach is not None:
        axes[0].set_xlim(-reach, reach)
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linestyle="none",
            label=verdict,
            markerfacecolor="white" if marker == "o" else colour,
        )
        for verdict, (colour, marker, _) in VERDICTS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    figure.supxlabel(
        f"{label}: system minus {reference}; lines: Holm-adjusted intervals", fontsize=9
    )
    return figure


def verdict_matrix(
    cells: Mapping[str, Mapping[str, tuple[float, str]]], groups: Mapping[str, Sequence[str]]
) -> Figure:
    """Every verdict at once, large enough for the back row: {system: {column: (delta, verdict)}}.

    groups: {title: systems}, from top to bottom. A cell holds the difference and its sign; only
    detected ones are coloured.
    """
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    figure = Figure(
        figsize=(1.35 * len(columns) + 3.4, 0.34 * len(cells) + 0.42 * len(groups) + 0.8),
        layout="constrained",
    )
    axis = figure.subplots()
    top, ticks = 0.0, {}
    for title, systems in groups.items():
        axis.text(-0.46, top + 0.12, title, fontsize=9, fontweight="bold", va="center")
        top += 1
        for name in systems:
            ticks[name] = top
            for x, column in enumerate(columns):
                if column not in cells[name]:
                    continue
                delta, verdict = cells[name][column]
                colour, _, sign = VERDICTS[verdict]
                found = verdict != "no detectable difference"
                strength = min(0.75, 0.18 + 1.6 * abs(delta)) if found else 0
                shade = {"facecolor": (colour, strength), "edgecolor": "#BBBBBB", "linewidth": 0.8}
                axis.add_patch(Rectangle((x - 0.47, top - 0.46), 0.94, 0.92, **shade))
                text = f"{round(delta, 3) + 0.0:+.3f}".replace("-", "−").replace(
                    "0.", "."
                )  # + 0.0: a rounded zero has no minus
                axis.text(
                    x,
                    top,
                    f"{sign} {text}",
                    ha="center",
                    va="center",
                    fontsize=10,
                    color="black" if found else "#555555",
                    fontweight="bold" if found else "normal",
                )
            top += 1
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylim(top - 0.4, -0.4)
    axis.set_yticks(list(ticks.values()), ticks, fontsize=9)
    axis.set_xticks(range(len(columns)), columns, fontsize=10)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    axis.set_xlabel(
        "   ".join(f"{sign} {verdict}" for verdict, (_, _, sign) in VERDICTS.items()), fontsize=9
    )
    return figure


def attention_over_decoy(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
) -> Figure:
    """Attention on the event that counts / on the decoy, by seed: {title: {system: {"sound":
    values, "face": values}}}.

    Small: seeds; large: their median. Chance is the line at 1; the axis is logarithmic.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    figure = Figure(
        figsize=(2.5 * len(panels) + 1.8, 0.36 * len(names) + 1.4), layout="constrained"
    )
    styles = {
        name: {"marker": MARKERS[number], "color": COLOURS[number], "linestyle": "none"}
        for number, name in enumerate(("sound", "face"))
    }
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, systems) in zip(axes, panels.items(), strict=True):
        axis.axvline(1, color="black", linestyle="--", linewidth=1)
        for row, name in enumerate(names):
            for stream, values in systems.get(name, {}).items():
                height = row + (0.17 if stream == "face" else -0.17)
                axis.plot(values, [height] * len(values), markersize=3, alpha=0.5, **styles[stream])
                axis.plot(
                    np.median(values),
                    height,
                    markersize=7,
                    markeredgecolor="black",
                    **styles[stream],
                )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.set_yticks(range(len(names)), names, fontsize=9)
    axes[0].invert_yaxis()
    handles = [
        Line2D([], [], label=stream, markersize=7, markeredgecolor="black", **style)
        for stream, style in styles.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    figure.supxlabel(
        "attention on what counts / on the decoy (logarithmic axis; 1: chance); small: seeds, large: their median",
        fontsize=9,
    )
    return figure

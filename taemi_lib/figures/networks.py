"""Figures of models: the diagram of TAEMI, sketches of the compared systems, attention over time,
and what happens while a model is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from taemi_lib.data.media import Audio, Frames
from taemi_lib.figures.clips import (
    Words,
    clip_duration,
    describe_clip,
    describe_intensities,
    draw_frames,
    draw_intensities,
    draw_waveform,
    draw_words,
)
from taemi_lib.figures.style import (
    COLOURS,
    COUNTS,
    DECOY,
    LINES,
    MARKERS,
    Figure,
    centred,
    listed,
    one_line,
)
from taemi_lib.profiles import EMOTIONS

Point = tuple[float, float]

# ----------------------------------------------------------------------------- TAEMI as a diagram

_ENCODER, _MODEL = "#DDE9F3", "#F7E3C8"  # what is only used, and what is trained
_SOUND, _WORDS, _FACE = 36, 21, 6  # heights of the three rows


def pipeline_diagram() -> Figure:
    """TAEMI from left to right: three encoders, self-attention, the words as query over sound and
    face, six numbers."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.set_xlim(0, 110)
    axis.set_ylim(0, 42)
    axis.set_aspect("equal")
    axis.axis("off")
    _diagram_encoders(axis)
    _diagram_fusion(axis)
    note = (
        "A missing modality is replaced by a learned token; "
        "in training, each is left out now and then."
    )
    axis.text(61.5, 0.2, note, fontsize=8, ha="center", color="#333333")
    figure.alt = (
        "Diagram of TAEMI from left to right: a clip goes through three encoders, self-attention "
        "runs over sound and face, the text vector is the query of a cross-attention on each, and "
        "an MLP turns the text vector and both answers into six intensities."
    )
    return figure


def _diagram_encoders(axis: Axes) -> None:
    """The clip and its three encoders."""
    _diagram_box(axis, 1, _WORDS, 10, "one clip\n(MP4)", "#EEEEEE", 10)
    _diagram_box(axis, 19, _SOUND, 15, "wav2vec 2.0\n+ emotion logits", _ENCODER)
    _diagram_box(axis, 19, _WORDS, 15, "Whisper →\ntext encoder", _ENCODER)
    _diagram_box(axis, 19, _FACE, 15, "ViT,\nframe by frame", _ENCODER)
    right, left = (11.2, _WORDS), 18.8
    above, below = (6, _WORDS + 5.2), (6, _WORDS - 5.2)
    _diagram_arrow(axis, right, (left, _WORDS), label="speech", at=(15, _WORDS + 1.8))
    _diagram_arrow(axis, above, (6, _SOUND), (left, _SOUND), label="sound", at=(12, _SOUND + 1.8))
    _diagram_arrow(axis, below, (6, _FACE), (left, _FACE), label="frames", at=(12, _FACE + 1.8))


def _diagram_fusion(axis: Axes) -> None:
    """Both kinds of attention and the head."""
    for y, name in ((_SOUND, "sound"), (_FACE, "face")):
        _diagram_box(axis, 41, y, 16, f"self-attention\nover the {name}", _MODEL)
        _diagram_box(axis, 66, y, 16, f"cross-attention\non the {name}", _MODEL)
        _diagram_arrow(axis, (34.2, y), (40.8, y))
        _diagram_arrow(axis, (57.2, y), (65.8, y), label="keys,\nvalues", at=(61.3, y + 3.2))
    # the anchor: one text vector asks both streams, and is itself part of what the head sees
    anchor, ends = (74, _WORDS), (_WORDS + 6.7, _WORDS - 6.7)
    _diagram_arrow(
        axis, (34.2, _WORDS), (89.8, _WORDS), label="text vector t", at=(44, _WORDS + 1.8)
    )
    axis.plot(*anchor, marker="o", markersize=4, color="black")
    _diagram_arrow(axis, anchor, (74, _SOUND - 3.7), label="query", at=(74, 27))
    _diagram_arrow(axis, anchor, (74, _FACE + 3.7), label="query", at=(74, 15))
    for y, end, label in ((_SOUND, ends[0], "$h_a$"), (_FACE, ends[1], "$h_v$")):
        _diagram_arrow(axis, (82.2, y), (93, y), (93, end), label=label, at=(88, y + 1.6))
    _diagram_box(axis, 90, _WORDS, 8, "[t; $h_a$; $h_v$]\n\nMLP", _MODEL, 13)
    _diagram_arrow(axis, (98.2, _WORDS), (101.8, _WORDS))
    axis.text(102.3, _WORDS, "\n".join(EMOTIONS), fontsize=7.5, va="center", linespacing=1.5)


def _diagram_box(
    axis: Axes, x: float, y: float, width: float, text: str, shade: str, height: float = 7.0
) -> None:
    axis.add_patch(
        FancyBboxPatch(
            (x, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.2,rounding_size=1",
            facecolor=shade,
            edgecolor="black",
            linewidth=1.1,
        )
    )
    axis.text(x + width / 2, y, text, ha="center", va="center", fontsize=8.5)


def _diagram_arrow(axis: Axes, *points: Point, label: str = "", at: Point = (0, 0)) -> None:
    """Through all points, with its head at the last one and its label at `at`."""
    xs, ys = zip(*points, strict=True)
    axis.plot(xs[:-1], ys[:-1], color="black", linewidth=1.2)
    style = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", points[-1], points[-2], arrowprops=style)
    if label:
        background = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        words: dict[str, Any] = {"fontsize": 8, "ha": "center", "va": "center", "style": "italic"}
        axis.text(*at, label, bbox=background, **words)


# ---------------------------------------------------------------------------- lines and features


def curves(
    panels: Mapping[str, Mapping[str, tuple]], x_label: str, y_label: str, even: float | None = None
) -> Figure:
    """Lines side by side: panels is title -> {name: (x, y)}; `even` draws a dotted level, the even
    share."""
    figure = Figure(
        figsize=(4.6 * len(panels) + 0.8 * (len(panels) == 1), 3.1), layout="constrained"
    )
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
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
    inside = (f"{one_line(title)} ({listed(lines)})" for title, lines in panels.items())
    figure.alt = f"Lines of {one_line(y_label)} over {one_line(x_label)}: {listed(inside)}."
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
    shades: dict[str, Any] = {"cmap": "gray", "vmin": -1, "vmax": 1, "interpolation": "nearest"}
    image = picture.imshow(features.T, aspect="auto", extent=edges, **shades)
    picture.set_xlabel("time (s)")
    picture.set_ylabel("feature (sines, then cosines)")
    figure.colorbar(image, ax=picture, shrink=0.8)
    figure.alt = (
        f"Time features over {times[-1] - times[0]:.1f} s: on the left four sines from fast to "
        f"slow, on the right all {features.shape[1]} sines and cosines as shades of grey."
    )
    return figure


# -------------------------------------------------------------------------------------- training


def gradient_sizes(gradients: Mapping[str, np.ndarray]) -> Figure:
    """How large single gradient values are, on a log axis, against what half precision (fp16) can
    hold."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis = figure.subplots()
    sizes = {name: np.abs(values[values != 0]) for name, values in gradients.items()}
    bins = np.logspace(-12, 6, 73).tolist()
    grey: dict[str, Any] = {"edgecolor": "#AAAAAA", "linewidth": 0}
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
    lost = [f"{name} ({np.mean(v < 2.0**-25):.0%})" for name, v in sizes.items() if len(v)]
    figure.alt = (
        "Histograms of the sizes of gradient values on a logarithmic axis; the share that half "
        f"precision rounds to 0: {listed(lost)}."
    )
    return figure


def padding(layouts: Mapping[str, Sequence[Sequence[int]]], unit: str = "steps") -> Figure:
    """How much padding a batch order needs. layouts: title -> batches of clip lengths. Filled: real
    steps; hatched: padding."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots(1, len(layouts), sharex=True, sharey=True, squeeze=False)[0]
    padded: dict[str, Any] = {"facecolor": "white", "edgecolor": "#888888", "hatch": "////"}
    shares = []
    for axis, (title, batches) in zip(axes, layouts.items(), strict=True):
        row = 0
        for lengths in batches:
            rows = np.arange(row, row + len(lengths))
            axis.barh(rows, max(lengths), height=1, linewidth=0, **padded)
            axis.barh(rows, lengths, height=1, color=COLOURS[0], linewidth=0)
            row += len(lengths) + 4  # a gap between batches
        share = 1 - sum(map(sum, batches)) / sum(len(lengths) * max(lengths) for lengths in batches)
        shares.append(f"{title}: {share:.0%} padding")
        axis.set_title(shares[-1], fontsize=9)
        axis.set_xlabel(f"length ({unit})")
        axis.set_yticks([])
        axis.invert_yaxis()
    figure.supylabel("clips, batch by batch", fontsize=9)
    figure.alt = f"Lengths of clips, batch by batch, with their padding; {listed(shares)}."
    return figure


History = Sequence[Mapping[str, Any]]  # one dictionary an epoch


def training_curves(histories: Mapping[str, History | Sequence[History]]) -> Figure:
    """Loss and selection rho by epoch. histories: system -> one history (a list of dicts an epoch)
    or several (seeds).

    The first seed is drawn with markers, the others as thin lines (each may stop at another epoch);
    the ring marks the epoch that was kept of the first.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = dict(zip(("loss", "selection_rho"), figure.subplots(1, 2), strict=True))
    kept = []
    for number, (name, runs) in enumerate(histories.items()):
        rho, best = _training_lines(panels, name, number % len(COLOURS), _staged(runs))
        kept.append(f"{name} ({rho:.2f} in epoch {best})")
    labels = ("training loss (MSE)", "mean rho, selection split")
    for axis, label in zip(panels.values(), labels, strict=True):
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    panels["loss"].legend(fontsize=8)
    figure.alt = (
        "Training loss on the left and mean rho on the selection split on the right, by epoch; "
        f"kept of the first run: {listed(kept)}."
    )
    return figure


def _staged(runs: Any) -> list[list[Mapping[str, Any]]]:
    """A list of histories, of the last stage only: earlier stages have another loss."""
    several = [runs] if isinstance(runs[0], Mapping) else runs
    return [[epoch for epoch in run if "selection_rho" in epoch] for run in several]


def _training_lines(
    panels: Mapping[str, Axes], name: str, style: int, runs: list[list[Mapping[str, Any]]]
) -> tuple[float, int]:
    """The lines of one system; returns the best selection rho of its first run and its epoch."""
    for key, axis in panels.items():
        for seed, run in enumerate(runs):
            marked: dict[str, Any] = {
                "marker": MARKERS[style],
                "markevery": max(1, len(run) // 8),
                "markersize": 4,
                "linewidth": 1.6,
                "label": name,
            }
            axis.plot(
                np.arange(1, len(run) + 1),
                [epoch[key] for epoch in run],
                color=COLOURS[style],
                linestyle=LINES[style],
                **marked if seed == 0 else {"linewidth": 0.8, "alpha": 0.6},
            )
    rho = [epoch["selection_rho"] for epoch in runs[0]]
    best = int(np.argmax(rho))
    panels["selection_rho"].plot(
        best + 1, rho[best], marker="o", markersize=10, fillstyle="none", color="black"
    )
    return rho[best], best + 1


# ------------------------------------------------------------------------------------- attention


def attention_explorer_figure(
    *,
    attention: Mapping[str, np.ndarray | None],
    times: Mapping[str, np.ndarray | None],
    audio: Audio | None = None,
    frames: Frames | None = None,
    words: Words = (),
    transcript: str = "",
    counts: Point | None = None,
    decoy: Point | None = None,
    prediction: np.ndarray | None = None,
    target: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Where one clip was looked at and listened to: attention over time above the frames, the
    waveform and the words.

    attention, times  {"audio", "vision"}: (H, T) or (T,) weights and (T,) s; None where the
                      modality is absent
    words             (word, start in s); without them the transcript is shown
    counts, decoy     (start, end) in s of the planted event that counts and of the other one, where
                      known
    prediction, target  (6,) intensities, drawn as bars and diamonds
    Blue: mean over heads; grey: single heads; dotted: what even attention would give. Raises
    ValueError for a clip that has neither sound nor pictures.
    """
    figure = Figure(figsize=(11 if prediction is not None else 9, 6), layout="constrained")
    seen, strip, heard, wave, text = _explorer_panels(figure, prediction, target)
    duration = clip_duration(audio, frames)
    _draw_attention(seen, "vision", attention.get("vision"), times.get("vision"))
    draw_frames(strip, frames, duration, 8)
    _draw_attention(heard, "audio", attention.get("audio"), times.get("audio"))
    draw_waveform(wave, audio)
    draw_words(text, words, transcript)
    _draw_events((seen, heard, wave), counts, decoy)
    seen.set_xlim(0, duration)
    text.set_xlabel("time (s)")
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.alt = describe_clip(audio, frames, words, transcript, title)
    figure.alt += f"; attention over time: {_peaks(attention, times)}"
    figure.alt += "" if prediction is None else f"; predicted: {describe_intensities(prediction)}"
    figure.alt += "."
    return figure


def _explorer_panels(
    figure: Figure, prediction: np.ndarray | None, target: np.ndarray | None
) -> Sequence[Axes]:
    """Five panels on one time axis; beside them the intensities, where there is a prediction."""
    ratios = (0.8, 1.1, 0.8, 0.8, 0.45)
    if prediction is None:
        return figure.subplots(5, 1, sharex=True, height_ratios=ratios)
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(3, 1))
    panels = left.subplots(5, 1, sharex=True, height_ratios=ratios)
    draw_intensities(right.subplots(), prediction, target)
    return panels


def _draw_attention(
    axis: Axes, name: str, weights: np.ndarray | None, times: np.ndarray | None
) -> None:
    axis.set_ylabel(f"attention\non {name}")
    if weights is None or times is None:
        centred(axis, f"{name} is absent")
        return
    weights = np.atleast_2d(weights)  # (H, T)
    for head in weights if len(weights) > 1 else ():
        axis.plot(times, head, color="#AAAAAA", linewidth=0.7)
    axis.plot(times, weights.mean(axis=0), color=COLOURS[0], linewidth=2, marker="o", markersize=3)
    axis.axhline(1 / weights.shape[1], color="black", linestyle=":", linewidth=1)
    axis.set_ylim(bottom=0)


def _draw_events(axes: Sequence[Axes], counts: Point | None, decoy: Point | None) -> None:
    """The planted events in every panel, where they are known; their legend in the first."""
    for axis in axes:
        for window, style, name in ((counts, COUNTS, "event that counts"), (decoy, DECOY, "decoy")):
            if window is not None:
                axis.axvspan(*window, label=name, zorder=0, **style)
    if counts is not None or decoy is not None:
        axes[0].legend(fontsize=7, loc="upper right", ncols=2)


def _peaks(
    attention: Mapping[str, np.ndarray | None], times: Mapping[str, np.ndarray | None]
) -> str:
    """Where each stream's mean attention is highest."""
    parts = []
    for name, stream in (("vision", "the face"), ("audio", "the sound")):
        weights, clock = attention.get(name), times.get(name)
        if weights is None or clock is None:
            parts.append(f"{stream} is absent")
        else:
            peak = clock[np.atleast_2d(weights).mean(axis=0).argmax()]
            parts.append(f"on {stream} highest at {peak:.1f} s")
    return listed(parts)


# -------------------------------------------------------------------------- systems as sketches

SHADES = {
    "sound": "#CFE4F3",
    "face": "#F9DDB8",
    "words": "#CDEBDD",
}  # of the modalities; their names stand beside
_HEIGHTS = {"sound": 37, "face": 23, "words": 9}
_INPUT, _TEMPORAL, _POOLING, _FUSION = (0, 11), (16, 37), (45, 67), (73, 91)  # left, right edges


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
    uses = (
        f"{name} ({listed(part for part in _HEIGHTS if part in parts)}; "
        f"fusion: {one_line(parts['fusion'])})"
        for name, parts in sketches.items()
    )
    figure.alt = f"Drawings of systems, each with its inputs and its fusion: {listed(uses)}."
    return figure


def _sketch(axis: Axes, name: str, parts: Mapping) -> None:
    axis.set(xlim=(0, 100), ylim=(-1, 47))
    for modality, y in _HEIGHTS.items():
        _sketch_row(axis, modality, y, parts.get(modality))
    _sketch_links(axis, parts)
    used = [y for modality, y in _HEIGHTS.items() if modality in parts]
    middle, height = (max(used) + min(used)) / 2, max(max(used) - min(used) + 10.5, 10.5)
    _sketch_box(axis, _FUSION, middle, parts["fusion"], "#EEEEEE", height)
    _sketch_arrow(axis, (_FUSION[1], middle), (96, middle))
    axis.text(96.5, middle, "6", fontsize=9, va="center", fontweight="bold")
    axis.set_title(name, fontsize=9, pad=1, family="monospace", fontweight="bold")
    axis.text(50, 0.2, parts.get("note", ""), ha="center", va="center", fontsize=7, style="italic")


def _sketch_row(axis: Axes, modality: str, y: float, part: tuple[str, str] | None) -> None:
    """One modality from its input to its vector; a dotted input where it is not used."""
    if part is None:
        _sketch_box(axis, _INPUT, y, modality, "white", 6, edgecolor="#999999", linestyle=":")
        return
    shade, (before, vector) = SHADES[modality], part
    _sketch_box(axis, _INPUT, y, modality, shade, 6)
    if before:
        _sketch_arrow(axis, (_INPUT[1], y), (_TEMPORAL[0], y))
        _sketch_box(axis, _TEMPORAL, y, before, shade)
    _sketch_arrow(axis, (_TEMPORAL[1] if before else _INPUT[1], y), (_POOLING[0], y))
    _sketch_box(axis, _POOLING, y, vector, shade)
    _sketch_arrow(axis, (_POOLING[1], y), (_FUSION[0], y))


def _sketch_links(axis: Axes, parts: Mapping) -> None:
    """What one modality does to another: the dashed lines."""
    lines: dict[str, Any] = {"color": "#A03060", "linestyle": "--"}
    for source, target in parts.get("looks", ()):
        side = 2.5 if _HEIGHTS[source] > _HEIGHTS[target] else -2.5
        end = (_TEMPORAL[0], _HEIGHTS[target] + side)
        _sketch_arrow(axis, (_INPUT[1], _HEIGHTS[source]), end, **lines)
    dot: dict[str, Any] = {"marker": "o", "markersize": 2.5, "markevery": [0]}
    for source, target in parts.get("asks", ()):
        # where the query leaves its own row, and where it arrives
        turn, height = 40, _HEIGHTS[target] - 3
        axis.plot([turn, turn], [_HEIGHTS[source], height], linewidth=1.1, **lines, **dot)
        _sketch_arrow(axis, (turn, height), (_POOLING[0], height), color=lines["color"])


def _sketch_box(
    axis: Axes, edges: Point, y: float, text: str, shade: str, height: float = 10.5, **style: Any
) -> None:
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


def _sketch_arrow(axis: Axes, start: Point, end: Point, **style: Any) -> None:
    whole = {"linewidth": 0.9, "mutation_scale": 7, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", **whole, **style})

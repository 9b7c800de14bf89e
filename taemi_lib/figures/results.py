"""Figures of scores: systems beside each other and against a reference, cost, attention ratios."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from taemi_lib.evaluation import metrics
from taemi_lib.evaluation.comparing import BETTER, NO_DIFFERENCE, WORSE
from taemi_lib.figures.style import COLOURS, LINES, MARKERS, Figure, listed, one_line, plural
from taemi_lib.profiles import EMOTIONS, Task

# --------------------------------------------------------------------------- scores of one system

_HATCHES = ("", "//", "..", "xx", "--", "\\\\", "oo")


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
    for row, (name, value) in enumerate(values.items()):
        style: dict[str, Any] = {"color": COLOURS[row % 7], "hatch": _HATCHES[row % 7]}
        axis.barh(row, value, alpha=0.75, edgecolor="white", **style)
        low, high = intervals.get(name, (value, value))
        if name in intervals:
            line: dict[str, Any] = {"linewidth": 1.5, "marker": "|", "markersize": 8}
            axis.plot([low, high], [row, row], color="black", **line)
        end = (max(value, high, 0), row)
        offset: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8}
        axis.annotate(f"{value:.2f}", end, (6, 0), **offset)
    if reference:
        axis.axvline(reference[1], color="black", linestyle="--", linewidth=1, label=reference[0])
        axis.legend(fontsize=8, loc="lower right")
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(values)), values)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel(label + (" (line: 95 % interval)" if intervals else ""))
    shown = listed((f"{name} {value:.2f}" for name, value in values.items()), most=12)
    figure.alt = f"Bars{' with intervals' if intervals else ''} ({one_line(label)}): {shown}."
    return figure


def scatter_per_emotion(
    prediction: np.ndarray, target: np.ndarray, task: Task | None = None
) -> Figure:
    """(N, K) predictions against targets, one panel a target with its rho over the whole split.

    task  which targets, in which range; None: the six emotions
    """
    task = task or Task()
    names, some = task.targets, task.missing_labels == "mask"
    prediction = np.asarray(prediction, dtype=np.float64)
    target = np.asarray(target, dtype=np.float64)
    rho = metrics.pearson_per_emotion(prediction, target, names, some)
    columns = min(3, len(names))
    count = -(-len(names) // columns)
    figure = Figure(figsize=(3 * columns, 2.8 * count), layout="constrained")
    panels = figure.subplots(count, columns, sharex=True, sharey=True, squeeze=False)
    ends = [task.low, task.high]
    low, high = min(task.low, prediction.min()), max(task.high, prediction.max())
    margin = 0.03 * (task.high - task.low)
    for axis in list(panels.flat)[len(names) :]:
        axis.set_visible(False)
    for index, (axis, name) in enumerate(zip(panels.flat, names, strict=False)):
        axis.plot(ends, ends, linestyle="--", color="#888888", linewidth=1)
        axis.plot(
            target[:, index],
            prediction[:, index],
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            markersize=3,
            alpha=0.5,
            color=COLOURS[index % len(COLOURS)],
            markeredgewidth=0,
        )
        axis.set_title(f"{name}: rho {rho[index]:.2f}", fontsize=9)
        axis.set_ylim(low - margin, high + margin)
    figure.supxlabel(f"label ({task.low:g} to {task.high:g})", fontsize=9)
    figure.supylabel("prediction", fontsize=9)
    kind = "emotion" if names == EMOTIONS else "target"
    correlations = listed(f"{name} {value:.2f}" for name, value in zip(names, rho, strict=True))
    figure.alt = (
        f"Predictions against labels of {len(target)} clips, one panel for each {kind}, "
        f"with its rho: {correlations}."
    )
    return figure


# ------------------------------------------------------------------- systems against a reference

# verdict -> colour, marker, sign in a matrix: filled triangles are differences, an open circle is
# none that can be detected
VERDICTS = {
    WORSE: ("#D55E00", "v", "▼"),
    BETTER: ("#0072B2", "^", "▲"),
    NO_DIFFERENCE: ("#666666", "o", "○"),
}


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
    for title, members in groups.items():
        axis.text(-0.46, top + 0.12, title, fontsize=9, fontweight="bold", va="center")
        top += 1
        for name in members:
            ticks[name] = top
            for x, column in enumerate(columns):
                if column in cells[name]:
                    _verdict_cell(axis, x, top, *cells[name][column])
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
    counts = {
        column: _counted(row[column][1] for row in cells.values() if column in row)
        for column in columns
    }
    systems = plural(len(cells), "system")
    figure.alt = f"Table of the verdicts on {systems} in each column: {_joined(counts)}."
    return figure


def _verdict_cell(axis: Axes, x: float, y: float, delta: float, verdict: str) -> None:
    colour, _, sign = VERDICTS[verdict]
    found = verdict != NO_DIFFERENCE
    strength = min(0.75, 0.18 + 1.6 * abs(delta)) if found else 0
    shade: dict[str, Any] = {"facecolor": (colour, strength), "edgecolor": "#BBBBBB"}
    axis.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, linewidth=0.8, **shade))
    number = f"{round(delta, 3) + 0.0:+.3f}"  # + 0.0: a rounded zero has no minus
    axis.text(
        x,
        y,
        f"{sign} {number.replace('-', '−').replace('0.', '.')}",
        ha="center",
        va="center",
        fontsize=10,
        color="black" if found else "#555555",
        fontweight="bold" if found else "normal",
    )


def _counted(verdicts: Iterator[str]) -> str:
    """How often each verdict was given: "2 worse, 0 better, 1 no detectable difference"."""
    given = list(verdicts)
    return ", ".join(f"{given.count(verdict)} {verdict}" for verdict in VERDICTS)


def _joined(counts: Mapping[str, str]) -> str:
    return "; ".join(f"{one_line(name)}: {text}" for name, text in counts.items())


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
            if name in systems:
                _difference(axis, row, systems[name], reach)
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.tick_params(axis="x", labelbottom=True, labelsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
    beyond = max(0.5, 0.05 * (len(names) - 1))  # of a few rows, too, none lies on the frame
    axes[0].set_ylim(len(names) - 1 + beyond, -beyond)
    if reach is not None:
        axes[0].set_xlim(-reach, reach)
    _verdict_legend(figure)
    figure.supxlabel(
        f"{label}: system minus {reference}; lines: Holm-adjusted intervals", fontsize=9
    )
    counts = {title: _counted(row[3] for row in rows.values()) for title, rows in panels.items()}
    drawn = "" if reach is None else f", drawn up to {reach:g} on either side"
    figure.alt = f"Systems minus {reference} ({label}{drawn}), by panel: {_joined(counts)}."
    return figure


def _difference(axis: Axes, row: int, values: tuple, reach: float | None) -> None:
    """One system (delta, low, high, verdict) in a panel: its interval and a marker, or an arrow for
    one beyond the reach."""
    delta, low, high, verdict = values
    colour, marker, _ = VERDICTS[verdict]
    if reach is not None and abs(delta) > reach:
        side = float(np.sign(delta))
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", (side * reach, row), (side * 0.88 * reach, row), arrowprops=arrow)
        return
    axis.plot([low, high], [row, row], color=colour, linewidth=1.6)
    style: dict[str, Any] = {"marker": marker, "color": colour, "markersize": 6}
    if verdict == NO_DIFFERENCE:
        style["markerfacecolor"] = "white"
    axis.plot(delta, row, linestyle="none", **style)


def _verdict_legend(figure: Figure) -> None:
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


# ------------------------------------------------------------------------------ attention ratios


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
    styles: dict[str, dict[str, Any]] = {
        name: {"marker": MARKERS[number], "color": COLOURS[number], "linestyle": "none"}
        for number, name in enumerate(("sound", "face"))
    }
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, systems) in zip(axes, panels.items(), strict=True):
        axis.axvline(1, color="black", linestyle="--", linewidth=1)
        _ratio_points(axis, names, systems, styles)
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
    note = "(logarithmic axis; 1: chance); small: seeds, large: their median"
    figure.supxlabel(f"attention on what counts / on the decoy {note}", fontsize=9)
    figure.alt = (
        f"Attention on the event that counts divided by attention on the decoy, of {listed(names)}"
        f", by panel; {_joined({title: _medians(panel) for title, panel in panels.items()})}."
    )
    return figure


def _ratio_points(
    axis: Axes,
    names: Sequence[str],
    systems: Mapping[str, Mapping[str, Sequence[float]]],
    styles: Mapping[str, dict[str, Any]],
) -> None:
    """Seeds and their median of each system, sound above face."""
    for row, name in enumerate(names):
        for stream, values in systems.get(name, {}).items():
            height = row + (0.17 if stream == "face" else -0.17)
            style = styles[stream]
            axis.plot(values, [height] * len(values), markersize=3, alpha=0.5, **style)
            axis.plot(np.median(values), height, markersize=7, markeredgecolor="black", **style)


def _medians(systems: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The first system's medians; the others stand in the picture only."""
    for name, streams in systems.items():
        return f"{name} " + listed(
            f"{key} {np.median(ratio):.2g}" for key, ratio in streams.items()
        )
    return "none"


# ------------------------------------------------------------------------------- score and cost


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
    costs = [cost for cost, *_ in points.values()]
    far = max(costs) > 1000 * min(costs)  # more numbers would run into each other
    axis.xaxis.set_major_locator(LogLocator(subs=(1,) if far else (1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,.10g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.16, y=0.1)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="upper left", title="what it uses", title_fontsize=8)
    _name_points(figure, axis, points, emphasis)
    best = max(points, key=lambda name: points[name][1])
    figure.alt = (
        f"Score of {plural(len(points), 'system')} against {one_line(x_label)}; {best} has the "
        f"highest score, {points[best][1]:.2f}, at {points[best][0]:,.3g}."
    )
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
    taken = _taken(axis, points, places, renderer)
    frame = axis.get_window_extent(renderer)
    directions = [(1, 0), (-1, 0), (0.6, 1), (-0.6, 1), (0.6, -1), (-0.6, -1), (0, 1), (0, -1)]
    tries = [(x, y, distance) for distance in (9, 16, 24, 34, 46, 60, 80) for x, y in directions]
    for name in sorted(points, key=lambda name: places[name][1], reverse=True):
        others = [place for other, place in places.items() if other != name]
        for attempt in tries:
            bold = name in emphasis
            text = _name_beside(axis, name, points[name][:2], attempt, bold, renderer)
            extent = Text.get_window_extent(text, renderer)  # of the name without its line
            own = (
                not any(_passes(extent, places[name], other) for other in others)
                if attempt[2] > 12
                else _nearest(extent, places[name], others)
            )
            free = not any(extent.overlaps(other) for other in taken)
            if (_inside(frame, extent) and own and free) or attempt == tries[-1]:
                taken.append(extent)
                break
            text.remove()


def _taken(
    axis: Axes,
    points: Mapping[str, tuple[float, float, float]],
    places: Mapping[str, np.ndarray],
    renderer: Any,
) -> list[Bbox]:
    """What a name may not cover, in pixels: the points, their SDs, the legend."""
    taken = [Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in places.values()]
    for x, y, spread in points.values():
        reach = np.nan_to_num(spread)
        taken.append(Bbox(axis.transData.transform([(x, y - reach), (x, y + reach)])).padded(2))
    legend = axis.get_legend()
    return taken if legend is None else [*taken, legend.get_window_extent(renderer)]


def _name_beside(
    axis: Axes,
    name: str,
    point: Sequence[float],
    offset: tuple[float, float, float],
    bold: bool,
    renderer: Any,
) -> Text:
    """The name at an offset (direction x, direction y, distance); far ones get a line."""
    x, y, distance = offset
    leader = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "shrinkB": 4}
    text = axis.annotate(
        name,
        (point[0], point[1]),
        (x * distance, y * distance),
        textcoords="offset points",
        va="center",
        fontsize=8,
        ha="left" if x > 0 else "right" if x < 0 else "center",
        fontweight="bold" if bold else None,
        arrowprops=leader if distance > 12 else None,
    )
    text.update_positions(renderer)
    return text


def _nearest(box: Bbox, own: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether a name is so much nearer to its own point that nobody takes it for another's."""
    return _distance(box, own) < 0.6 * min((_distance(box, o) for o in others), default=np.inf)


def _passes(box: Bbox, own: np.ndarray, other: np.ndarray) -> bool:
    """Whether the line from a name to its own point meets another's marker on the way."""
    start = np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2
    way = own - start
    share = float(np.dot(other - start, way) / max(np.dot(way, way), 1e-9))
    return share < 1 and bool(np.hypot(*(start + max(share, 0) * way - other)) < 7)


def _inside(frame: Bbox, box: Bbox) -> bool:
    return all(map(frame.containsx, (box.x0, box.x1))) and all(
        map(frame.containsy, (box.y0, box.y1))
    )


def _distance(box: Bbox, point: np.ndarray) -> float:
    """From a point to the nearest place of a box, in pixels."""
    return float(
        np.hypot(
            max(box.x0 - point[0], 0, point[0] - box.x1),
            max(box.y0 - point[1], 0, point[1] - box.y1),
        )
    )


# ----------------------------------------------------------------- scores by emotion and by size


def heat_map(table: pd.DataFrame, label: str = "rho, test split") -> Figure:
    """A table of scores as shades with their numbers: rows and columns as they stand; a frame marks
    each column's best row."""
    values = table.to_numpy(dtype=float)
    figure = Figure(figsize=(8.5, 0.33 * len(values) + 1.3), layout="constrained")
    axis = figure.subplots()
    top = max(1e-6, 1.15 * values.max())
    shades: dict[str, Any] = {"cmap": "Blues", "vmin": min(0.0, values.min()), "vmax": top}
    picture = axis.imshow(values, aspect="auto", **shades)
    frame = {"boxstyle": "round,pad=0.25", "facecolor": "none", "edgecolor": "#D55E00"}
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
            bbox={**frame, "linewidth": 1.6} if best else None,
        )
    axis.set_xticks(range(values.shape[1]), table.columns, fontsize=8)
    axis.set_yticks(range(len(values)), table.index, fontsize=8)
    axis.tick_params(length=0)
    axis.xaxis.tick_top()
    figure.colorbar(picture, ax=axis, label=label, shrink=0.8)
    highest = zip(table.columns, values.argmax(axis=0), values.max(axis=0), strict=True)
    best_rows = listed(f"{column} {table.index[row]} {v:.2f}" for column, row, v in highest)
    figure.alt = (
        f"Table of {plural(len(values), 'row')} in shades of blue ({label}); the highest of each "
        f"column: {best_rows}."
    )
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
        style, means = number % len(COLOURS), np.asarray(means)
        # side by side, so that intervals do not cover each other
        moved = np.asarray(sizes) * 1.012 ** (number - (len(lines) - 1) / 2)
        axis.errorbar(
            moved,
            means,
            (np.maximum(means - lows, 0), np.maximum(highs - means, 0)),
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
    _name_ends(axis, ends)
    spans = (f"{name} {row[1][0]:.2f} to {row[1][-1]:.2f}" for name, row in lines.items())
    figure.alt = (
        f"Lines with intervals ({y_label}) over {one_line(x_label)}, from {ticks[0]} to "
        f"{ticks[-1]}: {listed(spans)}."
    )
    return figure


def _name_ends(axis: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Names at the ends (x, y, colour); those of lines that end close to each other stand above
    one another."""
    low, high = axis.get_ylim()
    height = -np.inf
    for name, (x, y, colour) in sorted(ends.items(), key=lambda end: end[1][1]):
        height = max(y, height + 0.055 * (high - low))
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

"""Figures of what is left when modalities or time steps are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taemi_lib.figures.style import COLOURS, LINES, MARKERS, Figure, listed, one_line

Curve = tuple[Sequence[float], Sequence[float], Sequence[bool]]


def loss_curves(
    panels: Mapping[str, Mapping[str, Curve]],
    x_label: str = "rate at which it is lost",
    y_label: str = "mean rho, test split",
    marked: str = "better than taemi",
) -> Figure:
    """Scores over the rate of loss, a panel for each title: {title: {system: (rates, scores,
    marks)}}.

    A mark, a large open circle, says what `marked` names, of a system at a rate. All panels have
    the same axes, and the systems of the first one.
    """
    figure = Figure(figsize=(4.4 * len(panels) + 1.6, 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    any_marked = False
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for number, (name, (rates, scores, marks)) in enumerate(curves.items()):
            style = number % len(COLOURS)
            axis.plot(
                rates,
                scores,
                color=COLOURS[style],
                marker=MARKERS[style],
                linestyle=LINES[style],
                markersize=5,
                linewidth=2.4 if number == 0 else 1.5,
                label=name,
            )
            at = [(x, y) for x, y, mark in zip(rates, scores, marks, strict=True) if mark]
            if at:
                any_marked = True
                ring = {"facecolors": "none", "edgecolors": COLOURS[style], "linewidths": 1.2}
                axis.scatter(*zip(*at, strict=True), s=130, **ring)
        axis.set_title(one_line(title), fontsize=10)
        axis.set_xlabel(x_label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(y_label)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside right upper",
        fontsize=9,
        title=f"○ {marked}" if any_marked else None,
        title_fontsize=9,
    )
    told = "; ".join(
        f"{one_line(title)}: "
        + listed(
            f"{name} {scores[0]:.2f} to {scores[-1]:.2f}" for name, (_, scores, _) in c.items()
        )
        for title, c in panels.items()
    )
    figure.alt = f"Curves ({one_line(y_label)}) over the {one_line(x_label)}. {told}."
    return figure

"""Every figure of the course, as functions that return a matplotlib Figure and print nothing.

The figures belong to no global state: the last expression of a cell, or display(figure), shows one
exactly once; plt.show() knows nothing of them. All are readable in grey: hatch, marker or line
style stand beside every colour. Each has an alternative text, `figure.alt`.

    style       what all share: Figure, saving, colours and markers
    clips       single clips, their labels
    networks    diagrams, training, attention over time
    results     scores and comparisons
    robustness  what is left when modalities are missing or noisy
    widgets     the interactive pieces (imported by itself: it brings ipywidgets along)
"""

from __future__ import annotations

from taemi_lib.figures.clips import (
    contact_sheet,
    intensities,
    label_statistics,
    waveform_and_face,
)
from taemi_lib.figures.networks import (
    SHADES,
    attention_explorer_figure,
    curves,
    gradient_sizes,
    padding,
    pipeline_diagram,
    system_sketches,
    time_features,
    training_curves,
)
from taemi_lib.figures.results import (
    VERDICTS,
    attention_over_decoy,
    bars_with_intervals,
    differences,
    heat_map,
    lines_with_intervals,
    scatter_per_emotion,
    score_against_cost,
    verdict_matrix,
)
from taemi_lib.figures.robustness import loss_curves
from taemi_lib.figures.style import (
    COLOURS,
    COUNTS,
    DECOY,
    FIGURES,
    LINES,
    MARKERS,
    REWRITE,
    Figure,
    save,
)

__all__ = [
    "COLOURS",
    "COUNTS",
    "DECOY",
    "FIGURES",
    "LINES",
    "MARKERS",
    "REWRITE",
    "SHADES",
    "VERDICTS",
    "Figure",
    "attention_explorer_figure",
    "attention_over_decoy",
    "bars_with_intervals",
    "contact_sheet",
    "curves",
    "differences",
    "gradient_sizes",
    "heat_map",
    "intensities",
    "label_statistics",
    "lines_with_intervals",
    "loss_curves",
    "padding",
    "pipeline_diagram",
    "save",
    "scatter_per_emotion",
    "score_against_cost",
    "system_sketches",
    "time_features",
    "training_curves",
    "verdict_matrix",
    "waveform_and_face",
]

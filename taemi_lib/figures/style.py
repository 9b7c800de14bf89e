"""What all figures share: the Figure that Jupyter shows by itself, its alternative text, saving,
and the styles that stay readable in grey."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.axes import Axes

from taemi_lib import profiles

REWRITE = "TAEMI_REWRITE_FIGURES"  # environment: "1" asks save() to write
FIGURES = "figures"  # folder of the saved PNGs

# Okabe and Ito's colours, which stay apart for colour-blind readers; markers and line styles for
# print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 3)))
COUNTS: dict[str, Any] = {  # the planted event that counts
    "facecolor": "#E69F00",
    "alpha": 0.35,
    "hatch": "//",
    "edgecolor": "#555555",
    "linewidth": 0,
}
DECOY: dict[str, Any] = {
    "facecolor": "none",
    "hatch": "..",
    "edgecolor": "#AAAAAA",
    "linewidth": 0,
}


class Figure(matplotlib.figure.Figure):
    """A matplotlib Figure that Jupyter shows by itself, whatever pyplot's backend is.

    alt: one sentence that says what the figure shows. Jupyter stores it with the picture, as
    metadata["image/png"]["alt"]; it can be set later too (`figure.alt = "..."`). A pyplot figure
    gets one by plt.subplots(..., FigureClass=Figure, alt="...").
    """

    def __init__(self, *args: Any, alt: str = "", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.alt = alt

    def png(self, dpi: int = 90) -> bytes:
        """The picture as PNG bytes."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple:
        """No data, only the metadata of the PNG: whoever draws it (this class, or the inline
        backend once pyplot is imported), the alternative text goes along."""
        return {}, {"image/png": {"alt": self.alt}} if self.alt else {}


def save(figure: matplotlib.figure.Figure, name: str, rewrite: bool | None = None) -> Path:
    """figures/<name>.png, with the alternative text as the PNG's Description.

    The file is written only on request, so that a run leaves git clean: by `rewrite`, or by default
    when the environment has TAEMI_REWRITE_FIGURES=1 (`make figures` sets it). The same figure gives
    the same bytes. Returns the path either way. Takes pyplot's figures as well.
    """
    path = profiles.resolve(FIGURES) / f"{name}.png"
    if rewrite or (rewrite is None and os.environ.get(REWRITE) == "1"):
        path.parent.mkdir(exist_ok=True)
        about = {"Software": None, "Description": getattr(figure, "alt", "") or None}
        figure.savefig(path, dpi=120, metadata=about)
    return path


def one_line(text: str) -> str:
    """The text of a label without its line breaks, as a sentence needs it."""
    return " ".join(str(text).split())


def shortened(text: str, most: int = 600) -> str:
    """A text of somebody else's with at most so many characters, the end cut off for "…": a book as
    transcript would take minutes to lay out, and nobody could read it in a figure."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names as part of a sentence: "a, b and c"; of more than `most` the first and a count."""
    texts = [one_line(str(name)) for name in names]
    if len(texts) > most:
        texts[most - 1 :] = [f"{len(texts) - most + 1} more"]
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 clip", "2 clips"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def centred(axis: Axes, text: str, **style: Any) -> None:
    """A text in the middle of a panel: what was said, or that there is nothing to draw. As it
    stands: a dollar sign in what somebody said begins no formula."""
    style = {"ha": "center", "va": "center"} | style
    axis.text(0.5, 0.5, text, transform=axis.transAxes, parse_math=False, **style)

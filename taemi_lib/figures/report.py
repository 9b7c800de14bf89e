"""Predictions as one HTML file for readers: without scripts, without network, every text escaped.

Jinja2 escapes whatever a clip's name, words or reasons hold; pictures are data URIs.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from taemi_lib.figures import predictions as drawn
from taemi_lib.figures.style import Figure
from taemi_lib.prediction.answer import CAUTION, Prediction
from taemi_lib.support import files

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(
    predictions: Sequence[tuple[Prediction, Path | None]],
    path: str | Path,
    title: str = "Six intensities of your clips",
) -> None:
    """A table of all clips, then each with its figures. predictions: each with the file that its
    frames and sound come from, if any. Written atomically."""
    page = _TEMPLATES.get_template("report.html").render(
        title=title,
        caution=CAUTION,
        emotions=list(predictions[0][0].values) if predictions else [],
        clips=[(one, _pictures(one, video)) for one, video in predictions],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, page.encode("utf-8", "surrogateescape"))


def _pictures(one: Prediction, video: Path | None) -> list[tuple[str, str, str]]:
    """(heading, PNG as data URI, alternative text) of what can be drawn of a clip."""
    if one.all_absent:
        return []
    asked = {
        "Intensities": lambda: drawn.intensities(one),
        "Where it looked and listened": lambda: drawn.attention(one, video),
        "Frames that were looked at most": lambda: drawn.moments(one, video),
        "Without each modality": lambda: drawn.without(one),
    }
    found = []
    for heading, draw in asked.items():
        try:
            figure = draw()
        except ValueError:  # no attention, no pictures: the page says what is missing
            continue
        found.append((heading, _uri(figure), figure.alt))
    return found


def _uri(figure: Figure) -> str:
    return f"data:image/png;base64,{base64.b64encode(figure.png()).decode()}"

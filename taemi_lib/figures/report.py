"""Predictions as one HTML file for readers: without scripts, without network, every text escaped.

Jinja2 escapes whatever a clip's name, words or reasons hold, `visible` writes out what would turn
or hide text; pictures are data URIs. The page is `report.html`, beside this file.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from taemi_lib.figures import predictions as drawn
from taemi_lib.figures.style import Figure, one_line
from taemi_lib.prediction.answer import CAUTION, Prediction
from taemi_lib.support import files
from taemi_lib.support.naming import visible

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=lambda value: visible(one_line(value)) if type(value) is str else value,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Picture:
    """One picture of the page: a data URI, its alternative text, what stands below it, and its size
    in pixels on the page."""

    uri: str
    alt: str
    width: int
    height: int
    caption: str = ""


@dataclass
class Section:
    """One clip of the page. A figure that cannot be drawn is None and has its reason in `why`."""

    clip: Prediction
    drawn: bool = True
    figures: dict[str, Picture | None] = field(default_factory=dict)
    moments: list[Picture] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)


def write_report(
    predictions: Sequence[tuple[Prediction, Path | None]],
    path: str | Path,
    title: str = "Six intensities of your clips",
    pictures: int = 100,
) -> None:
    """A table of all clips, then a section for each with its figures.

    predictions  each with the file that its frames come from, if any; a file that is gone or gives
                 none by now costs its frames only
    path         of the HTML file, written atomically; folders above it are made
    pictures     the first so many clips get figures (about 0.1 MB each), further ones tables only,
                 and the page says so
    """
    sections = [
        _section(clip, video, number < pictures) for number, (clip, video) in enumerate(predictions)
    ]
    page = _TEMPLATES.get_template("report.html").render(
        title=title,
        caution=CAUTION,
        emotions=list(sections[0].clip.values) if sections else [],
        sections=sections,
        pictures=pictures,
        said=drawn.NAMES,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, page.encode())


def _section(clip: Prediction, video: Path | None, with_pictures: bool) -> Section:
    section = Section(clip, drawn=with_pictures and not clip.all_absent)
    if not section.drawn:
        return section
    asked: dict[str, Callable[[Prediction], Figure]] = {
        "intensities": drawn.intensities,
        "attention": drawn.attention,
        "without": drawn.without,
    }
    for name, draw in asked.items():
        try:
            section.figures[name] = _picture(draw(clip))
        except ValueError as error:  # nothing to draw: the page says why
            section.figures[name], section.why[name] = None, str(error)
    try:
        section.moments = list(_thumbnails(drawn.looked_at(clip, video)))
    except ValueError as error:
        section.why["moments"] = str(error)
    return section


def _picture(figure: Figure) -> Picture:
    with warnings.catch_warnings():
        # words in scripts that matplotlib's font lacks are boxes; the page has them as text
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        content = figure.png(dpi=110)
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        # charts have few colours: a third of the size, and nothing that could be seen is lost
        small = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    width, height = round(width / 1.3), round(height / 1.3)  # sharp on dense screens
    return Picture(_uri(small, "PNG", optimize=True), figure.alt, width, height)


def _thumbnails(moments: Sequence[drawn.Moment]) -> Iterator[Picture]:
    for number, moment in enumerate(moments, 1):
        uri = _uri(Image.fromarray(np.ascontiguousarray(moment.image)), "JPEG", quality=85)
        alt = f"Frame {number} of the most attended ones, at {moment.time:.1f} s"
        caption = f"{number}: {moment.time:.1f} s, {moment.weight:.0%} of the attention"
        height, width = moment.image.shape[:2]
        yield Picture(uri, alt, width, height, caption)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"

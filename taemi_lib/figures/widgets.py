"""The two interactive pieces of the course: a clip browser and an attention explorer.

Both put little into a notebook: one clip's file or one PNG at a time. A static figure stands beside
each there, so that a page is complete without a running kernel.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence

import ipywidgets

from taemi_lib import figures
from taemi_lib.data.manifest import Manifest

LARGEST = 4_000_000  # bytes of a video that go into the page; larger ones are named instead


def _chooser(clip_ids: Sequence[str]) -> ipywidgets.Dropdown:
    """A drop-down list; the arrow keys step through it. Raises ValueError when there is nothing to
    choose."""
    if not clip_ids:
        raise ValueError("there are no clips to choose from")
    return ipywidgets.Dropdown(options=list(clip_ids), value=clip_ids[0], description="clip")


def clip_browser(
    manifest: Manifest, transcripts: Mapping[str, str] | None = None
) -> ipywidgets.Widget:
    """Choose a clip; see and hear it, with its labels as bars and its words where they are known.

    `transcripts` (clip_id -> what was heard) stands in where the manifest has no transcript column.
    """
    choice = _chooser(manifest.clip_ids)
    video = ipywidgets.Video(format="mp4", width=288, autoplay=False, loop=False)
    labels = ipywidgets.Image(format="png", width=400)
    facts = ipywidgets.HTML()

    def show(clip_id: str) -> None:
        clip = manifest[clip_id]
        said = clip.transcript if clip.transcript is not None else (transcripts or {}).get(clip_id)
        lines = [f"<b>{html.escape(clip_id)}</b>, {clip.split}"]
        if said is not None:
            lines.append(f"“{html.escape(said)}”" if said else "nothing is said")
        content = (
            clip.video.read_bytes() if clip.video and clip.video.stat().st_size <= LARGEST else b""
        )
        if not content:
            lines.append(
                f"{clip.video.name} is too large for this page" if clip.video else "no video file"
            )
        facts.value = "<br>".join(lines)
        video.value = content
        if clip.labels is None:
            labels.value = b""
            facts.value += "<br>no labels"
        else:
            labels.value = figures.intensities(clip.labels, name="label").png()

    choice.observe(lambda change: show(change["new"]), names="value")
    show(choice.value)
    return ipywidgets.VBox([choice, facts, ipywidgets.HBox([video, labels])])


def attention_explorer(
    clip_ids: Sequence[str], draw: Callable[[str], figures.Figure]
) -> ipywidgets.Widget:
    """Choose a clip; `draw(clip_id)` makes its figure, usually with
    figures.attention_explorer_figure.

    Every figure is drawn once and kept while the widget lives.
    """
    choice = _chooser(clip_ids)
    picture = ipywidgets.Image(format="png")
    drawn: dict[str, bytes] = {}

    def show(clip_id: str) -> None:
        if clip_id not in drawn:
            drawn[clip_id] = draw(clip_id).png()
        picture.value = drawn[clip_id]

    choice.observe(lambda change: show(change["new"]), names="value")
    show(choice.value)
    return ipywidgets.VBox([choice, picture])

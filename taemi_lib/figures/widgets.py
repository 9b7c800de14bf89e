"""The interactive pieces of the course: a clip browser, an attention explorer, and a panel of what
is left when modalities are missing.

All put little into a notebook: one clip's file, one PNG or one table at a time. A static figure
stands beside each there, so that a page is complete without a running kernel.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ipywidgets
import pandas as pd

from taemi_lib.data.manifest import Clip, Manifest
from taemi_lib.figures.clips import intensities
from taemi_lib.figures.style import Figure
from taemi_lib.support import files, naming

LARGEST = 4_000_000  # bytes of a video that go into the page; larger ones are only named
# names that Windows keeps for devices, whatever their ending
_DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10)),
}


def clip_browser(
    manifest: Manifest, transcripts: Mapping[str, str] | None = None
) -> ipywidgets.Widget:
    """Choose a clip; see and hear it and read its words. Its labels stay hidden until the button
    "Show labels" is pressed, so that one can guess first.

    `transcripts` (clip_id -> what was heard) stands in where the manifest has no transcripts.
    Raises ValueError for a manifest without clips.
    """
    choice = _chooser(manifest.clip_ids)
    facts = ipywidgets.HTML()
    asked = ipywidgets.ToggleButton(value=False, description="Show labels")
    video = ipywidgets.Video(format="mp4", width=288, autoplay=False, loop=False)
    labels = ipywidgets.Image(format="png", width=400)

    def show(_change: object = None) -> None:
        clip = manifest[choice.value]
        content, note = _video(clip.video)
        lines = [f"<b>{html.escape(clip.clip_id)}</b>, {html.escape(clip.split)}"]
        lines += [html.escape(line) for line in (_words(clip, transcripts or {}), note) if line]
        lines += ["no labels"] if clip.labels is None else []
        asked.disabled = clip.labels is None
        picture = b""
        if asked.value and clip.labels is not None:
            figure = intensities(clip.labels, name="label")
            lines.append(
                html.escape(figure.alt)
            )  # an Image widget has no alternative text of its own
            picture = figure.png()
        facts.value, video.value, labels.value = "<br>".join(lines), content, picture

    for control in (choice, asked):
        control.observe(show, names="value")
    show()
    return ipywidgets.VBox([choice, facts, asked, ipywidgets.HBox([video, labels])])


def _chooser(clip_ids: Sequence[str]) -> ipywidgets.Dropdown:
    """A drop-down list; the arrow keys step through it."""
    if not clip_ids:
        raise ValueError("there are no clips to choose from: the table or its split is empty")
    return ipywidgets.Dropdown(options=list(clip_ids), value=clip_ids[0], description="clip")


def _words(clip: Clip, transcripts: Mapping[str, str]) -> str:
    """What is said in the clip, or that it is not known. The manifest's own transcript wins."""
    own = clip.transcript
    said = transcripts.get(clip.clip_id) if own is None else own
    if said is None:
        return "no transcript"
    return f"“{said}”" if said else "nothing is said"


def _video(path: Path | None) -> tuple[bytes, str]:
    """The file's content for the page, or nothing and a note why."""
    if path is None:
        return b"", "no video file"
    if not path.is_file():
        return b"", f"{path.name} is missing"
    if (size := path.stat().st_size) > LARGEST:
        limit = f"{LARGEST / 1e6:.0f} MB"
        return b"", f"{path.name} is too large for this page ({size / 1e6:.1f} MB, limit {limit})"
    return path.read_bytes(), ""


def attention_explorer(clip_ids: Sequence[str], draw: Callable[[str], Figure]) -> ipywidgets.Widget:
    """Choose a clip; `draw(clip_id)` makes its figure, usually with
    figures.attention_explorer_figure.

    Every figure is drawn once and kept while the widget lives. Raises ValueError without clips.
    """
    choice = _chooser(clip_ids)
    picture = ipywidgets.Image(format="png")
    drawn: dict[str, bytes] = {}

    def show(_change: object = None) -> None:
        clip_id = choice.value
        if clip_id not in drawn:
            drawn[clip_id] = draw(clip_id).png()
        picture.value = drawn[clip_id]

    choice.observe(show, names="value")
    show()
    return ipywidgets.VBox([choice, picture])


def robustness_panel(
    points: pd.DataFrame, sound: Mapping[int, str], picture: Mapping[int, str]
) -> ipywidgets.Widget:
    """Switch modalities off, turn noise up; see what every system still says.

    points            the table mixed_points.csv of `taemi robustness --plan mixed`. Nothing is
                      computed: every answer is some rows of it
    sound, picture    {level: how to call it} of the two noises, for their sliders
    Raises ValueError for a table without rows.
    """
    if points.empty:
        raise ValueError("there is nothing to show: the table is empty")
    rows = {key: own for key, own in points.groupby(["lost", "sound", "picture"])}
    switches = {
        "audio": ipywidgets.ToggleButton(value=True, description="sound"),
        "vision": ipywidgets.ToggleButton(value=True, description="face"),
        "text": ipywidgets.ToggleButton(value=True, description="words"),
    }
    sliders = [
        ipywidgets.SelectionSlider(
            options=[(text, level) for level, text in levels.items()],
            description=name,
            style={"description_width": "8em"},
        )
        for name, levels in (("noise in the sound", sound), ("... in the picture", picture))
    ]
    answer = ipywidgets.HTML()

    def show(_change: object = None) -> None:
        lost = [name for name, switch in switches.items() if not switch.value]
        # words come from the sound: its noise reaches them, too
        sliders[0].disabled = {"audio", "text"} <= set(lost)
        sliders[1].disabled = "vision" in lost
        if len(lost) == len(switches):
            answer.value = "Nothing is left: without sound, face and words there is no clip."
            return
        levels = [0 if slider.disabled else slider.value for slider in sliders]
        own = rows["+".join(lost), *levels].set_index("system")
        answer.value = _bars(own["rho"], own["verdict"].dropna().to_dict())

    for control in (*switches.values(), *sliders):
        control.observe(show, names="value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox(list(switches.values())), *sliders, answer])


def _bars(scores: pd.Series, verdicts: Mapping[str, str]) -> str:
    """A table of scores with bars, the highest first, and each verdict against the reference."""
    lines = []
    for name, score in scores.sort_values(ascending=False, kind="stable").items():
        bar = f"background: #0072B2; height: 0.8em; width: {300 * max(score, 0):.0f}px"
        said = html.escape(verdicts.get(str(name), ""))
        lines.append(
            f"<tr><td>{html.escape(str(name))}</td><td style='text-align: right'>{score:.2f}</td>"
            f"<td style='text-align: left'><div style='{bar}'></div></td><td>{said}</td></tr>"
        )
    head = "<tr><th>system</th><th>mean rho</th><th></th><th>against taemi</th></tr>"
    return f"<table>{head}{''.join(lines)}</table>"


def uploader(folder: str | Path, largest: int = 200_000_000) -> ipywidgets.Widget:
    """A button that takes media files and tables from the reader's machine into `folder`.

    Names are made harmless, and two that differ stay apart; files above `largest` bytes are refused
    with their names. The bytes are not looked at here: whoever reads them must expect anything.
    They lie in `folder` alone: the button lets go of them, so that a notebook saved with its
    widgets does not hold somebody's recording. On phones the button offers the camera.
    """
    button = ipywidgets.FileUpload(accept="video/*,audio/*,.mkv,.csv", multiple=True)
    said = ipywidgets.HTML("No file yet.")

    def keep(_change: object = None) -> None:
        if not button.value:  # let go of below
            return
        lines = []
        for entry in button.value:
            name, content = Path(entry["name"].replace("\\", "/")).name, entry["content"]
            if len(content) > largest:
                lines.append(f"{name}: refused, above {largest / 1e6:.0f} MB")
                continue
            kept = _harmless(name)
            Path(folder).mkdir(parents=True, exist_ok=True)
            files.write_bytes(Path(folder) / kept, bytes(content))
            lines.append(f"{name}: {len(content) / 1e6:.1f} MB, as {kept}")
        said.value = "<br>".join(html.escape(line) for line in lines)
        button.value = ()

    button.observe(keep, names="value")
    return ipywidgets.VBox([button, said])


def _harmless(name: str) -> str:
    """The name itself if it is of letters, digits, "_" and "-" with an ending such as ".mp4"; else
    what is left of it, with a mark that keeps such names apart. So there is no path, no hidden
    file, and no device of Windows."""
    ending = re.sub(r"[^a-z0-9]", "", Path(name).suffix.lower())[:10]
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(name).stem)[:80].strip("_-")
    if f"{plain}.{ending}" == name and plain.upper() not in _DEVICES:
        return name
    return f"{plain or 'clip'}-{naming.mark(name)}{'.' * bool(ending)}{ending}"

"""Figures and widgets: they show themselves, say in words what they show, take what is absent, and
are written only on request."""

import inspect
import itertools

import matplotlib.figure
import matplotlib.pyplot as plt
import nbformat.v4
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.core.pylabtools import print_figure
from matplotlib.text import Text
from nbconvert import HTMLExporter
from PIL import Image

from taemi_lib import figures, profiles
from taemi_lib.data.manifest import Manifest
from taemi_lib.data.media import Audio, Frames
from taemi_lib.figures import widgets
from taemi_lib.profiles import EMOTIONS

PNG = b"\x89PNG"
RNG = np.random.default_rng(0)
AUDIO = Audio(RNG.normal(size=32_000).astype(np.float32) / 10, 2.0)
FRAMES = Frames(
    RNG.integers(0, 255, (20, 16, 16, 3), dtype=np.uint8), np.arange(20, dtype=np.float32) / 10
)
LABELS = RNG.random((30, 6))
WEIGHTS = np.full((4, 20), 0.05)
HISTORY = [{"epoch": epoch, "loss": 1 / epoch, "selection_rho": 0.1 * epoch} for epoch in (1, 2, 3)]
NONE = "no detectable difference"
VERSUS = {
    "a": (-0.2, -0.3, -0.1, "worse"),
    "b": (0.01, -0.1, 0.12, NONE),
    "c": (0.2, 0.1, 0.3, "better"),
}
FIGURES = {
    "contact sheet": lambda: figures.contact_sheet([FRAMES, None], ["a", "b"]),
    "clip": lambda: figures.waveform_and_face(AUDIO, FRAMES, [("hello", 0.2)]),
    "clip without sound": lambda: figures.waveform_and_face(None, FRAMES, transcript="hello"),
    "clip without picture": lambda: figures.waveform_and_face(AUDIO, None),
    "labels": lambda: figures.label_statistics(pd.DataFrame(LABELS, columns=EMOTIONS)),
    "scatter": lambda: figures.scatter_per_emotion(
        LABELS + RNG.normal(0, 0.1, LABELS.shape), LABELS
    ),
    "curves": lambda: figures.training_curves({"one": HISTORY, "two": [HISTORY, HISTORY[:2]]}),
    "bars": lambda: figures.bars_with_intervals(
        {"a": 0.5, "b": -0.1}, {"a": (0.4, 0.6)}, reference=("best", 0.9)
    ),
    "attention": lambda: figures.attention_explorer_figure(
        attention={"audio": WEIGHTS, "vision": None},
        times={"audio": FRAMES.times},
        audio=AUDIO,
        frames=FRAMES,
        counts=(0.2, 0.8),
        decoy=(1.0, 1.6),
        prediction=LABELS[0],
        target=LABELS[1],
    ),
    "intensities": lambda: figures.intensities(LABELS[0]),
    "diagram": figures.pipeline_diagram,
    "differences": lambda: figures.differences({"one": VERSUS, "two": {"b": VERSUS["b"]}}, "c"),
    "verdicts": lambda: figures.verdict_matrix(
        {"a": {"one": (-0.2, "worse")}, "b": {"two": (0.0, NONE)}}, {"x": ["a"], "y": ["b"]}
    ),
    "attention ratios": lambda: figures.attention_over_decoy(
        {"one": {"a": {"sound": [2.0, 3.0]}, "b": {"face": [1.0]}}, "two": {}}
    ),
    "sketches": lambda: figures.system_sketches(
        {
            "a": {
                "sound": ("LSTM", "last"),
                "words": ("", "vector"),
                "asks": [("words", "sound")],
                "fusion": "concat",
                "note": "so",
            },
            "b": {
                "face": ("", "mean"),
                "sound": ("", "mean"),
                "looks": [("sound", "face")],
                "fusion": "linear",
            },
        }
    ),
    "cost": lambda: figures.score_against_cost(
        {"a": (2.0, 0.5, 0.1), "one seed": (20.0, 0.6, float("nan"))},
        {"a": "sound", "one seed": "face"},
        "cost (s)",
        ["a"],
    ),
    "heat map": lambda: figures.heat_map(
        pd.DataFrame(LABELS[:3], index=list("abc"), columns=EMOTIONS)
    ),
    "losses": lambda: figures.loss_curves(
        {
            "whole": {"a": ([0, 0.5], [0.9, 0.4], [0, 0]), "b": ([0, 0.5], [0.7, 0.6], [0, 1])},
            "steps": {"a": ([0, 0.5], [0.9, 0.8], [0, 0]), "b": ([0, 0.5], [0.7, 0.7], [0, 0])},
        }
    ),
    "lines": lambda: figures.lines_with_intervals(
        {name: ([72, 576], [0.2, 0.4], [0.1, 0.3], [0.3, 0.5]) for name in "ab"}, "clips"
    ),
    "weights": lambda: figures.curves({"one": {"a": ([0, 1], [0.2, 0.8])}}, "step", "weight", 0.5),
    "time features": lambda: figures.time_features(np.arange(8), RNG.random((8, 16))),
    "padding": lambda: figures.padding({"in order": [[3, 1], [2, 2]]}),
    "gradients": lambda: figures.gradient_sizes({"a": np.logspace(-9, 0, 50), "none": np.zeros(3)}),
}
MAKERS = {  # every public function that makes a figure
    name
    for name in figures.__all__
    if inspect.isfunction(function := getattr(figures, name))
    and function.__annotations__["return"] == "Figure"
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_itself_as_png_and_prints_nothing(name, capsys):
    assert FIGURES[name]()._repr_png_().startswith(PNG)
    assert capsys.readouterr() == ("", "")


def test_every_figure_says_in_one_sentence_what_it_shows():
    said = {name: make().alt for name, make in FIGURES.items()}
    for text in said.values():
        assert 30 < len(text) < 600 and text.endswith(".") and "\n" not in text
    assert len(set(said.values())) == len(said)
    tried = set().union(*({make.__name__, *make.__code__.co_names} for make in FIGURES.values()))
    assert tried >= MAKERS and "padding" in MAKERS


@pytest.mark.parametrize("inline", [False, True], ids=["by itself", "by the inline backend"])
def test_a_figure_takes_its_alternative_text_into_the_notebook(inline):
    """Both when the figure draws itself and when pyplot's inline backend has taken over drawing."""
    formatter = DisplayFormatter()
    if inline:
        formatter.formatters["image/png"].for_type(matplotlib.figure.Figure, print_figure)
    figure = figures.intensities(LABELS[0])
    data, metadata = formatter.format(figure)
    assert data["image/png"].startswith(PNG)
    assert metadata == {"image/png": {"alt": figure.alt}}
    assert formatter.format(figures.Figure())[1] == {}


def test_an_exported_page_has_the_alternative_text_of_its_images():
    data, metadata = DisplayFormatter().format(figures.pipeline_diagram())
    image = {"image/png": "AAAA", "text/plain": data["text/plain"]}
    output = nbformat.v4.new_output("display_data", image, metadata=metadata)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    assert f'alt="{figures.pipeline_diagram().alt}"' in page


def test_a_figure_of_pyplot_can_say_what_it_shows():
    figure, _ = plt.subplots(1, 2, FigureClass=figures.Figure, alt="Two empty panels.")
    assert DisplayFormatter().format(figure)[1] == {"image/png": {"alt": "Two empty panels."}}
    figure.alt = "Nothing."
    assert DisplayFormatter().format(figure)[1] == {"image/png": {"alt": "Nothing."}}
    plt.close(figure)


def test_a_saved_figure_carries_its_alternative_text(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    figure = figures.intensities(LABELS[0])
    figure.alt += " “Ünïcode” →"
    path = figures.save(figure, "x", rewrite=True)
    with Image.open(path) as image:
        assert image.info["Description"] == figure.alt
    bare = matplotlib.figure.Figure()  # another module's: no text, no error
    with Image.open(figures.save(bare, "y", rewrite=True)) as image:
        assert "Description" not in image.info


def test_names_of_points_cover_no_other_name_and_no_point():
    points = {
        f"system_{number}": (10 + 0.2 * number, 0.5 + 0.001 * number, 0.0) for number in range(8)
    }
    figure = figures.score_against_cost(points, dict.fromkeys(points, "sound"), "cost")
    axis = figure.axes[0]
    figure.draw_without_rendering()
    names = [Text.get_window_extent(text) for text in axis.texts]
    assert [text.get_text() for text in axis.texts] == sorted(points, reverse=True)  # from the top
    assert not any(one.overlaps(other) for one, other in itertools.combinations(names, 2))
    places = axis.transData.transform([point[:2] for point in points.values()])
    assert not any(name.contains(*place) for name in names for place in places)


def test_the_line_from_a_name_to_its_point_meets_no_other_point():
    points = {"left": (79, 0.618, 0.0), "top": (81.4, 0.626, 0.0), "right": (84, 0.62, 0.0)}
    far = {"low": (6, 0.39, 0.0), "high": (190, 0.87, 0.0)}
    figure = figures.score_against_cost(points | far, dict.fromkeys(points | far, "sound"), "cost")
    axis = figure.axes[0]
    figure.draw_without_rendering()
    for text in axis.texts:
        name = text.get_text()
        if name in far:
            continue
        start = Text.get_window_extent(text)
        start = np.array([start.x0 + start.x1, start.y0 + start.y1]) / 2
        own = axis.transData.transform((points | far)[name][:2])
        way = np.linspace(0, 1, 200)[:, None] * (own - start) + start
        for other in points.keys() - {name}:
            place = axis.transData.transform(points[other][:2])
            nearest = np.hypot(*(way - place).T)
            # nowhere nearer than at its own point, or farther than a marker is large
            assert nearest.argmin() == len(way) - 1 or nearest.min() > 6, (name, other)


def test_a_clip_with_neither_sound_nor_picture_cannot_be_drawn():
    with pytest.raises(ValueError, match="neither sound nor pictures"):
        figures.waveform_and_face(None, None)


def test_a_verdict_is_seen_without_colour():
    figure = figures.differences({"one": VERSUS}, "taemi")
    points = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", None, "")]
    assert [line.get_marker() for line in points] == ["v", "o", "^"]
    cells = {name: {"one": (delta, verdict)} for name, (delta, _, _, verdict) in VERSUS.items()}
    texts = [
        text.get_text()
        for text in figures.verdict_matrix(cells, {"all": list(cells)}).axes[0].texts
    ]
    assert texts == ["all", "▼ −.200", "○ +.010", "▲ +.200"]


def test_a_rounded_zero_is_written_without_its_minus():
    (_, text) = (
        figures.verdict_matrix({"a": {"one": (-0.0004, NONE)}}, {"all": ["a"]}).axes[0].texts
    )
    assert text.get_text() == "○ +.000"


def test_what_lies_beyond_the_reach_is_an_arrow_and_what_lies_within_is_where_it_was():
    near = {"near": (0.01, -0.02, 0.04, NONE), "far": (-0.3, -0.4, -0.2, "worse")}
    axis = figures.differences({"one": near}, "taemi", reach=0.05).axes[0]
    assert axis.get_xlim() == (-0.05, 0.05)
    assert [
        line.get_xdata()[0] for line in axis.lines if line.get_marker() not in ("None", None, "")
    ] == [0.01]
    assert [arrow.xy for arrow in axis.texts] == [(-0.05, 1)]


def test_saving_writes_only_on_request_and_the_same_bytes_again(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    monkeypatch.delenv(figures.REWRITE, raising=False)
    path = figures.save(figures.pipeline_diagram(), "x")
    assert not path.exists()
    monkeypatch.setenv(figures.REWRITE, "1")
    figures.save(figures.pipeline_diagram(), "x")
    first = path.read_bytes()
    figures.save(figures.pipeline_diagram(), "x")
    assert path == tmp_path / "figures/x.png" and path.read_bytes() == first
    figures.save(figures.intensities(LABELS[0]), "x", rewrite=False)
    assert path.read_bytes() == first


def test_the_browser_shows_the_chosen_clip_with_what_is_known_of_it(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    rows = [
        {"clip_id": "a", "video": "a.mp4", "split": "train", **dict.fromkeys(EMOTIONS, 0.5)},
        {"clip_id": "b", "video": "b.mp4", "split": "predict"},
    ]
    browser = widgets.clip_browser(Manifest(pd.DataFrame(rows), tmp_path, "test"), {"b": "a <b> c"})
    choice, facts, asked, shown = browser.children
    video, labels = shown.children
    assert (video.value, labels.value) == (b"a.mp4", b"")  # labels are hidden until asked for
    asked.value = True
    assert (video.value, labels.value[:4]) == (b"a.mp4", PNG)
    choice.value = "b"
    assert (video.value, labels.value) == (b"b.mp4", b"")
    assert "a &lt;b&gt; c" in facts.value and "no labels" in facts.value


def test_the_browser_hides_the_labels_until_they_are_asked_for(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a")
    row = {"clip_id": "a", "video": "a.mp4", "split": "train", **dict.fromkeys(EMOTIONS, 0.123)}
    _, facts, asked, shown = widgets.clip_browser(
        Manifest(pd.DataFrame([row]), tmp_path, "test")
    ).children
    labels = shown.children[1]
    assert asked.description == "Show labels" and not asked.disabled
    for pressed in (False, True, False):
        asked.value = pressed
        assert (labels.value[:4] == PNG) == pressed
        assert ("0.12" in facts.value) == pressed


@pytest.mark.parametrize(
    "column, heard, shown",
    [
        (None, {}, "no transcript"),
        (None, {"a": "from outside"}, "“from outside”"),
        (None, {"a": ""}, "nothing is said"),
        ("", {"a": "from outside"}, "nothing is said"),
        ("of the table", {"a": "from outside"}, "“of the table”"),
    ],
)
def test_the_browser_shows_the_words_or_says_that_there_are_none(tmp_path, column, heard, shown):
    (tmp_path / "a.mp4").write_bytes(b"a")
    row = {"clip_id": "a", "video": "a.mp4", "split": "predict"}
    row |= {} if column is None else {"transcript": column}
    manifest = Manifest(pd.DataFrame([row]), tmp_path, "test")
    _, facts, asked, _ = widgets.clip_browser(manifest, heard).children
    assert shown in facts.value and "no labels" in facts.value and asked.disabled


def test_the_browser_reads_files_anywhere_and_names_those_it_cannot_show(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    for name, size in (("a.mp4", 3), ("b.mp4", 30), ("c.mp4", 3)):
        (data / name).write_bytes(b"x" * size)
    rows = [
        {"clip_id": name[0], "video": str(data / name), "split": "predict"}
        for name in ("a.mp4", "b.mp4", "c.mp4")
    ]
    rows.append({"clip_id": "d", "audio": str(data / "a.mp4"), "split": "predict"})
    manifest = Manifest(pd.DataFrame(rows), data, "test")
    (data / "c.mp4").unlink()
    monkeypatch.setattr(widgets, "LARGEST", 10)
    choice, facts, _, shown = widgets.clip_browser(manifest).children
    assert shown.children[0].value == b"xxx"
    for clip_id, note in (("b", "too large"), ("c", "c.mp4 is missing"), ("d", "no video file")):
        choice.value = clip_id
        assert shown.children[0].value == b"" and note in facts.value


def test_the_explorer_draws_each_clip_once():
    drawn = []

    def draw(clip_id):
        drawn.append(clip_id)
        return figures.intensities(LABELS[0])

    choice, picture = widgets.attention_explorer(["a", "b"], draw).children
    for clip_id in ("b", "a", "b"):
        choice.value = clip_id
    assert drawn == ["a", "b"] and picture.value[:4] == PNG
    with pytest.raises(ValueError, match="no clips"):
        widgets.attention_explorer([], draw)


def mixed_points():
    """What the panel answers from: every score is a number of its own."""
    rows = []
    for lost in ("", "audio", "vision", "text", "audio+vision", "audio+text", "vision+text"):
        for sound in (0,) if {"audio", "text"} <= set(lost.split("+")) else (0, 3):
            for picture in (0,) if "vision" in lost else (0, 5):
                for system, verdict in (("taemi", None), ("<b>", "worse")):
                    rho = round(0.9 - 0.01 * len(rows), 2)
                    rows.append((lost, sound, picture, system, rho, verdict))
    return pd.DataFrame(rows, columns=["lost", "sound", "picture", "system", "rho", "verdict"])


def test_every_answer_of_the_robustness_panel_is_a_row_of_its_table():
    points = mixed_points()
    assert points["rho"].is_unique
    said = {0: "none", 3: "15 dB"}, {0: "none", 5: "6 stops"}
    switches, sound, picture, answer = widgets.robustness_panel(points, *said).children
    assert [text for text, _ in sound.options] == ["none", "15 dB"]

    def expected(lost, *levels):
        own = points[points["lost"] == lost]
        own = own[(own["sound"] == levels[0]) & (own["picture"] == levels[1])]
        assert len(own) == 2
        return all(f"{rho:.2f}" in answer.value for rho in own["rho"])

    assert expected("", 0, 0) and "worse" in answer.value
    assert "<b>" not in answer.value and "&lt;b&gt;" in answer.value
    sound.value, picture.value = 3, 5
    assert expected("", 3, 5)
    hear, see, read = switches.children
    see.value = False
    assert expected("vision", 3, 0) and picture.disabled and not sound.disabled
    hear.value = False
    assert expected("audio+vision", 3, 0) and not sound.disabled  # words were heard in the noise
    read.value = False
    assert "Nothing is left" in answer.value
    see.value = True
    assert expected("audio+text", 0, 5) and sound.disabled and not picture.disabled
    with pytest.raises(ValueError, match="empty"):
        widgets.robustness_panel(points[:0], *said)


def test_loss_curves_say_what_a_mark_means_only_where_there_is_one():
    marked = FIGURES["losses"]()
    assert "a 0.90 to 0.40" in marked.alt and "b 0.70 to 0.60" in marked.alt
    assert "better than taemi" in marked.legends[0].get_title().get_text()
    plain = figures.loss_curves({"x": {"a": ([0, 0.5], [0.9, 0.4], [0, 0])}})
    assert not plain.legends[0].get_title().get_text()

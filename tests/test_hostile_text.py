"""What a table or a file says about a clip stays text wherever it is shown: in widgets, tables,
exported notebooks and figures."""

import datetime
import time
from html.parser import HTMLParser

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from inputs import write_clip
from nbconvert import HTMLExporter
from nbformat import v4

from taemi_lib import figures
from taemi_lib.data import read_csv
from taemi_lib.data.media import Audio, Frames
from taemi_lib.errors import ManifestError
from taemi_lib.figures import clips as panels
from taemi_lib.figures import widgets
from taemi_lib.prediction import tables
from taemi_lib.prediction.answer import Prediction
from taemi_lib.prediction.inputs import find
from taemi_lib.support import naming

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"quoted\" 'so' &amp;"
FORMULAS = "it cost $5 and $x^2$, $\\frac{$ no more \\$"  # the second is no formula of matplotlib's
SOUND = Audio(np.zeros(1600, np.float32), 0.1)
PICTURES = Frames(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1))


class Page(HTMLParser):
    """The tags of some HTML, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.said = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.said += data


@pytest.fixture
def table(tmp_path):
    """Clips of a CSV whose every free cell is hostile; one has its file, one says nothing."""
    names = ["<img src=x onerror=alert(2)>.mp4", "plain.mp4"]
    for name in names:
        (tmp_path / name).touch()
    rows = {"clip_id": ["a", "b"], "video": names, "transcript": [HOSTILE, ""], "group": HOSTILE}
    pd.DataFrame(rows).to_csv(tmp_path / "clips.csv", index=False)
    return read_csv(tmp_path / "clips.csv")


# --- widgets


def test_the_clip_browser_shows_words_and_names_as_they_are(table, monkeypatch, tmp_path):
    facts = widgets.clip_browser(table).children[1]
    page = Page(facts.value)
    assert HOSTILE in page.said and set(page.tags) == {"b", "br"}
    # what was heard, and what is said of a file that is too large or gone by now
    monkeypatch.setattr(widgets, "LARGEST", -1)
    choice, facts, *_ = widgets.clip_browser(table, {"b": HOSTILE}).children
    assert "<img src=x onerror=alert(2)>.mp4 is too large" in Page(facts.value).said
    table["a"].video.unlink()
    choice.value = "b"
    choice.value = "a"
    page = Page(facts.value)
    assert "<img src=x onerror=alert(2)>.mp4 is missing" in page.said
    assert set(page.tags) == {"b", "br"}


@pytest.mark.parametrize("clip_id", ["<b>x", "=1+1", "@x", "-x", "+x", "\tx", "$x$", '"x', "&lt;x"])
def test_ids_of_tables_can_neither_be_html_nor_formulas(clip_id, tmp_path):
    """Ids reach figures, widgets, submissions and masks.csv, which their rule keeps safe."""
    (tmp_path / "a.mp4").touch()
    cells = pd.DataFrame({"clip_id": ["fine", clip_id], "video": "a.mp4"})
    cells.to_csv(tmp_path / "clips.csv", index=False)
    if clip_id.strip() != clip_id:  # spaces around a cell are not part of it
        assert read_csv(tmp_path / "clips.csv").clip_ids == ["fine", clip_id.strip()]
        return
    with pytest.raises(ManifestError, match="row 3, column clip_id"):
        read_csv(tmp_path / "clips.csv")


def upload(button, *names, content=b"xxx"):
    when = datetime.datetime(2026, 1, 1)
    button.value = [
        {"name": name, "type": "", "size": 3, "content": content, "last_modified": when}
        for name in names
    ]


@pytest.mark.parametrize(
    ("name", "begins", "ends"),
    [
        ("smile_2-b.mp4", "smile_2-b", ".mp4"),
        ("x.<b>y", "x-", ".by"),
        ("x.m\x00p\n4", "x-", ".mp4"),
        ("..", "clip-", ""),
        ("", "clip-", ""),
        ("CON.mp4", "CON-", ".mp4"),
        ("../=cmd|' /C calc'!A0.csv", "", ".csv"),
        ("caf\udce9.mp4", "caf-", ".mp4"),
        ("日本.mp4", "clip-", ".mp4"),
        ("$HOME`id`;rm.mov", "HOME_id_rm-", ".mov"),
    ],
)
def test_an_upload_lands_in_its_folder_under_a_harmless_name(name, begins, ends, tmp_path):
    button, said = widgets.uploader(tmp_path / "new").children
    upload(button, name)
    (kept,) = (tmp_path / "new").iterdir()
    assert kept.read_bytes() == b"xxx" and kept.name.startswith(begins) and kept.suffix == ends
    assert set(kept.name) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
    )
    assert not Page(said.value).tags and [path.name for path in tmp_path.iterdir()] == ["new"]


def test_uploads_that_differ_by_little_are_all_kept(tmp_path):
    button, _ = widgets.uploader(tmp_path).children
    names = ["a b.mp4", "a_b.mp4", "a  b.mp4", "a_b.MP4", "a" * 90 + "1.mp4", "a" * 90 + "2.mp4"]
    upload(button, *names)
    assert len(list(tmp_path.iterdir())) == len(names)


def test_the_button_lets_go_of_what_was_uploaded(tmp_path):
    """Else a notebook that is saved with its widgets would hold the recording and its name."""
    button, said = widgets.uploader(tmp_path).children
    upload(button, "mine.mp4")
    assert button.value == () and "mine.mp4: 0.0 MB" in said.value
    upload(button, "next.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.mp4", "next.mp4"]


# --- tables and pages


def test_a_table_in_a_notebook_escapes_its_cells(table):
    """Notebook 01 shows the table, 02 the reasons, 06 and 07 theirs by to_html."""
    shown = table.table.reset_index()
    shown.columns = [f"<i>{name}" for name in shown.columns]
    plain = {"table", "thead", "tbody", "tr", "th", "td", "div", "style"}
    with pd.option_context("display.max_colwidth", None):
        for html in (shown._repr_html_(), shown.to_html(na_rep="-")):
            page = Page(html)
            assert HOSTILE in page.said and set(page.tags) <= plain


def test_an_exported_notebook_escapes_what_its_cells_say():
    """The exporter's part, held here to what the course relies on: alternative texts, output of
    print, errors, parameters, and the state of widgets."""
    picture = v4.new_output(
        "display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": HOSTILE}}
    )
    printed = v4.new_output("stream", name="stdout", text=HOSTILE)
    failed = v4.new_output("error", ename="E", evalue=HOSTILE, traceback=[HOSTILE])
    cell = v4.new_code_cell(f"clips = [{HOSTILE!r}]", outputs=[picture, printed, failed])
    kind = "application/vnd.jupyter.widget-state+json"
    state = {"state": {"a": {"state": {"value": HOSTILE}}}, "version_major": 2}
    hostile = v4.new_notebook(cells=[cell], metadata={"widgets": {kind: state}})
    calm = v4.new_notebook(cells=[v4.new_code_cell("x")], metadata={"widgets": {kind: {}}})
    pages = [
        Page(HTMLExporter(template_name="classic").from_notebook_node(book)[0])
        for book in (hostile, calm)
    ]
    scripts = [page.tags.count("script") for page in pages]
    images = [page.tags.count("img") for page in pages]
    assert scripts[0] == scripts[1] and images[0] == images[1] + 1  # the picture itself


# --- figures


def drawn(figure):
    """(text, whether a formula in it would be read as such) of a figure that can be drawn."""
    figure.png()
    texts = figure.findobj(matplotlib.text.Text)
    return [(text.get_text(), text.get_parse_math()) for text in texts]


WORDS = [(FORMULAS, 0.0)]
TEXTS = {
    "words": lambda: figures.waveform_and_face(SOUND, None, WORDS),
    "transcript": lambda: figures.waveform_and_face(SOUND, None, (), FORMULAS),
    "title": lambda: figures.waveform_and_face(SOUND, None, title=FORMULAS),
    "caption": lambda: figures.contact_sheet([PICTURES, None], [FORMULAS, "b"]),
    "explorer": lambda: figures.attention_explorer_figure(
        attention={}, times={}, audio=SOUND, words=WORDS, title=FORMULAS
    ),
    "explorer's transcript": lambda: figures.attention_explorer_figure(
        attention={}, times={}, audio=SOUND, transcript=FORMULAS
    ),
}


@pytest.mark.parametrize("make", TEXTS.values(), ids=TEXTS.keys())
def test_dollar_signs_of_a_clip_begin_no_formula(make):
    """matplotlib would show "$x^2$" as a formula and fail on one that it cannot read."""
    texts = [(text, math) for text, math in drawn(make()) if "cost" in text]
    assert texts and all(FORMULAS in text and math is False for text, math in texts)


def test_a_book_as_transcript_is_drawn_as_its_beginning():
    book = "once upon a time " * 20_000
    many = [(word, number / 1000) for number, word in enumerate(book.split())]
    start = time.perf_counter()
    for figure in (
        figures.waveform_and_face(SOUND, None, (), book),
        figures.waveform_and_face(SOUND, None, many),
        figures.waveform_and_face(SOUND, None, [("w" * 100_000, 0.0)]),
    ):
        longest = max(len(text) for text, _ in drawn(figure))
        assert longest <= 700 and len(figure.alt) < 800
    assert time.perf_counter() - start < 20  # whole, each would take minutes


def test_words_stay_at_their_times_as_long_as_there_is_room():
    words = [(f"w{number}", number / 1000) for number in range(panels.MOST_WORDS)]
    shown = [text for text, _ in drawn(figures.waveform_and_face(SOUND, None, words))]
    assert {word for word, _ in words} <= set(shown)


# --- names that are no text


def test_a_file_name_of_bytes_that_are_no_text_is_a_clip_like_others(tmp_path):
    marks = {naming.mark(name) for name in ("caf\udce9", "caf\udce8", "café")}
    assert len(marks) == 3
    try:
        write_clip(tmp_path / "plain.mp4", 0.5).rename(tmp_path / "caf\udce9.mp4")
    except OSError as error:
        pytest.skip(f"this file system takes text alone as names: {error}")
    (clip,) = find([tmp_path]).clips
    assert clip.clip_id.isascii() and clip.video.name == "caf\udce9.mp4"
    assert list(find([tmp_path]).names.values()) == ["caf[U+DCE9].mp4"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31m\n\t.mp4", "a[U+001B][31m[U+000A][U+0009].mp4"),
        ("\u202e4pm.exe", "[U+202E]4pm.exe"),
        ("日本 é\u0301 👩\u200d🚀 $x$ <b>.mp4", "日本 é\u0301 👩\u200d🚀 $x$ <b>.mp4"),
    ],
)
def test_what_cannot_be_seen_of_a_name_is_written_out(name, shown):
    """A terminal would obey it, a table break, and print fail on what is no text."""
    assert naming.visible(name) == shown
    assert naming.visible(shown) == shown
    said = str(Prediction("a", {"Joy": 0.5}, name))
    assert f'heard: "{shown}"' in said and said.isprintable() is False  # of lines, nothing else
    assert all(line.isprintable() or "\u200d" in line for line in said.splitlines())


# --- tables for spreadsheets


@pytest.mark.parametrize(
    ("cell", "kept"),
    [
        ("so glad; then", "so glad; then"),
        ("well-known a=b 1+1", "well-known a=b 1+1"),
        ("＝1+1", "'＝1+1"),
        ("\xa0=1", "'\xa0=1"),
        ("\x00=1", "'\x00=1"),
        ("\ufeff@x", "'\ufeff@x"),
        ("\tso", "'\tso"),
        ("x;=1", "x;'=1"),  # where a comma is the decimal point, cells are split at semicolons
        ("x; +1\n\t-2", "x;' +1\n'\t-2"),
        ("caf\udce9", "caf\\udce9"),
    ],
)
def test_a_cell_stays_text_whichever_spreadsheet_opens_it(cell, kept):
    assert tables.as_text(cell) == kept


def test_a_table_of_names_that_are_no_text_can_be_written(tmp_path):
    nameless = Prediction("caf\udce9.mp4", {"Joy": 0.5}, "\udce9", absent={"vision": "\udce9"})
    tables.write_table([nameless], tmp_path / "t.csv")
    assert "caf\\udce9.mp4" in (tmp_path / "t.csv").read_text("utf-8")

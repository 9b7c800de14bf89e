"""The report and the figures of a prediction: what a reader sees, and nothing that a file says
becomes part of the page."""

import datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from inputs import write_clip

from taemi_lib.features.sequences import Word
from taemi_lib.figures import predictions as drawn
from taemi_lib.figures import report, widgets
from taemi_lib.prediction.answer import Attention, Distance, Outside, Prediction
from taemi_lib.profiles import EMOTIONS

HOSTILE = "<script>alert(1)</script><img src=x onerror=y> \"'& $x^2$ \u202e"
VALUES = dict(zip(EMOTIONS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)))


def prediction(clip="a.mp4", **changes):
    times = tuple(np.arange(0.05, 1, 0.1).tolist())
    weights = np.full(10, 0.02)
    weights[[2, 7]] = 0.5, 0.34
    given = {
        "values": VALUES,
        "transcript": "so glad",
        "words": (Word("so", 0.1, 0.3), Word("glad", 0.4, 0.8)),
        "low": dict.fromkeys(EMOTIONS, 0.05),
        "high": dict.fromkeys(EMOTIONS, 0.7),
        "interval": "90% intervals",
        "attention": {
            name: Attention(times, tuple(weights.tolist())) for name in ("audio", "vision")
        },
        "without": {name: {e: v / 2 for e, v in VALUES.items()} for name in ("audio", "text")},
        "outside": Outside({"audio": Distance(0.5, 1.5)}),
    }
    return Prediction(clip, **(given | changes))


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.said = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_data(self, data):
        self.said += data


@pytest.fixture
def page(tmp_path):
    def made(*predictions):
        report.write_report(predictions, tmp_path / "new" / "r.html")
        return Page((tmp_path / "new" / "r.html").read_text("utf-8"))

    return made


def test_a_report_says_everything_about_a_clip(page, tmp_path):
    found = page((prediction(), write_clip(tmp_path / "a.mp4")))
    for words in ("a.mp4", "so glad", "0.60", "0.05 to 0.70", "without audio", "90% intervals"):
        assert words in found.said
    assert found.said.count("hiring") == 2  # the notice, first and last
    assert found.tags.count("img") == 4
    assert "outside its world" not in found.said


def test_nothing_comes_from_elsewhere_and_nothing_runs(page, tmp_path):
    found = page((prediction(), write_clip(tmp_path / "a.mp4")))
    assert "script" not in found.tags and "link" not in found.tags
    for _tag, name, value in found.attributes:
        if name == "src":
            assert value.startswith("data:image/png;base64,")
        if name == "href":
            assert value.startswith("#clip")
        assert not name.startswith("on")
    assert all(
        dict_alt for tag, name, dict_alt in found.attributes if (tag, name) == ("img", "alt")
    )


def test_what_a_file_says_stays_text(page, tmp_path):
    everywhere = prediction(
        HOSTILE,
        transcript=HOSTILE,
        words=(Word(HOSTILE, 0.1, 0.2),),
        absent={"vision": HOSTILE},
        damaged={"audio": HOSTILE},
        notes={"audio": HOSTILE},
        language=HOSTILE,
        interval=HOSTILE,
    )
    calm, hostile = page((prediction(), None)), page((everywhere, None))
    assert "script" not in hostile.tags and hostile.said.count(HOSTILE) >= 7
    new = [tag for tag in hostile.tags if tag not in {*calm.tags, "ul", "li"}]
    assert new == [] and hostile.tags.count("img") == calm.tags.count("img")


def test_warnings_stand_where_they_belong(page):
    beyond = prediction("odd.mp4", outside=Outside({"vision": Distance(3.0, 1.5)}))
    nothing = prediction(
        "broken.mp4",
        absent=dict.fromkeys(["audio", "vision", "text"], "not a media file"),
        all_absent=True,
        attention=None,
        without={},
        low=None,
        high=None,
        outside=None,
    )
    found = page((beyond, None), (nothing, None), (prediction(attention=None), None))
    assert "neither the numbers nor the intervals can be relied on" in found.said
    assert "vision 3.0 of 1.5 (beyond)" in found.said
    assert "there are no numbers" in found.said and "not a media file" in found.said


def test_figures_say_in_words_what_they_show(tmp_path):
    film = write_clip(tmp_path / "a.mp4")
    assert "Joy 0.60" in drawn.intensities(prediction()).alt
    assert "promise 90%" in drawn.intensities(prediction()).alt
    assert "by up to 0.30 without audio" in drawn.without(prediction()).alt
    assert "0.8 s" in drawn.moments(prediction(), film, 2).alt
    assert drawn.attention(prediction(), film).alt and drawn.attention(prediction()).alt
    for asked in (lambda: drawn.attention(prediction(attention=None)),):
        with pytest.raises(ValueError, match="no attention"):
            asked()
    with pytest.raises(ValueError, match="no pictures"):
        drawn.moments(prediction(), None)


def test_moments_are_the_highest_weights_and_no_neighbours():
    weights = np.array([0.0, 0.3, 0.29, 0.0, 0.0, 0.2, 0.0, 0.0, 0.1, 0.11, 0.0])
    times = np.arange(11.0)
    assert drawn._apart(weights, times, 3) == [1, 2, 5]  # a second is a tenth of the clip
    assert drawn._apart(weights, times / 2 + np.arange(11) * 0.4, 3) == [1, 2, 5]
    close = np.linspace(0, 1, 101)
    peaks = np.exp(-(((close - 0.5) / 0.02) ** 2))
    assert all(abs(close[a] - 0.5) >= 0.1 for a in drawn._apart(peaks, close, 3)[1:])


def test_an_uploaded_file_gets_a_harmless_name(tmp_path):
    folder = tmp_path / "uploads"
    button, said = widgets.uploader(folder, largest=10).children
    names = ["../../evil.mp4", "C:\\temp\\a b<b>.MP4", ".hidden", "large.mp4"]
    button.value = [
        {"name": name, "type": "", "size": 3, "content": b"x" * (11 if "large" in name else 3)}
        | {"last_modified": datetime.datetime(2026, 1, 1)}
        for name in names
    ]
    kept = sorted(path.name for path in folder.iterdir())
    assert len(kept) == 3 and not any(name.startswith(".") for name in kept)
    assert all("/" not in name and "<" not in name for name in kept)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["uploads"]
    assert "large.mp4: refused" in said.value and "<b>" not in said.value

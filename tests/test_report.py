"""The report and the figures of a prediction: what a reader sees, and nothing that a file says
becomes part of the page."""

import datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from inputs import write_clip, write_mp4

from taemi_lib import figures
from taemi_lib.data.media import Audio
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
    for words in ("a.mp4", "so glad", "0.60", "0.05 to 0.70", "without sound", "90% intervals"):
        assert words in found.said
    assert found.said.count("hiring") == 3  # the notice: first, last, and in print for each clip
    assert found.tags.count("img") == 3 + 2  # three figures, two frames above the even share
    assert "outside its world" not in found.said


def test_nothing_comes_from_elsewhere_and_nothing_runs(page, tmp_path):
    found = page((prediction(), write_clip(tmp_path / "a.mp4")))
    assert "script" not in found.tags and "link" not in found.tags
    for _tag, name, value in found.attributes:
        if name == "src":
            assert value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
        if name == "href":
            assert value.startswith(("#clip", "#top"))
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
    assert "script" not in hostile.tags
    assert hostile.said.count(HOSTILE.replace("\u202e", "[U+202E]")) >= 7
    assert "\u202e" not in hostile.said
    new = [tag for tag in hostile.tags if tag not in {*calm.tags, "ul", "li", "strong"}]
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
    assert found.said.count("Neither the numbers nor the intervals can be relied on") == 1
    assert "picture: distance 3.00; at most 1 of 100 known clips lies beyond 1.50" in found.said
    assert "so no numbers are shown" in found.said and "not a media file" in found.said


def test_bytes_that_are_no_text_and_scripts_without_glyphs_are_no_fault(page, recwarn):
    odd = prediction("\udcff\ud800\x00.mp4", transcript="你好", words=(Word("你好", 0.1, 0.2),))
    found = page((odd, None))
    assert "[U+DCFF][U+D800][U+0000].mp4" in found.said and "你好" in found.said
    assert not [one for one in recwarn if "Glyph" in str(one.message)]


def test_what_cannot_be_shown_says_why(page, tmp_path):
    gone = page((prediction(), tmp_path / "gone.mp4"), (prediction(attention=None), None))
    assert "No such file" in gone.said and "does not attend with a query" in gone.said
    for seconds, why in ((0.3, "no frames in the video track"), (0.5, "no frame at 0.8 s")):
        short = write_clip(tmp_path / "short.mp4", seconds=seconds)
        assert why in page((prediction(), short)).said
    assert "No clip was predicted" in page().said


def test_clips_after_the_first_ones_have_tables_only_and_the_page_says_so(tmp_path):
    path = tmp_path / "r.html"
    report.write_report([(prediction(), None)] * 3, path, pictures=1)
    found = Page(path.read_text("utf-8"))
    assert found.tags.count("img") == 3 and "first 1 of 3 clips" in found.said
    assert found.said.count("0.05 to 0.70") == 3 * len(EMOTIONS)


def test_figures_say_in_words_what_they_show(tmp_path):
    film = write_clip(tmp_path / "a.mp4")
    assert "Joy 0.60 (0.05 to 0.70)" in drawn.intensities(prediction()).alt
    assert "90% intervals" in drawn.intensities(prediction()).alt
    assert "without sound Joy moves most, from 0.60 to 0.30" in drawn.without(prediction()).alt
    assert "2 frames" in drawn.moments(prediction(), film).alt
    assert "0.3 s (50%) and 0.8 s (34%)" in drawn.moments(prediction(), film).alt
    assert "picture highest at 0.3 s (50% of it)" in drawn.attention(prediction()).alt
    with pytest.raises(ValueError, match="does not attend"):
        drawn.attention(prediction(attention=None))
    with pytest.raises(ValueError, match="no video file"):
        drawn.moments(prediction(), None)
    with pytest.raises(ValueError, match="could be left out"):
        drawn.without(prediction(without={}))


def test_a_frame_is_the_one_at_its_time_however_late(tmp_path):
    """Not one of the first 400, and not the one beside it."""
    times = [index / 20 for index in range(500)]
    film = write_mp4(
        tmp_path / "long.mp4", frame_times=times, shade=lambda i: 200 if i == 470 else 40
    )
    weights = np.full(500, 0.5 / 499)
    weights[470] = 0.5
    branch = Attention(tuple(np.float32(times).tolist()), tuple(weights.tolist()))
    (moment,) = drawn.looked_at(prediction(attention={"vision": branch}), film, 1)
    assert moment.time == pytest.approx(23.5) and moment.image.mean() > 150


def test_moments_are_the_highest_weights_no_neighbours_and_above_the_even_share():
    weights = np.array([0.0, 0.3, 0.29, 0.0, 0.0, 0.2, 0.0, 0.0, 0.1, 0.11, 0.0])
    times = np.arange(11.0)

    def found(step, count=4):
        branch = Attention(tuple((times * step).tolist()), tuple(weights.tolist()))
        return drawn.highest(branch, count)

    assert found(1.0, 3) == [1, 2, 5]  # a second is a tenth of the clip
    assert found(1.0) == [1, 2, 5, 9]
    assert found(1.0, 11) == [1, 2, 5, 8, 9]  # the others got less than an even share
    close = Attention(tuple(np.linspace(0, 1, 101).tolist()), (0.01,) * 50 + (0.02,) + (0.01,) * 50)
    assert 50 in drawn.highest(close, 3)
    assert np.diff([close.times[step] for step in drawn.highest(close, 3)]).min() >= 0.1
    even = Attention((0.0, 1.0, 2.0), (1 / 3,) * 3)
    assert drawn.highest(even, 2) == [0, 1]


def test_dollar_signs_of_a_clip_begin_no_formula():
    """A formula that is none would raise when it is drawn."""
    price = prediction(words=(Word("$\\frac$", 0.1, 0.3),))
    assert drawn.attention(price).png()
    sound = Audio(np.zeros(1600, np.float32), 0.1)
    for words, said in (([("$\\frac$", 0.0)], ""), ((), "$\\frac$")):
        assert figures.waveform_and_face(sound, None, words, said, "clip $\\frac$").png()
    assert figures.contact_sheet([None], ["$\\frac$"]).png()


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

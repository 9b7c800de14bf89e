"""Pictures as a player shows them: turned, mirrored, with square pixels, evenly spread in time."""

import os
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from inputs import set_matrix, tone, write_clip, write_pictures

from taemi_lib.data.media import Unreadable, picture, read_audio, read_frames

RED, GREEN, BLUE, BLACK = (220, 20, 20), (20, 200, 20), (20, 20, 220), (10, 10, 10)

QUIET = {"libx265": {"x265-params": "log-level=error"}}


def quarters(height=48, width=64):
    """(H, W, 3): red, green / blue, black."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, BLACK
    return image


def seen(image):
    """The colours of the four quarters, row by row."""
    height, width = image.shape[:2]
    names = {"red": RED, "green": GREEN, "blue": BLUE, "black": BLACK}
    found = []
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            away = {name: np.abs(image[y, x] - np.array(rgb)).sum() for name, rgb in names.items()}
            found.append(min(away, key=away.get))
    return found


@pytest.mark.parametrize(
    ("matrix", "shown", "turned"),
    [
        ((1, 0, 0, 1), ["red", "green", "blue", "black"], False),
        ((-1, 0, 0, 1), ["green", "red", "black", "blue"], False),  # a selfie, mirrored
        ((1, 0, 0, -1), ["blue", "black", "red", "green"], False),
        ((-1, 0, 0, -1), ["black", "blue", "green", "red"], False),
        ((0, 1, -1, 0), ["blue", "red", "black", "green"], True),  # clockwise
        ((0, -1, 1, 0), ["green", "black", "red", "blue"], True),
        ((0, 1, 1, 0), ["red", "blue", "green", "black"], True),  # along the diagonal
        ((0, -1, -1, 0), ["black", "green", "blue", "red"], True),
    ],
)
def test_the_whole_display_matrix_is_followed(tmp_path, matrix, shown, turned):
    path = write_pictures(tmp_path / "a.mp4", np.stack([quarters()] * 3), [0, 0.1, 0.2])
    frames = read_frames(set_matrix(path, matrix))
    assert frames.images.shape == ((3, 64, 48, 3) if turned else (3, 48, 64, 3))
    assert all(seen(image) == shown for image in frames.images)


@pytest.mark.parametrize(("space", "kind"), [("ITU601", 5), ("ITU709", 1)])
@pytest.mark.parametrize(("extent", "flag"), [("MPEG", 1), ("JPEG", 2)])
@pytest.mark.parametrize(
    ("codec", "layout"),
    [("libx264", "yuv420p"), ("libx264", "yuv444p"), ("libx265", "yuv420p10le")],
)
def test_colours_are_those_that_the_file_says(tmp_path, space, kind, extent, flag, codec, layout):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"crf": "1"} | QUIET.get(codec, {}))
        stream.height, stream.width, stream.pix_fmt = 48, 64, layout
        stream.codec_context.colorspace, stream.codec_context.color_range = kind, flag
        picture = av.VideoFrame.from_ndarray(quarters(), format="rgb24")
        picture = picture.reformat(format=layout, dst_colorspace=space, dst_color_range=extent)
        picture.colorspace, picture.color_range, picture.pts = kind, flag, 0
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    found = read_frames(path).images[0]
    for y, x in ((12, 16), (12, 48), (36, 16), (36, 48)):
        assert np.abs(found[y, x].astype(int) - quarters()[y, x]).max() <= 5


@pytest.mark.parametrize(
    ("pixel", "shape"),
    [(Fraction(2), (48, 128)), (Fraction(1, 2), (48, 32)), (Fraction(1, 20), (48, 64))],
)
def test_pixels_are_made_square(tmp_path, pixel, shape):
    path = write_pictures(tmp_path / "a.mp4", quarters()[None], [0], pixel=pixel)
    frames = read_frames(path)
    assert frames.images.shape[1:3] == shape
    impossible = pixel == Fraction(1, 20)
    assert frames.note == ("pixels of the shape 1:20 are taken for square" if impossible else "")


def test_pixels_are_made_square_before_the_picture_is_turned(tmp_path):
    path = write_pictures(tmp_path / "a.mp4", quarters()[None], [0], pixel=Fraction(2))
    assert read_frames(set_matrix(path, (0, 1, -1, 0))).images.shape == (1, 128, 48, 3)


def test_a_turn_that_is_no_quarter_is_said(tmp_path):
    path = write_pictures(tmp_path / "a.mp4", quarters()[None], [0])
    tilted = read_frames(set_matrix(path, (0.866, 0.5, -0.5, 0.866)))
    assert tilted.note == "turned by 30 degrees: shown by the nearest quarter"
    assert seen(tilted.images[0]) == ["red", "green", "blue", "black"]


def test_uniform_frames_are_uniform_in_time_also_at_variable_rate(tmp_path):
    times = np.concatenate([np.arange(0, 1, 0.02), np.arange(1, 10.01, 0.5)])  # 50/s, then 2/s
    images = np.zeros((len(times), 16, 16, 3), np.uint8)
    path = write_pictures(tmp_path / "a.mp4", images, times)
    found = read_frames(path, 11, "uniform").times
    np.testing.assert_allclose(found, np.arange(11), atol=0.02)
    assert len(read_frames(path, 1000, "uniform").times) == len(times)
    few = read_frames(path, 40, "uniform").times  # more than the slow part has
    assert len(np.unique(few)) == len(few) <= 40 and few[-1] == pytest.approx(10, abs=0.01)


def test_stamps_of_another_clock_do_not_stretch_uniform_frames(tmp_path):
    times = [*np.arange(0, 2, 0.1), 9000.0, 9000.1]
    images = np.zeros((len(times), 16, 16, 3), np.uint8)
    path = write_pictures(tmp_path / "a.mkv", images, times)
    found = read_frames(path, 5, "uniform")
    np.testing.assert_allclose(found.times, np.linspace(0, 1.9, 5), atol=0.051)
    first = read_frames(path)
    assert len(first.times) == 20 and "2 frames with impossible times" in first.damage


def test_of_a_cut_file_uniform_frames_are_those_that_are_there(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 4.0, options={"movflags": "faststart"}, sound=None)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    found = read_frames(path, 4, "uniform")
    assert 2 <= len(found.times) <= 4 and found.damage.startswith("truncated: ")
    assert found.times.max() < 3


def test_the_frames_that_were_chosen_are_the_ones_that_come(tmp_path):
    """Also with frames that depend on later ones, which are stored in another order."""
    times = np.arange(0, 3, 0.1)
    images = np.stack([np.full((16, 16, 3), 8 * k, np.uint8) for k in range(30)])
    path = write_pictures(tmp_path / "a.mp4", images, times, {"bf": "3", "g": "30"})
    found = read_frames(path, 4, "uniform")
    for image, time in zip(found.images, found.times):
        assert image.mean() / 8 == pytest.approx(round(time * 10), abs=0.6)


def test_the_cover_of_a_song_is_no_film(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(quarters(), format="rgb24")))
        container.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(1), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(Unreadable, match="no video track"):
        read_frames(path)
    assert read_audio(path).note == ""


def test_very_large_frames_come_small(tmp_path):
    path = write_pictures(tmp_path / "a.mp4", np.zeros((1, 40, 4000, 3), np.uint8), [0])
    assert read_frames(path).images.shape == (1, 5, 512, 3)


def test_frames_beyond_any_camera_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4")
    monkeypatch.setattr(picture, "LARGEST", 32 * 32 - 1)
    with pytest.raises(Unreadable, match="pictures of 32 x 32 pixels: too large"):
        read_frames(path)


# --- what FFmpeg says


def test_a_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    write_clip(tmp_path / "2024-05-01T12:30:00.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read_frames("2024-05-01T12:30:00.mp4").images) == 10
    assert read_audio("2024-05-01T12:30:00.mp4").duration == pytest.approx(1, abs=0.1)


def test_an_index_that_is_there_is_not_called_missing(tmp_path):
    path = write_clip(tmp_path / "a.mp4", sound=tone(1))
    data = path.read_bytes()
    at = data.index(b"moov")
    without = tmp_path / "b.mp4"
    without.write_bytes(data[: at - 4])
    with pytest.raises(Unreadable, match="^truncated: the file's index is missing$"):
        read_frames(without)
    broken = bytearray(data)
    broken[at + 4 :] = b"\xff" * (len(data) - at - 4)
    without.write_bytes(broken)
    with pytest.raises(Unreadable) as caught:
        read_frames(without)
    assert "missing" not in caught.value.reason


def test_an_error_while_a_frame_is_scaled_is_a_reason(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4")
    monkeypatch.setattr(picture, "_size", lambda *_: ((-5, 10), ""))
    with pytest.raises(Unreadable, match="^damaged: "):
        read_frames(path)


def test_a_playlist_is_no_media_file(tmp_path):
    """It would have other files read, or addresses asked."""
    clip = write_clip(tmp_path / "a.mp4")
    for name, text in {
        "b.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
        "c.mp4": "ffconcat version 1.0\nfile a.mp4\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(Unreadable):
            read_audio(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    said = []

    def read():
        try:
            read_audio(tmp_path / "a.mp4")
        except Unreadable as error:
            said.append(error.reason)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert said == ["cannot be read: not a file"]


# --- times that no frame can have


@pytest.mark.parametrize("choice", ["first", "uniform"])
def test_pictures_before_the_start_of_their_file_are_left_out(tmp_path, monkeypatch, choice):
    path = write_clip(tmp_path / "a.mp4")  # ten frames
    true = picture.Decoder.time
    monkeypatch.setattr(picture.Decoder, "time", lambda self, frame: true(self, frame) - 0.35)
    frames = read_frames(path, choice=choice)
    assert frames.times == pytest.approx(np.arange(0.05, 0.6, 0.1))
    assert "4 frames with impossible times are left out" in frames.damage


@pytest.mark.parametrize("choice", ["first", "uniform"])
def test_times_increase_also_when_they_are_rounded(tmp_path, monkeypatch, choice):
    path = write_clip(tmp_path / "a.mp4")
    true = picture.Decoder.time
    # 0.1 ms apart; late in a film float32 knows quarters of a millisecond
    monkeypatch.setattr(
        picture.Decoder, "time", lambda self, frame: 3000 + true(self, frame) / 1000
    )
    frames = read_frames(path, choice=choice)
    assert len(frames.times) > 1 and (np.diff(frames.times) > 0).all()
    assert "impossible times" in frames.damage

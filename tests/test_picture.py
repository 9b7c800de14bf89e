"""Pictures as a player shows them: turned, mirrored, with square pixels, evenly spread in time."""

from fractions import Fraction

import av
import numpy as np
import pytest
from inputs import set_matrix, tone, write_clip, write_pictures

from taemi_lib.data.media import Unreadable, read_audio, read_frames

RED, GREEN, BLUE, BLACK = (220, 20, 20), (20, 200, 20), (20, 20, 220), (10, 10, 10)


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


@pytest.mark.parametrize(
    ("pixel", "shape"),
    [(Fraction(2), (48, 128)), (Fraction(1, 2), (48, 32)), (Fraction(1, 1000), (48, 64))],
)
def test_pixels_are_made_square(tmp_path, pixel, shape):
    path = write_pictures(tmp_path / "a.mkv", quarters()[None], [0], pixel=pixel)
    assert read_frames(path).images.shape[1:3] == shape


def test_uniform_frames_are_uniform_in_time_also_at_variable_rate(tmp_path):
    times = np.concatenate([np.arange(0, 1, 0.02), np.arange(1, 10.01, 0.5)])  # 50/s, then 2/s
    images = np.zeros((len(times), 16, 16, 3), np.uint8)
    path = write_pictures(tmp_path / "a.mp4", images, times)
    found = read_frames(path, 11, "uniform").times
    np.testing.assert_allclose(found, np.arange(11), atol=0.02)
    assert len(read_frames(path, 1000, "uniform").times) == len(times)
    few = read_frames(path, 40, "uniform").times  # more than the slow part has
    assert len(np.unique(few)) == len(few) <= 40 and few[-1] == pytest.approx(10, abs=0.01)


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

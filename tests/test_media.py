"""Decoding: what comes out of ordinary, odd and broken files."""

import numpy as np
import pytest
from inputs import tone, write_clip, write_mp4, write_wav

from taemi_lib.data import media
from taemi_lib.data.media import Unreadable, read_audio, read_frames


def reason(read, path):
    with pytest.raises(Unreadable) as caught:
        read(path)
    return caught.value.reason


def frequency(samples):
    return np.argmax(np.abs(np.fft.rfft(samples))) * media.SAMPLE_RATE / samples.size


def test_sound_comes_as_16_khz_mono_float32_whatever_the_file_has(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", tone(2.0, 44_100, hertz=440, channels=2), rate=44_100)
    audio = read_audio(path)
    assert audio.samples.dtype == np.float32 and audio.samples.ndim == 1
    assert (
        audio.duration == pytest.approx(2.0, abs=0.1)
        and audio.duration == audio.samples.size / 16_000
    )
    assert frequency(audio.samples) == pytest.approx(440, abs=2)
    assert audio.damage == ""


def test_wav_samples_come_through_unchanged(tmp_path):
    samples = tone(1.0)
    audio = read_audio(write_wav(tmp_path / "a.wav", samples))
    np.testing.assert_allclose(audio.samples, samples[0], atol=1e-4)


def test_sound_is_cut_to_the_seconds_asked_for(tmp_path):
    path = write_mp4(tmp_path / "long.mp4", tone(13.0))
    assert read_audio(path).duration == pytest.approx(13.0, abs=0.15)
    assert read_audio(path, seconds=12).samples.size == 192_000


def test_variable_frame_rate_keeps_the_frames_own_times(tmp_path):
    times = [0.0, 0.1, 0.15, 0.5, 1.3]
    frames = read_frames(write_mp4(tmp_path / "v.mp4", frame_times=times))
    np.testing.assert_allclose(frames.times, times, atol=2e-3)
    assert frames.images.shape == (5, 32, 32, 3) and frames.images.dtype == np.uint8
    np.testing.assert_allclose(frames.images.mean(axis=(1, 2, 3)), [20, 25, 30, 35, 40], atol=3)


def test_frames_are_the_first_ones_or_uniform_over_the_clip(tmp_path):
    path = write_mp4(tmp_path / "v.mp4", frame_times=np.arange(21) / 10)
    np.testing.assert_allclose(read_frames(path, 5).times, [0, 0.1, 0.2, 0.3, 0.4], atol=2e-3)
    np.testing.assert_allclose(
        read_frames(path, 5, "uniform").times, [0, 0.5, 1, 1.5, 2], atol=2e-3
    )
    assert len(read_frames(path, 100, "uniform").times) == 21
    with pytest.raises(ValueError, match="'best'"):
        read_frames(path, 5, "best")


def test_large_frames_are_scaled_down(tmp_path, monkeypatch):
    monkeypatch.setattr(media.picture, "LONGEST_SIDE", 16)
    assert read_frames(write_clip(tmp_path / "v.mp4")).images.shape == (10, 16, 16, 3)


def test_a_picture_is_turned_as_the_camera_was_held(tmp_path):
    path = tmp_path / "phone.mp4"
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:, :16] = 200  # bright left half as the sensor saw it
    write_mp4(path, frame_times=[0, 0.1], shade=lambda i: upright)
    data = bytearray(path.read_bytes())
    matrix = (
        data.index(b"tkhd") + 44
    )  # a quarter turn clockwise, as phones write it: x' = -y, y' = x
    one = (1 << 16).to_bytes(4, "big")
    data[matrix : matrix + 20] = (
        bytes(4) + one + bytes(4) + (-(1 << 16)).to_bytes(4, "big", signed=True) + bytes(4)
    )
    path.write_bytes(data)
    image = read_frames(path).images[0]
    assert image[:12].mean() > 150 and image[20:].mean() < 50  # left has become top


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", "empty file"), (b"just some text\n" * 50, "not a media file")]
)
def test_what_is_no_media_file_says_so(tmp_path, content, expected):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    assert reason(read_audio, path) == reason(read_frames, path) == expected
    assert "cannot be read" in reason(read_audio, tmp_path / "nowhere.mp4")


def test_a_missing_track_is_named(tmp_path):
    assert reason(read_audio, write_clip(tmp_path / "mute.mp4", sound=None)) == "no audio track"
    assert (
        reason(read_frames, write_clip(tmp_path / "dark.mp4", frame_times=None)) == "no video track"
    )


def test_silence_is_not_sound(tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", sound=np.zeros((1, 16_000), np.float32))
    assert reason(read_audio, silent) == "silent audio"
    quiet = read_audio(write_wav(tmp_path / "quiet.wav", tone(1.0, loud=0.01)))
    assert np.abs(quiet.samples).max() == pytest.approx(0.01, rel=0.05)


def test_an_mp4_without_its_index_is_truncated(tmp_path):
    path = write_clip(tmp_path / "t.mp4", 2.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # the index comes last
    assert reason(read_audio, path).startswith("truncated")
    assert reason(read_frames, path).startswith("truncated")


def test_of_a_truncated_file_the_sound_part_is_kept_and_said_so(tmp_path):
    whole = write_clip(tmp_path / "w.mp4", 4.0, options={"movflags": "faststart"}, sound=None)
    data = whole.read_bytes()
    cut = tmp_path / "c.mp4"
    cut.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    frames, complete = read_frames(cut), read_frames(whole)
    assert 3 < len(frames.images) < len(complete.images) == 40
    np.testing.assert_array_equal(frames.images, complete.images[: len(frames.images)])
    assert frames.damage.startswith("truncated: ") and complete.damage == ""

    sound = write_wav(tmp_path / "w.wav", tone(2.0))
    sound.write_bytes(sound.read_bytes()[:32_000])
    audio = read_audio(sound)
    assert audio.duration == pytest.approx(1.0, abs=0.05) and audio.damage.startswith("truncated: ")


def test_wherever_a_file_is_cut_off_its_frames_keep_their_times(tmp_path):
    """H.264 is decoded in another order than shown: at the cut the decoder still holds frames
    back."""
    times = np.arange(0, 3, 0.04)
    whole = write_mp4(
        tmp_path / "w.mp4",
        frame_times=times,
        side=64,
        options={"movflags": "faststart"},
        shade=lambda i: i * 37 % 250,
    )
    data = whole.read_bytes()
    for share in np.linspace(0.6, 0.95, 60):
        whole.write_bytes(data[: int(share * len(data))])
        found = read_frames(whole).times
        shown = np.round(found / 0.04).astype(
            int
        )  # the cut may take a frame and leave one that is shown later
        np.testing.assert_allclose(found, times[shown], atol=2e-3)
        assert (np.diff(shown) > 0).all() and len(shown) > 3


def test_decoding_twice_gives_the_same(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    np.testing.assert_array_equal(read_audio(path).samples, read_audio(path).samples)
    np.testing.assert_array_equal(read_frames(path).images, read_frames(path).images)

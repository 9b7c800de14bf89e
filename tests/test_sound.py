"""Sound as real files hold it: many channels, changing formats, gaps, clocks gone wrong."""

import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from inputs import tone, write_mp4, write_sound, write_wav

from taemi_lib.data.media import SAMPLE_RATE, Unreadable, read_audio, read_frames, sound


def amplitude(samples):
    """Of the tone in the middle of samples (N,)."""
    return np.sqrt(2 * np.mean(samples[2000:-2000] ** 2))


def onset(samples):
    """Where something is first heard, in s."""
    return np.argmax(np.abs(samples) > 0.1) / SAMPLE_RATE


def mp3(path, seconds, rate, channels=1):
    return write_sound(path, [(0, tone(seconds, rate, 440, channels), rate)], "libmp3lame")


# --- channels


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_s16le", "pcm_s32le", "pcm_u8"])
def test_channels_that_say_the_same_sound_as_loud_as_one(tmp_path, channels, codec):
    path = write_sound(
        tmp_path / "a.wav", [(0, tone(1, 16_000, 440, channels, 0.4), 16_000)], codec
    )
    assert amplitude(read_audio(path).samples) == pytest.approx(0.4, abs=0.005)


def test_one_channel_of_six_counts_a_sixth_and_opposite_ones_nothing(tmp_path):
    front = np.zeros((6, 16_000), np.float32)
    front[2] = tone(1, loud=0.6)[0]
    path = write_sound(tmp_path / "a.wav", [(0, front, 16_000)])
    assert amplitude(read_audio(path).samples) == pytest.approx(0.1, abs=0.002)
    against = np.concatenate([tone(1), -tone(1)])
    path = write_sound(tmp_path / "b.wav", [(0, against, 16_000)])
    with pytest.raises(Unreadable, match="silent"):
        read_audio(path)


def test_loud_sound_is_never_louder_than_the_file(tmp_path):
    path = write_sound(tmp_path / "a.wav", [(0, tone(1, channels=2, loud=0.95), 16_000)])
    assert np.abs(read_audio(path).samples).max() == pytest.approx(0.95, abs=0.002)
    beyond = write_sound(tmp_path / "b.wav", [(0, tone(1, loud=1.7), 16_000)])  # float may hold it
    assert np.abs(read_audio(beyond).samples).max() == pytest.approx(1.7, abs=0.002)


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s32le", "flac"])
def test_a_square_wave_at_full_scale_does_not_rise_above_it(tmp_path, codec):
    """A resampler rings at steep edges, by a sixth of their height."""
    square = np.sign(tone(1.5, 44_100, 440, 2) + 1e-6)
    path = write_sound(
        tmp_path / f"a.{'flac' if codec == 'flac' else 'wav'}", [(0, square, 44_100)], codec
    )
    samples = read_audio(path).samples
    assert np.abs(samples).max() <= 1.0
    assert np.mean(np.abs(samples)) > 0.95


def test_sound_is_resampled_as_in_one_piece(tmp_path):
    """However it is cut: 3.3 s are handed on a second at a time."""
    samples = np.random.default_rng(0).normal(0, 0.1, (1, 72_765)).astype(np.float32)
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
    frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
    frame.sample_rate = 22_050
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    whole = np.concatenate([part.to_ndarray()[0] for part in parts])
    path = write_sound(tmp_path / "a.wav", [(0, samples, 22_050)])
    np.testing.assert_array_equal(read_audio(path).samples, whole)
    for seconds in (0.5, 1.0, 2.9):
        found = read_audio(path, seconds).samples
        np.testing.assert_array_equal(found, whole[: round(seconds * SAMPLE_RATE)])


def test_a_format_of_samples_that_is_not_known_is_a_reason(tmp_path):
    data = write_wav(tmp_path / "a.wav", tone(1)).read_bytes()
    path = tmp_path / "b.wav"  # 64-bit whole numbers, which the header alone can claim
    header = bytearray(data)
    header[32:36] = (8).to_bytes(2, "little") + (64).to_bytes(2, "little")
    path.write_bytes(header)
    with pytest.raises(Unreadable, match="samples of the format s64 cannot be read"):
        read_audio(path)


# --- a stream that changes


@pytest.mark.parametrize("second", [(48_000, 1), (44_100, 2), (32_000, 2)])
def test_a_rate_or_channel_count_that_changes_midway_is_followed(tmp_path, second):
    whole = tmp_path / "both.mp3"
    first = mp3(tmp_path / "1.mp3", 1, 44_100).read_bytes()
    whole.write_bytes(first + mp3(tmp_path / "2.mp3", 1, *second).read_bytes())
    audio = read_audio(whole)
    assert audio.duration == pytest.approx(2.0, abs=0.2)
    for half in np.array_split(audio.samples, 2):
        spectrum = np.abs(np.fft.rfft(half))
        assert np.argmax(spectrum) * SAMPLE_RATE / half.size == pytest.approx(440, abs=5)
        assert amplitude(half) == pytest.approx(0.3, abs=0.03)


# --- samples that are no numbers


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_number_is_silence_and_counted(tmp_path, wrong):
    samples = tone(1, channels=2)
    samples[0, 100:103] = wrong
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio = read_audio(write_sound(tmp_path / "a.wav", [(0, samples, 16_000)]))
    assert np.abs(audio.samples).max() <= 0.31
    assert audio.damage == "3 samples are no numbers and read as silence"
    with pytest.raises(Unreadable, match="16000 samples are no numbers"):
        read_audio(write_sound(tmp_path / "b.wav", [(0, np.full((1, 16_000), wrong), 16_000)]))


# --- the clock


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libopus"), ("a.mp4", "aac")])
@pytest.mark.parametrize("missing", [0.2, 0.7])
def test_sound_after_a_gap_stands_where_the_clock_says(tmp_path, name, codec, missing):
    rate = 48_000
    quiet = np.zeros((1, rate // 2), np.float32)
    # encoders work in blocks: the tone must not begin in the last one before the gap
    loud = np.concatenate([quiet[:, : rate // 10], tone(1, rate)], axis=1)
    path = write_sound(tmp_path / name, [(0, quiet, rate), (0.5 + missing, loud, rate)], codec)
    audio = read_audio(path)
    assert onset(audio.samples) == pytest.approx(0.6 + missing, abs=0.04)
    assert audio.duration == pytest.approx(1.6 + missing, abs=0.06)
    assert "are missing and read as silence" in audio.damage
    whole = write_sound(tmp_path / f"whole{name}", [(0, quiet, rate), (0.5, loud, rate)], codec)
    assert read_audio(whole).damage == ""


def test_many_small_gaps_do_not_add_up(tmp_path):
    """Each is too small to be a gap: a packet of 20 ms lost in every half second."""
    rate = 48_000
    pieces = [(k * 0.52, tone(0.5, rate), rate) for k in range(20)]
    pieces.append((20 * 0.52, tone(1, rate, 1000, loud=0.9), rate))
    audio = read_audio(write_sound(tmp_path / "a.mkv", pieces, "pcm_s16le"))
    assert np.argmax(np.abs(audio.samples) > 0.5) / SAMPLE_RATE == pytest.approx(10.4, abs=0.06)


def test_what_comes_twice_is_heard_once():
    line = sound._Line(100 * SAMPLE_RATE)
    first, second = tone(1, loud=0.2)[0], tone(1, loud=0.8)[0]
    line.add(first, SAMPLE_RATE, 0.0)
    line.add(second, SAMPLE_RATE, 0.7)  # .3 s again
    line.add(first, SAMPLE_RATE, 1.7)
    samples = line.samples()
    assert samples.size == round(2.7 * SAMPLE_RATE)
    assert line.faults() == ["overlaps: 0.3 s of the sound come twice and are left out"]
    np.testing.assert_array_equal(samples[: first.size], first)
    np.testing.assert_array_equal(samples[first.size : 27_200], second[4_800:])


def test_a_clock_that_is_set_back_does_not_swallow_the_sound():
    line = sound._Line(100 * SAMPLE_RATE)
    for time in (50.0, 51.0, 0.0, 1.0):
        line.add(tone(1)[0], SAMPLE_RATE, time)
    assert line.samples().size == 54 * SAMPLE_RATE
    assert line.faults() == ["its time stamps go back by 52.0 s"]


def in_two_times(path, late, pictures, codec="pcm_s16le", begin=0):
    """Pictures from `begin` s on, ten a second, and a second of sound from `late` s on."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width = video.height = 32
        audio = container.add_stream(codec, rate=16_000, layout="mono")
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for picture.pts in range(round(10 * begin), round(10 * begin) + pictures):
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(
            (tone(1) * 32767).astype(np.int16), format="s16", layout="mono"
        )
        frame.sample_rate, frame.time_base, frame.pts = (
            16_000,
            Fraction(1, 16_000),
            round(late * 16_000),
        )
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "pcm_s16le"), ("a.mkv", "libopus"), ("a.mov", "pcm_s16le"), ("a.mp4", "aac")],
)
@pytest.mark.parametrize(("late", "begin"), [(0, 0), (0.6, 0), (1.3, 0), (0, 0.6), (0.4, 0.9)])
def test_sound_and_picture_keep_their_distance_whichever_begins_first(
    tmp_path, name, codec, late, begin
):
    path = in_two_times(tmp_path / name, late, 15, codec, begin)
    heard, frames = read_audio(path), read_frames(path)
    assert heard.damage == frames.damage == ""
    assert onset(heard.samples) - frames.times[0] == pytest.approx(late - begin, abs=0.05)


@pytest.mark.parametrize("late", [4000, 1_750_000_000])
def test_sound_stamped_by_another_clock_is_a_reason_and_takes_no_memory(tmp_path, late):
    path = in_two_times(tmp_path / "a.mkv", late, pictures=20)
    with pytest.raises(Unreadable, match=f"its sound begins at {late} s"):
        read_audio(path)
    assert len(read_frames(path).times) == 20


def test_a_stream_before_the_start_of_its_file_says_so(tmp_path):
    """FFmpeg takes the start of the sound for that of the file where there is one picture."""
    path = in_two_times(tmp_path / "a.mkv", 4000, pictures=1)
    frames = read_frames(path)
    assert frames.times.tolist() == [0.0]
    assert frames.damage == "its time stamps are 4000.0 s too early"


def test_a_jump_of_the_clock_keeps_what_was_before(tmp_path):
    pieces = [(0, tone(1), 16_000), (5000, tone(1), 16_000)]
    audio = read_audio(write_sound(tmp_path / "a.mkv", pieces, "pcm_s16le"))
    assert audio.duration == pytest.approx(1, abs=0.1)
    assert audio.damage == "its time stamps jump to 5000 s"


def test_an_hour_at_most_is_read_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sound, "LONGEST", 2.0)
    audio = read_audio(write_wav(tmp_path / "a.wav", tone(3)))
    assert audio.duration == 2.0 and audio.damage == ""
    assert audio.note == "only the first 2 s of sound are read"
    assert read_audio(tmp_path / "a.wav", seconds=1).note == ""


def test_a_rate_that_no_recording_has_is_refused(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(0.5))
    data = bytearray(path.read_bytes())
    data[24:28] = (3).to_bytes(4, "little")  # Hz, in the header
    path.write_bytes(data)
    with pytest.raises(Unreadable, match="a sample rate of 3 Hz"):
        read_audio(path)


def test_a_header_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(1))
    data = bytearray(path.read_bytes())
    data[40:44] = (4_000_000_000).to_bytes(4, "little")  # bytes of sound
    path.write_bytes(data)
    audio = read_audio(path)
    assert audio.duration == pytest.approx(1.0, abs=0.1) and "truncated" in audio.damage


# --- which track


def test_the_default_track_is_read_and_the_choice_told(tmp_path):
    default = av.stream.Disposition.default
    pieces = {0: [(0, tone(1, hertz=300), 16_000)], 1: [(0, tone(1, hertz=700), 16_000)]}
    for number in (0, 1):
        flags = {k: default if k == number else av.stream.Disposition(0) for k in (0, 1)}
        path = write_sound(tmp_path / f"{number}.mkv", pieces, "pcm_s16le", tracks=flags)
        audio = read_audio(path)
        heard = np.argmax(np.abs(np.fft.rfft(audio.samples))) * SAMPLE_RATE / audio.samples.size
        assert heard == pytest.approx((300, 700)[number], abs=2)
        assert audio.note == f"2 audio tracks: track {number + 1}, the default one, is read"
    assert read_audio(write_mp4(tmp_path / "one.mp4", tone())).note == ""


def test_a_track_without_a_decoder_is_passed_over_or_said(tmp_path):
    """As the second, spatial one of new phones."""
    pieces = {0: [(0, tone(1, hertz=300), 16_000)], 1: [(0, tone(1, hertz=700), 16_000)]}
    path = write_sound(tmp_path / "a.mkv", pieces, "pcm_s16le", tracks={0: None, 1: None})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"A_PCM/INT", b"A_PCX/INT", 1))
    audio = read_audio(path)
    heard = np.argmax(np.abs(np.fft.rfft(audio.samples))) * SAMPLE_RATE / audio.samples.size
    assert heard == pytest.approx(700, abs=2) and "track 2" in audio.note
    path.write_bytes(data.replace(b"A_PCM/INT", b"A_PCX/INT"))
    with pytest.raises(Unreadable, match="no decoder for its audio track"):
        read_audio(path)


# --- channels beyond the seventh, one plane each (PyAV would read past the last)


@pytest.mark.parametrize("layout", ["7.1", "hexadecagonal"])
@pytest.mark.parametrize("kind", ["flt", "s16", "s32"])
def test_eight_channels_and_more_are_read_where_each_lies_on_its_own(layout, kind):
    count = av.AudioLayout(layout).nb_channels
    numbers = np.random.default_rng(0).standard_normal((1, 100 * count)) * 0.2
    whole = {"s16": np.int16, "s32": np.int32}.get(kind)
    packed = numbers.astype(np.float32) if whole is None else (numbers * 1000).astype(whole)
    frame = av.AudioFrame.from_ndarray(packed, format=kind, layout=layout)
    frame.sample_rate = 48_000
    (planar,) = av.AudioResampler(f"{kind}p", layout, 48_000).resample(frame)
    assert planar.format.is_planar
    expected = packed.reshape(100, count).mean(1) / (1 if whole is None else -np.iinfo(whole).min)
    found = sound._mono(planar, sound._Line(1000))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_surround_of_eight_channels_as_a_film_has_it(tmp_path):
    samples = np.zeros((8, 48_000), np.float32)
    samples[0] = tone(1, 48_000, loud=0.8)[0]
    path = write_sound(tmp_path / "a.mp4", [(0, samples, 48_000)], "aac")
    assert amplitude(read_audio(path).samples) == pytest.approx(0.1, abs=0.01)

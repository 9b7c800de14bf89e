"""Noise before the encoders: as much as was asked for, the same every time, and nothing else."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from taemi_lib.data import noise
from taemi_lib.data.media import SAMPLE_RATE, Frames
from taemi_lib.data.noise import NOISES, rng_of, sound, words

VOCABULARY = ["so", "glad", "to", "see", "you", "again", "my", "friend"]
SENTENCE = '"Well - I\'m so glad," she said; then we left. ...'
NESTED = ["dropouts", "occlusion", "frozen", "dropped", "substituted", "deleted"]


@cache
def speech(seconds=2.0, seed=0):
    """A voice that comes and goes, with a hiss 60 dB below it; (N,) float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = np.sin(2 * np.pi * rng.uniform(100, 300) * time) * (np.sin(2 * np.pi * 1.5 * time) > 0)
    return (0.4 * wave + rng.normal(0, 4e-4, time.size)).astype(np.float32)


@cache
def film(count=30, height=96, width=72, rate=10):
    """A gradient that moves, with a grain: no two frames are the same."""
    rng = np.random.default_rng(3)
    ramp = (
        np.linspace(0, 200, width)[None, None, :, None] + 2 * np.arange(count)[:, None, None, None]
    )
    images = (ramp + rng.integers(0, 40, (count, height, width, 3))) % 256
    return Frames(images.astype(np.uint8), (np.arange(count) / rate).astype(np.float32), "cut", "n")


def text():
    return " ".join(f"w{number}" for number in range(200))


def clean(kind):
    return {"audio": speech, "vision": film, "text": text}[kind.modality]()


def spoiled(kind, given, strength, clip_id="a", seed=0):
    more = {
        "": (),
        "voices": ([speech(1.5, k) for k in range(1, 10)],),
        "vocabulary": (VOCABULARY,),
    }
    return kind.function(given, strength, rng_of(clip_id, kind.name, seed), *more[kind.needs])


def numbers(given):
    """What can be compared, as a tuple."""
    if isinstance(given, Frames):
        return given.images.tobytes(), given.times.tobytes(), given.damage, given.note
    return given.tobytes() if isinstance(given, np.ndarray) else given


def change(kind, given, result):
    """How far a result lies from the clean clip."""
    if kind.modality == "audio":
        return np.abs(result - given).mean()
    if kind.modality == "text":
        return len(set(given.split()) - set(result.split()))
    if len(result.times) < len(given.times):
        return len(given.times) - len(result.times)
    return np.abs(result.images.astype(float) - given.images).mean()


every = pytest.mark.parametrize("kind", NOISES.values(), ids=NOISES)


def of(modality):
    found = {name: kind for name, kind in NOISES.items() if kind.modality == modality}
    return pytest.mark.parametrize("kind", found.values(), ids=found)


# --- every noise


@every
def test_the_form_stays_and_the_clip_is_not_touched(kind):
    given = clean(kind)
    before = numbers(given)
    for strength in kind.strengths:
        result = spoiled(kind, given, strength)
        assert numbers(given) == before != numbers(result)
        if kind.modality == "audio":
            assert result.shape == given.shape and result.dtype == np.float32
        if kind.modality == "vision":
            assert result.images.shape[1:] == given.images.shape[1:]
            assert result.images.dtype == np.uint8 and result.times.dtype == np.float32
            assert len(result.images) == len(result.times)
            assert np.isin(result.times, given.times).all() and (np.diff(result.times) > 0).all()
            assert (result.damage, result.note) == ("cut", "n")
            assert kind.name == "dropped" or len(result.times) == len(given.times)


@every
def test_what_is_stronger_changes_more(kind):
    given = clean(kind)
    changes = [change(kind, given, spoiled(kind, given, strength)) for strength in kind.strengths]
    assert len(changes) == 5 and changes[0] > 0 and (np.diff(changes) > 0).all(), changes


@every
def test_no_noise_gives_the_clip_back_bit_for_bit_and_shares_no_memory(kind):
    if kind.name == "recompression":
        pytest.skip("no quality keeps every bit")
    given = clean(kind)
    result = spoiled(kind, given, np.inf if "SNR" in kind.unit else 0)
    assert numbers(result) == numbers(given)
    if kind.modality == "audio":
        assert not np.shares_memory(result, given)
    if kind.modality == "vision":
        assert not np.shares_memory(result.images, given.images)


@every
@pytest.mark.parametrize("strength", [np.nan, -np.inf, -101, None, "much"])
def test_an_impossible_strength_is_refused_by_name_and_value(kind, strength):
    with pytest.raises(ValueError, match=f"^{kind.name}: strength is {strength!r}, expected"):
        spoiled(kind, clean(kind), strength)


@every
def test_no_share_is_above_one(kind):
    if "share" not in kind.unit:
        pytest.skip("no share")
    with pytest.raises(ValueError, match=f"^{kind.name}: strength is 1.01, expected a share"):
        spoiled(kind, clean(kind), 1.01)
    spoiled(kind, clean(kind), 1)  # all of it


@every
def test_the_generator_is_the_clip_s_own(kind):
    """No order and no global state counts; another clip and another seed have other noise."""
    given, strength = clean(kind), kind.strengths[2]
    first = numbers(spoiled(kind, given, strength))
    np.random.seed(1)  # noqa: NPY002
    spoiled(kind, given, kind.strengths[4], "b")
    assert numbers(spoiled(kind, given, strength)) == first
    if kind.name not in ("clipping", "blur", "recompression"):  # nothing is drawn there
        assert numbers(spoiled(kind, given, strength, "b")) != first
        assert numbers(spoiled(kind, given, strength, seed=1)) != first


def test_another_process_spoils_in_the_same_way():
    code = (
        "import sys, json, hashlib; sys.path.insert(0, 'tests'); import test_noise as t\n"
        "names = list(t.NOISES)[::-1]\n"
        "def mark(n): return hashlib.md5(repr(t.numbers(t.spoiled(t.NOISES[n],"
        " t.clean(t.NOISES[n]), t.NOISES[n].strengths[1]))).encode()).hexdigest()\n"
        "print(json.dumps({n: mark(n) for n in names}))"
    )
    root = noise.__file__.partition("taemi_lib")[0]
    said = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code.replace("[::-1]", order)],
                cwd=root,
                env={"PYTHONPATH": root, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                check=True,
            ).stdout
        )
        for order, seed in (("[::-1]", "1"), ("", "2"))
    ]
    assert said[0] == said[1] and set(said[0]) == set(NOISES)


def test_the_generator_of_a_clip_stays_the_one_it_was():
    """Stored results rest on it."""
    assert rng_of("00696", "white").integers(1000, size=3).tolist() == [376, 421, 99]
    drawn = {rng_of(clip, name, seed).random() for clip in "ab" for name in "cd" for seed in (0, 1)}
    assert len(drawn) == 8


@pytest.mark.parametrize("name", NESTED)
def test_what_is_lost_at_a_small_strength_is_lost_at_a_larger_one(name):
    kind = NOISES[name]
    for clip_id in "abc":
        given, before = clean(kind), None
        for strength in np.linspace(0, 1, 14):
            result = spoiled(kind, given, strength, clip_id)
            if kind.modality == "audio":
                hit = set(np.flatnonzero(result != given))
            elif name == "dropped":
                hit = set(given.times) - set(result.times)
            elif kind.modality == "vision":
                axes = (1, 2, 3) if name == "frozen" else 3
                hit = set(np.flatnonzero((result.images != given.images).any(axes)))
            elif name == "deleted":
                hit = set(given.split()) - set(result.split())
            else:
                pairs = zip(given.split(), result.split(), strict=True)
                hit = {(index, new) for index, (old, new) in enumerate(pairs) if old != new}
            assert before is None or before <= hit
            before = hit
        assert before


def test_strengths_are_five_from_weak_to_strong_and_every_noise_says_what_it_is():
    assert {kind.modality for kind in NOISES.values()} == {"audio", "vision", "text"}
    for name, kind in NOISES.items():
        assert name == kind.name and len(set(kind.strengths)) == 5
        falls = kind.unit in ("SNR, dB", "JPEG quality")
        assert list(kind.strengths) == sorted(kind.strengths, reverse=falls)
        assert kind.description and kind.unit and "\n" not in kind.description


# --- sound


def snr(given, result):
    """dB, measured as the functions promise: power where the clip sounds, noise everywhere."""
    noise_ = result.astype(float) - given
    frames = (given.astype(float) ** 2).reshape(-1, 320).mean(1)
    return 10 * np.log10(frames[frames > frames.max() / 3000].mean() / np.mean(noise_**2))


@pytest.mark.parametrize("name", ["white", "babble"])
@pytest.mark.parametrize("strength", [40, 25, 10, 0, -5])
def test_the_measured_snr_is_the_one_that_was_asked_for(name, strength):
    for clip_id, given in (("a", speech()), ("b", speech(3.7)), ("c", 1e-3 * speech(1))):
        assert snr(given, spoiled(NOISES[name], given.astype(np.float32), strength, clip_id)) == (
            pytest.approx(strength, abs=1e-3)
        )


def test_pauses_of_any_length_leave_the_noise_as_it_is():
    longer = np.concatenate([speech(), np.zeros(5 * SAMPLE_RATE, np.float32)])
    noises = [spoiled(NOISES["white"], given, 10) - given for given in (speech(), longer)]
    assert noises[0].std() == pytest.approx(noises[1].std(), rel=0.02)


def test_only_clipping_clips():
    given = (speech() * 2.4).astype(np.float32)
    for name in ("white", "babble"):
        assert np.abs(spoiled(NOISES[name], given, 0)).max() > 1


def test_white_noise_is_white_and_gaussian():
    added = spoiled(NOISES["white"], speech(8), 0) - speech(8)
    bands = [np.mean(part**2) for part in np.array_split(np.abs(np.fft.rfft(added)), 8)]
    assert max(bands) / min(bands) < 1.1
    assert np.mean(added**4) / np.mean(added**2) ** 2 == pytest.approx(3, abs=0.1)


def tones(*hertz, seconds=1.0):
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return [np.sin(2 * np.pi * h * time).astype(np.float32) for h in hertz]


def test_babble_is_of_3_to_7_voices_of_equal_power_without_gaps():
    hertz = np.arange(200, 1200, 100)
    voices = [gain * tone for gain, tone in zip(np.linspace(0.05, 1, 10), tones(*hertz))]
    given, counts = speech(2), set()
    for clip_id in range(40):
        result = sound.babble(given, 0, rng_of(str(clip_id), "babble"), voices)
        powers = np.abs(np.fft.rfft(result.astype(float) - given))[2 * hertz] ** 2
        heard = powers[powers > powers.max() / 100]
        assert heard.max() / heard.min() == pytest.approx(1, abs=1e-3)
        counts.add(len(heard))
    assert counts == {3, 4, 5, 6, 7}


@pytest.mark.parametrize("seconds", [0.3, 1, 5])
def test_voices_are_repeated_or_cut(seconds):
    given = speech(2)
    (voice,) = tones(440, seconds=seconds)
    added = sound.babble(given, 0, rng_of("a", "babble"), [voice]) - given
    assert [np.sqrt(np.mean(part**2)) for part in np.array_split(added, 8)] == (
        pytest.approx([np.sqrt(np.mean(added**2))] * 8, rel=0.02)
    )


def test_a_voice_begins_anywhere():
    voice, given = speech(2, 5), speech()
    begun = {
        sound.babble(given, 0, rng_of(str(k), "babble"), [voice])[:320].tobytes() for k in range(5)
    }
    assert len(begun) == 5


def test_silent_voices_are_not_counted_and_without_any_there_is_no_babble():
    silent = [np.zeros(100, np.float32)] * 20 + [np.zeros(0, np.float32)]
    alone = sound.babble(speech(), 5, rng_of("a", "babble"), [*silent, speech(1, 5)])
    assert snr(speech(), alone) == pytest.approx(5, abs=1e-3)
    for voices in (silent, []):
        with pytest.raises(ValueError, match=f"^babble: none of the {len(voices)} voices"):
            sound.babble(speech(), 5, rng_of("a", "babble"), voices)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.4, 0.6])
def test_shares_of_the_sound_are_what_was_asked_for(share):
    given = speech(20)
    where = sound.sounding(given)
    clipped = spoiled(NOISES["clipping"], given, share)
    assert np.mean(clipped[where] != given[where]) == pytest.approx(share, abs=1e-3)
    assert np.abs(given[clipped == given]).max() <= np.abs(clipped).max() * (1 + 1e-6)
    lost = spoiled(NOISES["dropouts"], np.ones_like(given), share) == 0
    assert lost.mean() == pytest.approx(share, abs=0.05 / 20)
    few = spoiled(NOISES["dropouts"], np.ones_like(given), 0.02) == 0
    edges = np.flatnonzero(np.diff(few, prepend=False, append=False))
    packets = (edges[1::2] - edges[::2]) / SAMPLE_RATE  # two may lie side by side
    assert packets.min() >= 0.0199 and np.median(packets) <= 0.1


def test_a_part_that_sounds_is_found():
    given = np.concatenate([np.full(3200, 1e-3), speech()[-3200:] * 0 + 0.5, np.full(3201, 1e-3)])
    assert np.flatnonzero(sound.sounding(given.astype(np.float32))).tolist() == [*range(3200, 6400)]


@of("audio")
@pytest.mark.parametrize("size", [0, 1, 16_000])
def test_a_silent_clip_comes_back_as_it_is(kind, size):
    given = np.full(size, 1e-4, np.float32)
    for strength in kind.strengths:
        result = spoiled(kind, given, strength)
        assert result.dtype == np.float32 and result.shape == given.shape
        if kind.name != "dropouts":
            np.testing.assert_array_equal(result, given)


@of("audio")
@pytest.mark.parametrize("size", [1, 2, 319, 321])
def test_the_shortest_clips_are_spoiled_too(kind, size):
    given = np.full(size, 0.5, np.float32)
    for strength in kind.strengths:
        result = spoiled(kind, given, strength)
        assert result.shape == (size,) and np.isfinite(result).all()
    if kind.name == "white":
        assert 10 * np.log10(0.25 / np.mean((result - given.astype(float)) ** 2)) == (
            pytest.approx(kind.strengths[-1], abs=1e-3)
        )


# --- picture


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.4, 0.6, 1])
def test_shares_of_the_picture_are_what_was_asked_for(share):
    given = film(100, 100, 160)
    for clip_id in "abc":
        box = (spoiled(NOISES["occlusion"], given, share, clip_id).images == 128).all(3)
        assert (box == box[0]).mean() > 0.999 and box[0].mean() == pytest.approx(share, abs=0.02)
        kept = spoiled(NOISES["dropped"], given, share, clip_id)
        assert len(kept.times) == max(1, round(100 * (1 - share)))
        assert all((given.images[round(10 * t)] == i).all() for t, i in zip(*kept_of(kept)))
        images = spoiled(NOISES["frozen"], given, share, clip_id).images
        still = (images[1:] == images[:-1]).all((1, 2, 3))
        assert still.mean() == pytest.approx(share, abs=0.05)


def kept_of(frames):
    return frames.times.tolist(), frames.images


def test_pictures_stand_still_for_a_while_and_at_uneven_times():
    given = film(300, 8, 8, rate=50)
    times = given.times + np.where(given.times > 3, 10, 0).astype(np.float32)  # and 10 s of gap
    given = replace(given, times=times + np.float32(2))
    for clip_id in "abcdef":
        result = spoiled(NOISES["frozen"], given, 0.3, clip_id)
        np.testing.assert_array_equal(result.times, given.times)
        shown = [np.flatnonzero((given.images == i).all((1, 2, 3)))[0] for i in result.images]
        still = np.flatnonzero(np.diff(shown) == 0) + 1
        runs = np.split(still, np.flatnonzero(np.diff(still) > 1) + 1)
        assert (np.array(shown) <= np.arange(300)).all() and (np.diff(shown) >= 0).all()
        for run in runs:
            seconds = times[min(run[-1] + 1, 299)] - times[run[0]]
            assert seconds >= 0.17 or run[-1] == 299 or 149 <= run[0] <= 152


def test_a_dark_picture_is_as_dark_as_the_light_says_and_noisy_as_photons_are():
    given = replace(film(1), images=np.full((4, 100, 100, 3), 255, np.uint8), times=np.arange(4.0))
    for stops in (1, 2, 4, 6):
        result = spoiled(NOISES["low_light"], given, stops).images / 255
        light = result**2.2 * 2000
        photons = 2000 / 2**stops
        assert light.mean() == pytest.approx(photons, rel=0.02)
        assert light.std() == pytest.approx(np.sqrt(photons), rel=0.1)
        assert (result[0] != result[1]).any()  # each frame has its own
    black = replace(given, images=np.zeros_like(given.images))
    assert not spoiled(NOISES["low_light"], black, 3).images.any()


def test_the_blur_is_as_wide_as_a_share_of_the_smaller_side():
    given = film(1, 101, 201)
    dot = np.zeros_like(given.images)
    dot[0, 50, 100, 1] = 255
    edge = dot.copy()
    edge[0, :, 100:, :] = 255
    for share in (0.02, 0.05, 0.1):
        rows = spoiled(NOISES["blur"], replace(given, images=edge), share).images[0, 50, :, 0]
        bell = np.diff(rows.astype(float)) / 255
        place = np.arange(bell.size)
        centre = (bell * place).sum()
        spread = np.sqrt((bell * (place - centre) ** 2).sum())
        assert spread == pytest.approx(share * 101, rel=0.05)
    result = spoiled(NOISES["blur"], replace(given, images=dot), 0.01).images
    assert result[..., 1].any() and not result[..., [0, 2]].any()  # colours stay apart


def test_jpeg_keeps_the_colours_where_they_were():
    red = np.zeros((2, 32, 32, 3), np.uint8)
    red[..., 0] = 200
    result = spoiled(NOISES["recompression"], replace(film(2), images=red), 75).images
    assert np.abs(result.astype(int) - red).max() <= 3


@of("vision")
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 48, 64), (5, 1, 1), (2, 1, 7)])
def test_one_frame_and_one_pixel_are_enough(kind, shape):
    given = film(*shape)
    for strength in kind.strengths:
        result = spoiled(kind, given, strength)
        assert 1 <= len(result.times) <= len(given.times)
        assert result.images.shape[1:] == given.images.shape[1:]


# --- words


@pytest.mark.parametrize("name", ["substituted", "deleted"])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.4, 0.6, 0.8, 1])
def test_shares_of_words_are_what_was_asked_for_on_average(name, share):
    kind = NOISES[name]
    hit = [change(kind, text(), spoiled(kind, text(), share, str(k))) / 200 for k in range(20)]
    assert np.mean(hit) == pytest.approx(share, abs=0.02)


def test_a_word_is_never_put_in_its_own_place():
    for clip_id in range(20):
        result = words.substituted("Glad GLAD glad", 1, rng_of(str(clip_id), "s"), ["glad", "sad"])
        assert result == "Sad Sad sad"
    with pytest.raises(ValueError, match="^substituted: the vocabulary has no other word than"):
        words.substituted("So", 1, rng_of("a", "s"), {"so"})
    assert words.substituted("So", 0, rng_of("a", "s"), []) == "So"


def test_every_other_word_comes_equally_often_and_sets_have_an_order():
    long = " ".join(["so"] * 4000)
    result = words.substituted(long, 1, rng_of("a", "s"), VOCABULARY * 2)
    counts = [result.split().count(word) for word in VOCABULARY]
    assert counts[0] == 0 and min(counts[1:]) > 480 and max(counts) < 670
    assert words.substituted(long, 1, rng_of("a", "s"), set(VOCABULARY)) == result


def test_punctuation_stays_with_words_that_are_replaced_and_goes_with_those_lost():
    result = words.substituted(SENTENCE, 1, rng_of("a", "s"), ["xyz"])
    assert result == '"Xyz - Xyz xyz xyz," xyz xyz; xyz xyz xyz. ...'
    given = SENTENCE.split(" ")
    seen = set()
    for clip_id in range(30):
        result = words.deleted(SENTENCE, 0.5, rng_of(str(clip_id), "deleted"))
        left = result.split(" ") if result else []
        assert ("-" in left) == ('"Well' in left) and ("..." in left) == ("left." in left)
        assert [token for token in given if token in left] == left  # in order, with their marks
        seen.add(result)
    assert len(seen) > 20
    found = {words.deleted("... so glad now", 0.5, rng_of(str(k), "d")) for k in range(60)}
    assert found == {  # every word by itself; marks before the first go with it
        *("", "... so", "glad", "now", "... so glad", "... so now", "glad now", "... so glad now")
    }
    assert words.deleted(SENTENCE, 1, rng_of("a", "d")) == ""
    assert words.deleted("... so?", 1, rng_of("a", "d")) == ""


@of("text")
@pytest.mark.parametrize("given", ["", " ", "...", " - \n"])
def test_where_no_word_is_nothing_is_done(kind, given):
    assert spoiled(kind, given, 1) == given

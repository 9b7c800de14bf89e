"""Speech to text: sound without words gives none, words have their times, the language is a
setting."""

import re
from dataclasses import replace

import numpy as np
import pytest
import whisper
from inputs import SHARED, speech_folder, tone, whisper_file, write_wav

from taemi_lib.data.manifest import Clip
from taemi_lib.data.media import read_audio
from taemi_lib.errors import EncoderError
from taemi_lib.features import load_encoders
from taemi_lib.features.clip import extract_clip
from taemi_lib.features.sequences import Transcript, Word
from taemi_lib.features.speech import SpeechToText
from taemi_lib.features.word_times import has_words
from taemi_lib.profiles import MICRO, PROFILES

RECORDINGS = ("librivox-0870", "librivox-0890", "librivox-0920")


def noise(rms, seconds, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, rms, round(16_000 * seconds)).astype(np.float32)


def hum(loud=0.01, seconds=5.0):
    return tone(seconds, hertz=50, loud=loud)[0]


@pytest.fixture
def said(monkeypatch):
    """What a Whisper of full size decodes in each window: a list of (text, probability of no
    speech, mean logarithm of the probability), the last one for all further windows."""
    answers = []

    def decode(self, mel, options):
        text, no_speech, logprob = answers.pop(0) if len(answers) > 1 else answers[0]
        tokenizer = whisper.tokenizer.get_tokenizer(self.is_multilingual)
        begin = tokenizer.timestamp_begin
        return whisper.DecodingResult(
            audio_features=None,
            language=options.language,
            tokens=[begin, *tokenizer.encode(f" {text}"), begin + 100, begin + 100],
            text=text,
            no_speech_prob=no_speech,
            avg_logprob=logprob,
            temperature=0.0,
        )

    monkeypatch.setattr(whisper.Whisper, "decode", decode)
    return answers


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    return str(whisper_file(tmp_path_factory.mktemp("whisper") / "tiny.en.pt"))


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    return str(whisper_file(tmp_path_factory.mktemp("whisper") / "tiny.pt", multilingual=True))


@pytest.mark.parametrize("sure", [-0.27, -1.5])
def test_a_window_without_speech_gives_no_words_however_sure_whisper_is(english, said, sure):
    said += [("present", 0.96, sure)]
    assert SpeechToText(english).transcribe(noise(0.01, 2)) == Transcript("", "en")
    assert SpeechToText(english, no_speech=0.97).transcribe(noise(0.01, 2)).text == "present"


def test_only_the_windows_without_speech_lose_their_words(english, said):
    said += [("so glad", 0.03, -0.2)] * 15 + [("thank you", 0.95, -0.2)]
    heard = SpeechToText(english).transcribe(noise(0.01, 40)).text  # a window ends after its words
    assert heard == " ".join(["so glad"] * 15)


def test_punctuation_alone_is_no_text(english, said):
    said += [(". . .", 0.1, -0.2)]
    assert SpeechToText(english).transcribe(noise(0.01, 2)) == Transcript("", "en")
    said[:] = [("so glad", 0.1, -0.2), ("...", 0.1, -0.2)]
    assert SpeechToText(english).transcribe(noise(0.01, 3)).text == "so glad"
    assert [has_words(text) for text in ("♪ ♪", "-", "", "¿?", "7", "да", "你好", "ok.")] == [
        *[False] * 4,
        *[True] * 4,
    ]


@pytest.mark.parametrize("samples", [1, 399, 3999])
def test_sound_too_short_for_a_word_is_not_even_decoded(tmp_path, english, said, samples):
    said += [("so glad", 0.0, 0.0)]
    compact = SpeechToText(str(speech_folder(tmp_path / "s")))
    for speech in (SpeechToText(english), compact, SpeechToText("micro:speech")):
        assert speech.transcribe(np.full(samples, 0.3, np.float32)) == Transcript("", "en")
    assert SpeechToText(english).transcribe(np.full(4000, 0.3, np.float32)).text == "so glad"


def test_a_tiny_rest_after_the_last_window_gives_no_words(english, said, monkeypatch):
    said += [("so glad", 0.0, 0.0)]
    # 2 s a window, as its last time stamp says: the rest of 0.2 s is left
    assert SpeechToText(english).transcribe(noise(0.01, 2.2)).text == "so glad"
    assert SpeechToText(english).transcribe(noise(0.01, 2.3)).text == "so glad so glad"


def test_a_compact_folder_uses_the_same_probability(tmp_path, monkeypatch):
    folder = str(speech_folder(tmp_path / "s"))

    def decode(model, mel, options):
        return whisper.DecodingResult(None, "en", text="present", no_speech_prob=0.7)

    monkeypatch.setattr(whisper, "decode", decode)
    assert SpeechToText(folder).transcribe(noise(0.01, 1)).text == ""
    assert SpeechToText(folder, no_speech=0.8).transcribe(noise(0.01, 1)).text == "present"


@pytest.mark.parametrize(
    "sound",
    [noise(0.003, 5), noise(0.001, 7), noise(0.05, 5), hum(), tone(2.0)[0]],
    ids=["hiss", "faint hiss", "noise", "hum", "tone"],
)
def test_the_micro_whisper_hears_no_sentence_of_its_grammar_in_noise(sound):
    """Its vocabulary has no token for "no speech": how likely its words are must say it."""
    assert SpeechToText("micro:speech").transcribe(sound) == Transcript("", "en")
    # else the test would show nothing
    assert has_words(SpeechToText("micro:speech", no_speech=1.0).transcribe(sound).text)


def test_words_have_times_and_times_change_no_word(english, said):
    said += [("so glad to see you.", 0.1, -0.2), ("so glad", 0.1, -0.2)]
    heard = SpeechToText(english).transcribe(noise(0.01, 4))
    assert heard.text == "so glad to see you. so glad"
    assert [word.text for word in heard.words] == heard.text.split()
    for window, begin in ((heard.words[:5], 0), (heard.words[5:], 2)):  # as its time stamps say
        times = [time for word in window for time in (word.start, word.end)]
        assert times == sorted(times) and begin <= times[0] and times[-1] <= 4
        assert all(type(time) is float for time in times)


def test_a_compact_folder_gives_no_times(tmp_path):
    assert SpeechToText(str(speech_folder(tmp_path / "s"))).transcribe(noise(0.1, 2)).words == ()


def test_the_language_is_a_setting_and_goes_with_the_transcript(multilingual, said):
    said += [("so froh", 0.1, -0.2)]
    assert SpeechToText(multilingual, language="de").transcribe(noise(0.01, 2)).language == "de"
    assert SpeechToText(multilingual).transcribe(noise(0.01, 2)).language == "en"


def test_auto_hears_the_language_and_knows_none_where_there_are_no_words(
    multilingual, said, monkeypatch
):
    monkeypatch.setattr(
        whisper.Whisper, "detect_language", lambda self, mel: (None, {"en": 0.2, "fr": 0.8})
    )
    said += [("so glad", 0.1, -0.2)]
    speech = SpeechToText(multilingual, language="auto")
    heard = speech.transcribe(noise(0.01, 2))
    assert (heard.text, heard.language) == ("so glad", "fr")
    assert speech.transcribe(np.zeros(32_000, np.float32)) == Transcript("", None)
    said[:] = [("so glad", 0.9, -0.2)]
    assert speech.transcribe(noise(0.01, 2)) == Transcript("", None)


def test_auto_of_a_shorter_context_keeps_the_language_of_the_first_words(tmp_path, monkeypatch):
    asked = []

    def decode(model, mel, options):
        asked.append(options.language)
        text = "" if len(asked) == 1 else "so glad"
        return whisper.DecodingResult(None, options.language or f"guess {len(asked)}", text=text)

    short = whisper_file(tmp_path / "short.pt", multilingual=True, window=100)
    speech = SpeechToText(str(short), language="auto")
    monkeypatch.setattr(whisper, "decode", decode)
    heard = speech.transcribe(noise(0.01, 6))
    assert (heard.text, heard.language) == ("so glad so glad", "guess 2")
    assert asked == [None, None, "guess 2"]


@pytest.mark.parametrize("language", ["auto", "de"])
def test_another_language_needs_multilingual_weights(english, language):
    for source in (english, "micro:speech"):
        with pytest.raises(EncoderError) as caught:
            SpeechToText(source, language=language)
        assert str(caught.value).startswith(f"encoders.language = {language!r}: ")
        assert "English only" in str(caught.value) and "--set encoders.speech=" in str(caught.value)


def test_a_language_that_whisper_does_not_know_is_named(multilingual):
    with pytest.raises(EncoderError, match=r"encoders\.language = 'xx'.*does not know.*auto, en"):
        SpeechToText(multilingual, language="xx")


def test_the_settings_reach_the_encoder_and_the_words_the_features(tmp_path, multilingual, said):
    micro = PROFILES["demo"].encoders
    encoders = load_encoders(
        replace(micro, speech=multilingual, language="de", no_speech=0.5, text=str(MICRO / "text"))
    )
    assert (encoders.speech.language, encoders.speech.no_speech) == ("de", 0.5)
    clip = Clip("a", "test", None, write_wav(tmp_path / "a.wav", noise(0.01, 2)))
    said += [("so glad", 0.4, -0.2)]
    features = extract_clip(clip, encoders)
    assert (features.transcript, features.language) == ("so glad", "de")
    assert [type(word) for word in features.words] == [Word, Word]
    said[:] = [("so glad", 0.51, -0.2)]
    silent = extract_clip(clip, encoders)
    assert silent.absent["text"] == "no words heard" and not silent.words
    assert silent.transcript == "" and silent.audio is not None


# --- real weights ---

shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(), reason="the real weights of ../shared are not here"
)


@pytest.fixture(scope="module")
def tiny():
    return SpeechToText(str(SHARED / "weights" / "whisper-tiny.en.pt"))


@shared
@pytest.mark.slow
@pytest.mark.parametrize(
    "sound",
    [noise(0.003, 5), noise(0.001, 20), noise(0.05, 5), noise(0.2, 5, seed=1), hum(), hum(0.1)],
    ids=["hiss", "faint hiss", "noise", "loud noise", "hum", "loud hum"],
)
def test_real_whisper_hears_nothing_in_hiss_and_hum(tiny, sound):
    assert tiny.transcribe(sound) == Transcript("", "en")


@shared
@pytest.mark.slow
def test_real_speech_keeps_every_word_and_a_hissing_end_adds_none(tiny):
    for name in RECORDINGS:
        samples = read_audio(SHARED / "media" / f"{name}.wav").samples
        direct = tiny.model.transcribe(
            samples,
            language="en",
            temperature=0.0,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            fp16=False,
        )
        heard = tiny.transcribe(samples)
        assert heard.text == direct["text"].strip()
        assert "".join(re.findall(r"\w", "".join(word.text for word in heard.words))) == "".join(
            re.findall(r"\w", heard.text)
        )
        assert heard.words[-1].end <= samples.size / 16_000
    hissing = np.concatenate([samples, noise(0.001, 40)])
    assert tiny.transcribe(hissing).text == heard.text


@shared
@pytest.mark.slow
def test_word_times_are_whispers_own(tiny):
    samples = read_audio(SHARED / "media" / f"{RECORDINGS[0]}.wav").samples
    direct = tiny.model.transcribe(
        samples,
        language="en",
        temperature=0.0,
        condition_on_previous_text=False,
        word_timestamps=True,
        fp16=False,
    )
    theirs = [
        Word(word["word"].strip(), float(word["start"]), float(word["end"]))
        for segment in direct["segments"]
        for word in segment["words"]
    ]
    assert list(tiny.transcribe(samples).words) == theirs

"""Sound features by any network that is taken: equal to what its own library gives, 50 steps/s, and
refused by name where something does not fit."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import whisper
from inputs import SHARED, audio_folder, speech_folder, text_folder, whisper_file, write_wav
from torch.nn import functional

from taemi_lib.data.manifest import Clip
from taemi_lib.data.media import Unreadable, read_audio
from taemi_lib.errors import EncoderError
from taemi_lib.features import identity, load_encoders, missing, sources
from taemi_lib.features.audio import AudioEncoder
from taemi_lib.features.clip import extract_clip
from taemi_lib.features.speech import SpeechToText, load_micro
from taemi_lib.profiles import PROFILES

WAVES = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    conv_dim=(8,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    vocab_size=32,
)
LAYERS = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
WHISPER = dict(
    d_model=16,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=16,
    decoder_ffn_dim=16,
    max_source_positions=100,  # 2 s
    num_mel_bins=80,
    vocab_size=60_000,
)


def sound(seconds, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0.02, 0.1, round(seconds * 16_000)).astype(np.float32)


def waves_folder(path, kind, head="Model", changes=(), extractor=()):
    """A random Wav2Vec2, Hubert or WavLM with its feature extractor; head: "Model", "ForCTC"."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**WAVES | dict(changes))
    getattr(transformers, f"{kind}{head}")(config).save_pretrained(path)
    transformers.Wav2Vec2FeatureExtractor(**dict(extractor)).save_pretrained(path)
    return path


def whisper_folder(path, head="Model", extractor=(), **changes):
    """A random Whisper of transformers that hears 2 s."""
    torch.manual_seed(0)
    config = transformers.WhisperConfig(**WHISPER | changes)
    getattr(transformers, f"Whisper{head}")(config).save_pretrained(path)
    settings = {"chunk_length": 2} | dict(extractor)
    transformers.WhisperFeatureExtractor(**settings).save_pretrained(path)
    return path


def direct(folder, samples):
    """What transformers gives, without this project: the last hidden states (T, D)."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    given = extractor(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        if model.config.model_type == "whisper":
            return model.encoder(given["input_features"]).last_hidden_state[0].numpy()
        return model(given["input_values"]).last_hidden_state[0].numpy()


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
@pytest.mark.parametrize("head", ["Model", "ForCTC"])
def test_hidden_states_are_those_of_transformers(tmp_path, kind, head):
    folder = waves_folder(tmp_path / "model", kind, head, changes=LAYERS)
    encoder, samples = AudioEncoder(str(folder)), sound(2.0)
    sequence = encoder.encode(samples)
    assert sequence.values.shape == (99, 16) == (99, encoder.dim)
    assert encoder.kind == "hidden states"
    np.testing.assert_allclose(sequence.values, direct(folder, samples), atol=1e-4)
    np.testing.assert_allclose(np.diff(sequence.times), 0.02, atol=1e-6)
    assert sequence.times[0] == pytest.approx(0.0125)
    with pytest.raises(Unreadable, match=r"shorter than one frame \(399 of 400 samples\)"):
        encoder.encode(samples[:399])


@pytest.mark.parametrize("do_normalize", [True, False, None])
@pytest.mark.parametrize("norm", [{}, LAYERS], ids=["group", "layer"])
def test_the_feature_extractors_settings_count(tmp_path, norm, do_normalize):
    extractor = {"do_normalize": do_normalize} if do_normalize is not None else {}
    folder = waves_folder(tmp_path / "model", "Wav2Vec2", changes=norm, extractor=extractor)
    if do_normalize is None:  # not said in the file: transformers' default
        file = folder / "preprocessor_config.json"
        settings = json.loads(file.read_text())
        del settings["do_normalize"]
        file.write_text(json.dumps(settings))
    samples = sound(1.0) * 3
    np.testing.assert_allclose(
        AudioEncoder(str(folder)).encode(samples).values, direct(folder, samples), atol=1e-4
    )


def test_an_adapter_makes_steps_longer_and_their_times_say_so(tmp_path):
    folder = waves_folder(
        tmp_path / "model", "Wav2Vec2", changes={"add_adapter": True, "num_adapter_layers": 2}
    )
    samples = sound(2.0)
    sequence = AudioEncoder(str(folder)).encode(samples)
    np.testing.assert_allclose(sequence.values, direct(folder, samples), atol=1e-4)
    np.testing.assert_allclose(np.diff(sequence.times), 0.08, atol=1e-6)
    assert sequence.times[-1] < 2.0


def test_audeerings_layout_is_known_by_its_architecture_or_by_its_weights(tmp_path):
    folder = audio_folder(tmp_path / "named")
    nameless = shutil.copytree(folder, tmp_path / "nameless")
    config = json.loads((nameless / "config.json").read_text())
    assert config["architectures"] == ["EmotionWav2Vec2"]
    config["architectures"] = ["Wav2Vec2ForSequenceClassification"]
    (nameless / "config.json").write_text(json.dumps(config))
    samples = sound(1.0)
    for place in (folder, nameless):
        encoder = AudioEncoder(str(place))
        assert encoder.dim == 19 and encoder.kind == "hidden states and logits"
        values = encoder.encode(samples).values
        np.testing.assert_allclose(values[:, :16], direct(folder, samples), atol=1e-4)
        np.testing.assert_array_equal(values, AudioEncoder(str(folder)).encode(samples).values)


@pytest.mark.parametrize("head", ["Model", "ForConditionalGeneration", "ForAudioClassification"])
def test_whisper_of_transformers_gives_its_encoders_states_cut_to_the_sound(tmp_path, head):
    folder = whisper_folder(tmp_path / "model", head)
    encoder = AudioEncoder(str(folder))
    for seconds, steps in ((2.0, 100), (1.5, 75), (0.33, 17), (0.03, 2)):
        samples = sound(seconds)
        sequence = encoder.encode(samples)
        assert sequence.values.shape == (steps, 16) == (steps, encoder.dim)
        np.testing.assert_allclose(
            sequence.values, direct(folder, samples)[:steps], atol=1e-4, err_msg=str(seconds)
        )
        np.testing.assert_allclose(sequence.times, np.arange(steps) * 0.02, atol=1e-6)
    with pytest.raises(Unreadable, match="shorter than one frame"):
        encoder.encode(sound(0.02))


def openais(model, samples, window):
    """What openai-whisper gives, without this project: the encoder's states of one window."""
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples, window * 320))
    with torch.inference_mode():
        return model.encoder(mel[None])[0].numpy()


@pytest.mark.parametrize("window", [100, 1500])
def test_openais_whisper_gives_its_encoders_states_cut_to_the_sound(tmp_path, window):
    file = whisper_file(tmp_path / "tiny.pt", window=window)
    encoder, samples = AudioEncoder(str(file)), sound(1.3)
    model = whisper.load_model(str(file), device="cpu").eval()
    sequence = encoder.encode(samples)
    assert sequence.values.shape == (65, 16)
    np.testing.assert_allclose(sequence.values, openais(model, samples, window)[:65], atol=1e-4)
    assert identity(replace(PROFILES["demo"].encoders, audio=str(file)))["audio"] == (
        f"tiny.pt@{sources.digest(file)}, 12 s"
    )


def test_longer_sound_goes_window_by_window(tmp_path):
    speech = speech_folder(tmp_path / "micro")  # the micro format, windows of 2 s
    file = whisper_file(tmp_path / "tiny.pt", window=100)
    folder = whisper_folder(tmp_path / "model")
    samples = sound(5.0)
    parts = [samples[:32_000], samples[32_000:64_000], samples[64_000:]]
    for source, whole in (
        (speech, lambda part: openais(load_micro(speech)[0].eval(), part, 100)),
        (file, lambda part: openais(whisper.load_model(str(file), "cpu").eval(), part, 100)),
        (folder, lambda part: direct(folder, part)),
    ):
        sequence = AudioEncoder(str(source)).encode(samples)
        assert len(sequence) == 250
        expected = np.concatenate([whole(part)[: len(part) // 320] for part in parts])
        np.testing.assert_allclose(sequence.values, expected, atol=1e-4)
        np.testing.assert_allclose(sequence.times, np.arange(250) * 0.02, atol=1e-5)
        assert len(AudioEncoder(str(source), seconds=3.0).encode(samples)) == 150


def test_a_published_whisper_is_known_as_sound_encoder_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "WHISPER_CACHE", tmp_path)
    settings = replace(PROFILES["demo"].encoders, audio="tiny.en")
    (line,) = missing(settings)
    assert line.startswith("encoders.audio = 'tiny.en': tiny.en.pt is not in whisper's cache")
    assert "`taemi fetch --set encoders.audio=tiny.en`" in line
    assert "--set encoders.audio=FILE" in line
    content = b"the weights"
    sha256 = hashlib.sha256(content).hexdigest()
    address = f"https://example.org/{sha256}/tiny.en.pt"
    monkeypatch.setitem(whisper._MODELS, "tiny.en", address)
    (tmp_path / "tiny.en.pt").write_bytes(content)
    assert missing(settings) == []
    assert identity(settings)["audio"] == f"openai-whisper:tiny.en@{sha256[:8]}, 12 s"


def test_another_sampling_rate_is_refused_by_name(tmp_path):
    places = [
        waves_folder(tmp_path / "waves", "Hubert", extractor={"sampling_rate": 8000}),
        whisper_folder(tmp_path / "whisper", extractor={"sampling_rate": 8000}),
    ]
    for place in places:
        with pytest.raises(EncoderError, match=r"encoders\.audio = .*sampling_rate = 8000.*16000"):
            AudioEncoder(str(place))


def test_a_feature_extractor_of_another_kind_is_refused_by_name(tmp_path):
    folder = waves_folder(tmp_path / "waves", "Wav2Vec2")
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    with pytest.raises(EncoderError, match="feature_extractor_type = WhisperFeatureExtractor"):
        AudioEncoder(str(folder))


@pytest.mark.parametrize(
    ("extractor", "said"),
    [
        ({"chunk_length": 30}, "chunk_length = 30 s.*max_source_positions = 100.*2 s"),
        ({"hop_length": 320}, "hop_length = 320, expected 160"),
        ({"feature_size": 128}, "feature_size = 128.*num_mel_bins = 80"),
    ],
)
def test_a_spectrogram_that_does_not_fit_its_whisper_is_refused(tmp_path, extractor, said):
    folder = whisper_folder(tmp_path / "model", extractor=extractor)
    with pytest.raises(EncoderError, match=said):
        AudioEncoder(str(folder))


def test_a_model_of_another_kind_is_refused_with_what_is_taken(tmp_path):
    with pytest.raises(EncoderError, match="model_type = 'bert'.*wav2vec2, hubert, wavlm or whis"):
        AudioEncoder(str(text_folder(tmp_path / "bert")))


def test_weights_with_gaps_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    for folder in (
        waves_folder(tmp_path / "waves", "WavLM"),
        whisper_folder(tmp_path / "whisper", "ForConditionalGeneration"),
    ):
        file = folder / "model.safetensors"
        tensors = load_file(file)
        gone = next(name for name in tensors if "encoder.layers.1" in name)
        del tensors[gone]
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(EncoderError, match="missing or of another shape: .*encoder"):
            AudioEncoder(str(folder))


def test_sound_encoders_that_answer_randomly_are_refused(tmp_path, monkeypatch):
    noisy = whisper_folder(tmp_path / "noisy", extractor={"dither": 0.01})
    with pytest.raises(EncoderError, match=r"encoders\.audio = .*answers randomly"):
        AudioEncoder(str(noisy))
    folders = [audio_folder(tmp_path / "a"), waves_folder(tmp_path / "h", "Hubert")]
    for folder in folders:
        AudioEncoder(str(folder))
    monkeypatch.setattr(  # as of a model that never learned to switch it off
        torch.nn.Dropout, "forward", lambda self, x: functional.dropout(x, 0.1, training=True)
    )
    for folder in folders:
        with pytest.raises(EncoderError, match=r"encoders\.audio = .*answers randomly"):
            AudioEncoder(str(folder))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    file = audio_folder(tmp_path / "a") / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.out_proj.bias"][0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(EncoderError, match="not finite"):
        AudioEncoder(str(tmp_path / "a"))


class Runs:
    """Runs code where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("encoder", [AudioEncoder, SpeechToText])
def test_a_whisper_file_that_is_damaged_or_holds_code_is_an_encoder_error(tmp_path, encoder):
    ran = tmp_path / "ran"
    whole = whisper_file(tmp_path / "whole.pt").read_bytes()
    file = tmp_path / "foreign.pt"
    for content in (b"", b"garbage", whole[: len(whole) // 2], [1], {"dims": {}}, Runs(ran)):
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(EncoderError, match=r"foreign\.pt' cannot be loaded"):
            encoder(str(file))
    assert not ran.exists()


def test_loading_any_of_them_leaves_the_random_state_alone(tmp_path):
    places = [waves_folder(tmp_path / "w", "WavLM"), whisper_folder(tmp_path / "m")]
    before = torch.random.get_rng_state()
    for place in places:
        AudioEncoder(str(place))
    assert torch.equal(before, torch.random.get_rng_state())


# --- real weights ---

WEIGHTS = SHARED / "weights" / "whisper-tiny.en.pt"


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the real weights of ../shared are not here")
def test_one_real_whisper_gives_both_sound_features_and_words(tmp_path):
    settings = replace(PROFILES["demo"].encoders, audio=str(WEIGHTS), speech=str(WEIGHTS))
    encoders = load_encoders(settings)
    assert encoders.audio.dim == 384
    assert len({encoders.identity[role].split(",")[0] for role in ("audio", "speech")}) == 1
    model = whisper.load_model(str(WEIGHTS), device="cpu").eval()
    for recording in sorted((SHARED / "media").glob("*.wav")):
        features = extract_clip(Clip("a", "test", None, recording), encoders)
        samples = read_audio(recording).samples
        steps = -(-samples.size // 320)
        assert features.audio.values.shape == (steps, 384)
        expected = openais(model, samples, 1500)[:steps]
        np.testing.assert_allclose(features.audio.values, expected, atol=1e-4)
        assert features.audio.times[-1] < samples.size / 16_000
        said = model.transcribe(samples, fp16=False, temperature=0.0)["text"]
        assert features.transcript == said.strip() and len(said.split()) > 10 and features.words
    with pytest.raises(Unreadable):
        encoders.audio.encode(read_audio(write_wav(tmp_path / "a.wav", sound(0.02))).samples)

"""Encoders: formats, shapes and times, that masks and padding change nothing, and real weights
where there are."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import whisper
from inputs import (
    SHARED,
    WORDS,
    audio_folder,
    encoder_settings,
    speech_folder,
    text_folder,
    tone,
)
from safetensors.torch import load_file, save_file

from taemi_lib import profiles
from taemi_lib.data.media import Unreadable, read_audio
from taemi_lib.errors import EncoderError
from taemi_lib.features import identity, load_encoders, missing, sources
from taemi_lib.features.audio import AudioEncoder
from taemi_lib.features.speech import SpeechToText, load_micro
from taemi_lib.features.text import TextEncoder

AUDEERING = dict(  # "large-robust-12-ft": the sizes behind the paper's 1027
    hidden_size=1024,
    num_hidden_layers=12,
    num_attention_heads=16,
    intermediate_size=4096,
    conv_dim=(512,) * 7,
    conv_kernel=(10, 3, 3, 3, 3, 2, 2),
    conv_stride=(5, 2, 2, 2, 2, 2, 2),
    num_conv_pos_embeddings=128,
    num_conv_pos_embedding_groups=16,
    do_normalize=True,
)


def sound(seconds, seed=0):
    return (
        np.random.default_rng(seed)
        .normal(scale=0.1, size=round(seconds * 16_000))
        .astype(np.float32)
    )


def test_audio_is_hidden_states_joined_with_three_logits_at_50_frames_per_second(tmp_path):
    encoder = AudioEncoder(audio_folder(tmp_path / "a").as_posix())
    sequence = encoder.encode(sound(2.0))
    count = int(encoder.model._get_feat_extract_output_lengths(32_000))
    assert (
        sequence.values.shape == (count, 19)
        and encoder.dim == 19
        and sequence.values.dtype == np.float32
    )
    np.testing.assert_allclose(np.diff(sequence.times), 0.02, atol=1e-6)
    assert sequence.times[0] == pytest.approx(
        920 / 2 / 16_000
    )  # one frame sees 200 + 3 * 80 + 3 * 160 samples
    hidden = torch.from_numpy(sequence.values[:, :16])
    with torch.inference_mode():
        np.testing.assert_allclose(
            encoder.model.classifier(hidden), sequence.values[:, 16:], atol=1e-5
        )


@pytest.mark.parametrize("seconds", [0.3, 2.0, 5.3])
def test_the_real_length_gives_the_valid_frames_of_padding_to_12_s_with_a_mask(tmp_path, seconds):
    encoder = AudioEncoder(audio_folder(tmp_path / "a", num_hidden_layers=2).as_posix())
    samples = sound(seconds)
    values = encoder.encode(samples).values
    waves = torch.randn(1, 192_000)  # noise behind the sound: only the mask can keep it out
    waves[0, : samples.size] = torch.from_numpy(samples)
    mask = torch.arange(192_000)[None] < samples.size
    with torch.inference_mode():
        padded = encoder.model(waves, mask.long())[0, : len(values)].numpy()
    # The last frames' convolution windows end inside the sound, so they agree as well.
    np.testing.assert_allclose(values, padded, atol=1e-4)


def test_sound_is_cut_at_12_s_and_refused_below_one_frame(tmp_path):
    encoder = AudioEncoder(audio_folder(tmp_path / "a").as_posix())
    long = sound(13)
    np.testing.assert_array_equal(
        encoder.encode(long).values, encoder.encode(long[:192_000]).values
    )
    assert len(AudioEncoder(str(tmp_path / "a"), seconds=1.0).encode(long)) < 50
    assert len(encoder.encode(long[:920])) == 1
    with pytest.raises(Unreadable, match="shorter than one frame"):
        encoder.encode(long[:919])


def test_normalisation_follows_the_preprocessor_settings(tmp_path):
    loud_matters = AudioEncoder(audio_folder(tmp_path / "a", do_normalize=False).as_posix())
    loud_is_lost = AudioEncoder(audio_folder(tmp_path / "b", do_normalize=True).as_posix())
    samples = sound(1.0)
    np.testing.assert_allclose(
        loud_is_lost.encode(samples).values, loud_is_lost.encode(samples * 5).values, atol=1e-3
    )
    assert (
        np.abs(loud_matters.encode(samples).values - loud_matters.encode(samples * 5).values).max()
        > 1e-2
    )


@pytest.mark.slow
def test_audeerings_shape_gives_599_by_1027_for_12_s(tmp_path):
    folder = audio_folder(tmp_path / "audeering", **AUDEERING)
    encoder = AudioEncoder(str(folder))
    assert encoder.encode(sound(12.0)).values.shape == (599, 1027)
    assert encoder.encode(sound(20.0)).values.shape == (599, 1027)


def test_text_is_tokens_and_their_summary(tmp_path):
    folder = str(text_folder(tmp_path / "t"))
    tokens, cls = TextEncoder(folder).encode("so glad to see you")
    assert tokens.values.shape == (7, 16)  # [CLS] and [SEP] included
    np.testing.assert_array_equal(cls, tokens.values[0])
    np.testing.assert_array_equal(tokens.times, np.arange(7))
    _, mean = TextEncoder(folder, pooling="mean").encode("so glad to see you")
    np.testing.assert_allclose(mean, tokens.values.mean(axis=0), atol=1e-6)
    assert len(TextEncoder(folder, max_tokens=4).encode("so glad to see you")[0]) == 4
    with pytest.raises(Unreadable, match="empty transcript"):
        TextEncoder(folder).encode("  ")


def test_the_compact_whisper_folder_says_what_one_with_a_whole_vocabulary_says(tmp_path):
    folder = speech_folder(tmp_path / "s")
    tensors = load_file(folder / "model.safetensors")
    tensors["token_embedding.other"] = torch.randn(16)
    save_file(tensors, folder / "model.safetensors")
    compact, sample_len = load_micro(folder)
    assert sample_len == 4 and compact.dims.n_vocab == 51_864
    table = tensors["token_embedding.other"].float().repeat(51_864, 1)
    table[tensors["token_embedding.ids"].long()] = tensors["token_embedding.rows"].float()
    whole = whisper.Whisper(compact.dims)
    whole.load_state_dict(
        compact.state_dict() | {"decoder.token_embedding.weight": table}, strict=True
    )
    tokens = torch.tensor([[50_257, 640, 641, 1234, 51_863]])
    heard = torch.randn(1, 100, 16)
    with torch.inference_mode():
        embedded = compact.decoder.token_embedding(tokens)
        assert torch.equal(embedded, whole.decoder.token_embedding(tokens))
        expected = whole.decoder(tokens, heard)
        assert expected.shape == (1, 5, 51_864)
        torch.testing.assert_close(compact.decoder(tokens, heard), expected)
    assert expected[0, 0, 640] != expected[0, 0, 641] == expected[0, 0, 642]
    with pytest.raises(EncoderError, match=r"has no model\.safetensors"):
        (folder / "model.safetensors").unlink()
        load_micro(folder)


def test_a_short_context_hears_every_window_but_no_tiny_rest(tmp_path, monkeypatch):
    speech = SpeechToText(str(speech_folder(tmp_path / "s")))
    said = iter(["one", "two", "three"])
    windows = []

    def decode(model, mel, options):
        windows.append(mel.shape)
        return whisper.DecodingResult(audio_features=None, language="en", text=next(said))

    monkeypatch.setattr(whisper, "decode", decode)
    assert speech.transcribe(tone(4.1)[0]).text == "one two"
    assert windows == [(80, 200), (80, 200)]
    assert speech.transcribe(np.zeros(16_000, np.float32)).text == ""


def test_transcribing_twice_gives_the_same_words(tmp_path):
    speech = SpeechToText(str(speech_folder(tmp_path / "s")))
    assert speech.transcribe(sound(3.0)) == speech.transcribe(sound(3.0))


def test_loading_leaves_the_random_state_alone(tmp_path):
    settings = encoder_settings(tmp_path)
    before = torch.random.get_rng_state()
    load_encoders(settings)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_identity_names_weights_and_settings_and_needs_no_loading(tmp_path):
    settings = encoder_settings(tmp_path)
    named = identity(settings)
    assert named == load_encoders(settings).identity
    assert re.fullmatch(r"audio@[0-9a-f]{8}, 12 s", named["audio"])
    assert re.fullmatch(r"vision@[0-9a-f]{8}, cls, first 400 frames", named["vision"])
    assert str(tmp_path) not in json.dumps(named)
    config = tmp_path / "text" / "config.json"
    config.write_text(config.read_text() + " ")
    assert (
        identity(settings)["text"] != named["text"]
        and identity(settings)["audio"] == named["audio"]
    )


@pytest.mark.parametrize("role", ["audio", "vision", "speech", "text"])
@pytest.mark.parametrize("source", ["nobody/no-such-model", "micro:none", "not a name at all"])
def test_an_encoder_that_is_not_there_is_named(tmp_path, monkeypatch, role, source):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match=f"encoders.{role} = '{source}'"):
        identity(
            profiles.Encoders(
                **{
                    "audio": str(audio_folder(tmp_path / "a")),
                    "vision": str(tmp_path / "a"),
                    "text": str(tmp_path / "a"),
                    "speech": str(tmp_path / "a"),
                }
                | {role: source}
            )
        )


@pytest.mark.parametrize("role", ["audio", "vision", "speech", "text"])
def test_a_folder_that_does_not_exist_is_named_with_its_setting_and_what_to_do(tmp_path, role):
    folder = str(tmp_path / "nowhere")
    with pytest.raises(EncoderError) as caught:
        identity(replace(profiles.PROFILES["demo"].encoders, **{role: folder}))
    assert str(caught.value).startswith(f"encoders.{role} = {folder!r}: no such folder")
    assert (
        "the published models are" in str(caught.value)
        if role == "speech"
        else (f"--set encoders.{role}=FOLDER" in str(caught.value))
    )


def test_what_is_not_on_this_machine_is_listed_and_nothing_is_fetched(tmp_path, monkeypatch):
    import huggingface_hub.constants

    hub, whispers = tmp_path / "hub", tmp_path / "whisper"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(sources, "WHISPER_CACHE", whispers)
    paper = profiles.PROFILES["paper"].encoders
    lines = missing(paper)  # `no_network` guards that nothing is asked for
    assert [line.split(" = ")[0] for line in lines] == [
        "encoders.audio",
        "encoders.vision",
        "encoders.text",
        "encoders.speech",
    ]
    assert "'google/vit-base-patch16-224'" in lines[1] and "--set encoders.vision=" in lines[1]
    assert all("`taemi fetch --profile paper`" in line for line in lines)
    assert "large-v3.pt is not in whisper's cache" in lines[3]
    assert len(missing(replace(paper, transcripts="table"))) == 3  # no Whisper is needed

    whispers.mkdir()
    (whispers / "large-v3.pt").touch()
    assert "large-v3.pt is damaged, or only a part of it is in" in missing(paper)[3]
    monkeypatch.setattr(sources.Published, "is_here", lambda self: self.cached.is_file())
    snapshot = hub / "models--google--vit-base-patch16-224" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text("{}")
    assert len(missing(paper)) == 3  # of the vision encoder only the settings are there
    (snapshot / "model.safetensors").touch()
    assert [line.split(" = ")[0] for line in missing(paper)] == ["encoders.audio", "encoders.text"]
    assert missing(profiles.PROFILES["demo"].encoders) == []


def test_the_papers_text_encoder_is_of_a_class_that_transformers_knows(tmp_path):
    """mGTE, here tiny and random: the real one is alibaba-nlp-community/gte-multilingual-base."""
    from transformers import AutoTokenizer, GteConfig, GteModel

    AutoTokenizer.from_pretrained(text_folder(tmp_path / "bert")).save_pretrained(tmp_path / "gte")
    torch.manual_seed(0)
    config = GteConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    GteModel(config).save_pretrained(tmp_path / "gte")
    assert "gte" in profiles.PROFILES["paper"].encoders.text
    encoder = TextEncoder(str(tmp_path / "gte"), pooling="cls")
    tokens, pooled = encoder.encode("so glad to see you")
    assert type(encoder.model) is GteModel and tokens.values.shape == (7, 16)
    np.testing.assert_array_equal(pooled, tokens.values[0])


def test_weights_with_gaps_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    file = audio_folder(tmp_path / "a") / "model.safetensors"
    tensors = load_file(file)
    del tensors["classifier.out_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(
        EncoderError, match=r"missing or of another shape: classifier\.out_proj\.weight"
    ):
        AudioEncoder(str(tmp_path / "a"))


# --- real weights ---

shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(), reason="the real weights of ../shared are not here"
)


def words(text):
    return re.sub(r"[^a-z' ]+", " ", text.lower()).split()


def word_errors(said, heard):
    """Levenshtein distance of two lists of words."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (word != other))
    return row[-1]


@shared
@pytest.mark.slow
def test_real_whisper_reaches_15_percent_word_error_rate_on_real_recordings():
    table = re.findall(
        r"\| (librivox-\d+\.wav) \| (.+) \|", (SHARED / "media" / "README.md").read_text()
    )
    assert len(table) == 3
    speech = SpeechToText(str(SHARED / "weights" / "whisper-tiny.en.pt"))
    errors = total = 0
    for name, said in table:
        heard = speech.transcribe(read_audio(SHARED / "media" / name).samples).text
        errors += word_errors(words(said), words(heard))
        total += len(words(said))
    print(f"word error rate {errors / total:.1%} ({errors} of {total} words)")
    assert errors / total <= 0.15


@shared
@pytest.mark.slow
def test_minilm_works_as_text_encoder():
    encoder = TextEncoder(str(SHARED / "weights" / "all-MiniLM-L6-v2"), pooling="mean")
    texts = (
        "The boy is very happy about the present.",
        "A child rejoices at his gift.",
        "Inflation rose in March.",
    )
    happy, glad, other = (
        v / np.linalg.norm(v) for v in (encoder.encode(text)[1] for text in texts)
    )
    assert happy.shape == (384,)
    assert happy @ glad > 0.5 > 0.2 > happy @ other
    assert (
        len(encoder.encode(texts[0])[0]) < 20
    )  # its tokenizer.json asks for padding to 128: not here


@shared
def test_a_whisper_file_is_named_by_its_contents():
    settings = profiles.Encoders(speech=str(SHARED / "weights" / "whisper-tiny.en.pt"))
    from taemi_lib.features.speech import locate_speech

    assert re.fullmatch(
        r"whisper-tiny\.en\.pt@[0-9a-f]{8}", locate_speech(settings.speech).identity
    )

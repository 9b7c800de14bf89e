"""Small inputs that the tests make for themselves: media files, and random encoders in the real
formats."""

import json
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from taemi_lib.profiles import ROOT

SHARED = ROOT.parent / "shared"  # real weights and recordings, where they are at hand
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "so", "glad", "to", "see", "you"]


def tone(seconds=2.0, rate=16_000, hertz=220.0, channels=1, loud=0.3):
    """A sine, (channels, N) float32."""
    wave_ = loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave_[None].astype(np.float32), channels, axis=0)


def write_mp4(path, sound=None, rate=16_000, frame_times=None, side=32, options=None, shade=None):
    """An MP4 with H.264 pictures at `frame_times` (s) and AAC sound (channels, N); None leaves a
    track out.

    The grey value of frame i is shade(i), by default rising by 5 per frame.
    """
    shade = shade or (lambda i: min(250, 20 + 5 * i))
    with av.open(str(path), "w", options=options or {}) as container:
        if frame_times is not None:
            video = container.add_stream("libx264", rate=1000, options={"g": "5", "crf": "5"})
            video.width = video.height = side
            video.pix_fmt = "yuv420p"
            video.codec_context.thread_count = 1
            video.codec_context.time_base = Fraction(1, 1000)
        if sound is not None:
            layout = "stereo" if len(sound) == 2 else "mono"
            audio = container.add_stream("aac", rate=rate, layout=layout)
        if frame_times is not None:
            for i, seconds in enumerate(frame_times):
                frame = av.VideoFrame.from_ndarray(
                    np.full((side, side, 3), shade(i), np.uint8), format="rgb24"
                )
                frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if sound is not None:
            for start in range(0, sound.shape[1], 1024):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(sound[:, start : start + 1024]),
                    format="fltp",
                    layout=layout,
                )
                frame.sample_rate, frame.pts = rate, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return Path(path)


def write_clip(path, seconds=1.0, **changes):
    """An ordinary clip: 10 frames/s and a tone."""
    given = {"sound": tone(seconds), "frame_times": np.arange(0, seconds, 0.1)} | changes
    return write_mp4(path, **given)


def write_wav(path, samples, rate=16_000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.reshape(-1) * 32767).astype("<i2").tobytes())
    return Path(path)


def audio_folder(path, do_normalize=False, **changes):
    """A random wav2vec2 with emotion head in audeering's format; by default tiny, 40 frames of 16 +
    3."""
    from transformers import Wav2Vec2Config

    from taemi_lib.features.audio import EmotionWav2Vec2

    sizes = (
        dict(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(8, 8, 8),
            conv_kernel=(200, 4, 4),
            conv_stride=(80, 2, 2),
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            conv_bias=True,
            num_labels=3,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
        )
        | changes
    )
    torch.manual_seed(0)
    EmotionWav2Vec2(Wav2Vec2Config(**sizes)).save_pretrained(path)
    settings = {
        "do_normalize": do_normalize,
        "sampling_rate": 16_000,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    }
    (Path(path) / "preprocessor_config.json").write_text(json.dumps(settings))
    return Path(path)


def vision_folder(path, side=24):
    """A random ViT, D = 16."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=side,
        patch_size=12,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(path)
    settings = {
        "size": {"height": side, "width": side},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
        "image_processor_type": "ViTImageProcessor",
    }
    (Path(path) / "preprocessor_config.json").write_text(json.dumps(settings))
    return Path(path)


def text_folder(path):
    """A random BERT that knows WORDS, D = 16."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(path)
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    BertTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    return Path(path)


def _whisper(window, scale, words=51_864, kept=("encoder.positional",)):
    """(sizes, random weights) of a Whisper of 16 columns; `window` in encoder steps (1500: 30 s).
    What begins with one of `kept` stays as whisper makes it."""
    import whisper

    dims = dict(
        n_mels=80,
        n_audio_ctx=window,
        n_audio_state=16,
        n_audio_head=2,
        n_audio_layer=1,
        n_vocab=words,
        n_text_ctx=32,
        n_text_state=16,
        n_text_head=2,
        n_text_layer=1,
    )
    torch.manual_seed(0)
    model = whisper.Whisper(whisper.model.ModelDimensions(**dims))
    state = {
        name: tensor if name.startswith(kept) else torch.randn(tensor.shape) * scale
        for name, tensor in model.state_dict().items()
    }
    return dims, state


def speech_folder(path):
    """A random Whisper of 16 columns and a 2 s window in the micro format (compact embedding,
    fp16)."""
    from safetensors.torch import save_file

    dims, state = _whisper(100, 0.3)
    ids = torch.tensor([50_256, 50_257, 50_361, 50_362, 640, 1234], dtype=torch.int32)
    del state["decoder.token_embedding.weight"]
    state |= {
        "token_embedding.rows": torch.randn(len(ids), 16),
        "token_embedding.other": torch.zeros(16),
    }
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in state.items()} | {
        "token_embedding.ids": ids
    }
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(dims | {"sample_len": 4}))
    return path


def whisper_file(path, multilingual=False, window=1500):
    """A random Whisper in openai's format."""
    # the rows of tokens so short that none is much more likely than others
    kept = ("encoder.positional", "decoder.positional")
    dims, state = _whisper(window, 0.1, 51_864 + multilingual, kept)
    state["decoder.positional_embedding"] = torch.zeros(32, 16)
    torch.save({"dims": dims, "model_state_dict": state}, path)
    return Path(path)


def encoder_settings(folder, **changes):
    """profiles.Encoders over four tiny random encoders in `folder`."""
    from taemi_lib.profiles import Encoders

    made = {
        "audio": audio_folder(folder / "audio"),
        "vision": vision_folder(folder / "vision"),
        "speech": speech_folder(folder / "speech"),
        "text": text_folder(folder / "text"),
    }
    return Encoders(**{role: str(path) for role, path in made.items()}, **changes)


def write_sound(path, pieces, codec="pcm_f32le", layout=None, tracks=None):
    """A file with sound alone; pieces: [(start in s, samples (C, N), rate in Hz)], of one rate and
    layout: what lies between them is missing from the stream. tracks: {number: disposition} of
    several tracks, each with the pieces of its number."""
    tracks = tracks or {0: None}
    pieces = pieces if isinstance(pieces, dict) else {0: pieces}
    options = {"write_xing": "0", "id3v2_version": "0"} if Path(path).suffix == ".mp3" else {}
    with av.open(str(path), "w", options=options) as container:
        streams = {}
        for number, disposition in tracks.items():
            _, samples, rate = pieces[number][0]
            named = layout or {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[len(samples)]
            streams[number] = container.add_stream(codec, rate=rate, layout=named)
            if disposition is not None:
                streams[number].disposition = disposition
        for number, stream in streams.items():
            samples = np.concatenate([piece for _, piece, _ in pieces[number]], axis=1)
            packed = np.ascontiguousarray(samples.T.reshape(1, -1), np.float32)
            converted = av.AudioResampler(stream.format, stream.layout, stream.rate)
            packets, width = [], 960 * len(samples)
            for at in range(0, packed.shape[1], width):
                frame = av.AudioFrame.from_ndarray(
                    packed[:, at : at + width], format="flt", layout=stream.layout
                )
                frame.sample_rate, frame.time_base = stream.rate, Fraction(1, stream.rate)
                frame.pts = at // len(samples)
                for ready in converted.resample(frame):
                    packets += stream.encode(ready)
            for packet in [*packets, *stream.encode(None)]:
                shift = _shift(pieces[number], float(packet.pts * packet.time_base))
                packet.pts += round(shift / packet.time_base)
                packet.dts = packet.pts
                container.mux(packet)
    return Path(path)


def _shift(pieces, time):
    """How much later than in an unbroken stream the sound at `time` s begins."""
    at, shift = 0.0, 0.0
    for start, samples, rate in pieces:
        if time >= at - 1e-6:
            shift = start - at
        at += samples.shape[1] / rate
    return shift


def set_matrix(path, matrix):
    """Write the display matrix (a, b, c, d), in halves of the circle's axes, into an MP4's first
    track: what a phone does instead of turning the pixels."""
    data = bytearray(Path(path).read_bytes())
    track = data.index(b"tkhd")
    at = track + 4 + (40 if data[track + 4] == 0 else 52)
    a, b, c, d = (round(value * 65536) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    Path(path).write_bytes(data)
    return Path(path)


def write_pictures(path, images, times, options=None, pixel=None, rate=1000):
    """An MP4 (or what the path's ending says) of these images (T, H, W, 3) at these times (s)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1", **(options or {})})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 1000)
        if pixel is not None:
            stream.codec_context.sample_aspect_ratio = pixel
        for image, time in zip(images, times):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)

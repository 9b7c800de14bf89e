"""Sound -> transcript, with openai-whisper's models: a checkpoint, a name such as "large-v3", or
the micro folder.

Whisper's own file reading needs an ffmpeg binary and is not used: samples come from `data.media`.
Decoding is greedy (temperature 0), so that the same sound always gives the same words.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import whisper
from safetensors.torch import load_file
from whisper.audio import HOP_LENGTH
from whisper.model import ModelDimensions

from taemi_lib.data.media import SAMPLE_RATE, is_silent
from taemi_lib.errors import EncoderError
from taemi_lib.features.loading import loading
from taemi_lib.features.sequences import Transcript
from taemi_lib.features.sources import locate_speech

_LANGUAGE = "en"  # the data's; automatic detection would guess anew for every clip
_FULL_CONTEXT = 1500  # encoder frames of every published Whisper: 30 s
# a last window shorter than 0.25 s holds no word, but makes Whisper invent one
_SHORTEST = SAMPLE_RATE // 4


class SpeechToText:
    """One clip's sound to its words.

    source: a whisper .pt file, a published model's name (downloaded once, to whisper's own cache),
    or a folder with config.json and model.safetensors (the micro format). Raises EncoderError when
    the model is not there.
    """

    def __init__(self, source: str, device: str = "cpu"):
        place = locate_speech(source)
        with loading(source, "speech"):
            if Path(place.where).is_dir():
                self.model, self.sample_len = load_micro(Path(place.where))
                self.model.to(device)
            else:  # whisper reads its own format with weights_only=True
                self.model, self.sample_len = whisper.load_model(place.where, device=device), None
        self.model.eval()
        self.identity = place.identity

    @torch.inference_mode()
    def transcribe(self, samples: np.ndarray) -> Transcript:
        """samples (N,) float32 at 16 kHz, any length -> the words of all segments; "" where none
        were heard."""
        samples = np.ascontiguousarray(samples, np.float32)
        if is_silent(samples):
            return Transcript("", _LANGUAGE)
        if self.model.dims.n_audio_ctx == _FULL_CONTEXT:
            # No text carried over between windows: it may send greedy decoding into a loop.
            result = self.model.transcribe(
                samples,
                language=_LANGUAGE,
                temperature=0.0,
                condition_on_previous_text=False,
                fp16=self.model.device.type == "cuda",
            )
            texts = [segment["text"] for segment in result["segments"]]
        else:
            texts = self._windows(samples)
        text = " ".join(text.strip() for text in texts if text.strip())
        return Transcript(text, _LANGUAGE)

    def _windows(self, samples: np.ndarray) -> list[str]:
        """Window by window: `whisper.transcribe` insists on 30 s, a smaller encoder has a shorter
        context."""
        frames = 2 * self.model.dims.n_audio_ctx  # mel frames per window; the encoder halves them
        width = frames * HOP_LENGTH  # samples per window
        # (n_mels, (N + width) / 160): silence is added before the spectrogram, because zeros in it
        # are not silence
        mel = whisper.log_mel_spectrogram(
            samples, self.model.dims.n_mels, padding=width, device=self.model.device
        )
        options = whisper.DecodingOptions(
            language=_LANGUAGE,
            without_timestamps=True,
            fp16=False,
            temperature=0.0,
            sample_len=self.sample_len,
        )
        texts = []
        for number, start in enumerate(range(0, samples.size, width)):
            part = samples[start : start + width]
            if is_silent(part) or (start and part.size < _SHORTEST):
                continue
            window = whisper.pad_or_trim(mel[:, number * frames : (number + 1) * frames], frames)
            texts.append(whisper.decode(self.model, window, options).text)
        return texts


def load_micro(folder: Path) -> tuple[whisper.Whisper, int | None]:
    """A Whisper from the compact folder format, and the number of tokens it may say per window.

    The vocabulary has 51,864 tokens, of which a small world uses a few hundred; all other rows of
    the embedding are one row. `token_embedding.rows` (K, D) at `token_embedding.ids` (K,),
    `token_embedding.other` (D,) everywhere else. Raises EncoderError naming what is missing.
    """
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.exists():
            raise EncoderError(f"speech encoder folder {folder.name!r} has no {file.name}")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    names = [field.name for field in fields(ModelDimensions)]
    if absent := [name for name in names if name not in config]:
        raise EncoderError(
            f"speech encoder folder {folder.name!r}: config.json lacks {', '.join(absent)}"
        )
    dims = ModelDimensions(**{name: config[name] for name in names})
    tensors = load_file(weights_file)
    state = {
        name: tensor.float()
        for name, tensor in tensors.items()
        if not name.startswith("token_embedding.")
    }
    table = tensors["token_embedding.other"].float().repeat(dims.n_vocab, 1)  # (n_vocab, D)
    table[tensors["token_embedding.ids"].long()] = tensors["token_embedding.rows"].float()
    state["decoder.token_embedding.weight"] = table
    model = whisper.Whisper(dims)
    model.load_state_dict(state)  # strict: a fresh Whisper is uninitialised memory
    return model, config.get("sample_len")

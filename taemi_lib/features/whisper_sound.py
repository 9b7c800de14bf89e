"""A Whisper's encoder as a source of sound features: 50 steps/s of what it hears before it puts
that into words.

A Whisper hears windows of fixed length (30 s), filled up with silence; the steps of the filling are
cut off. openai-whisper's models (a .pt file, a published name, the micro folder) go through its own
spectrogram, transformers' folders through transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import whisper
from torch import nn
from transformers import WhisperModel
from whisper.audio import HOP_LENGTH, N_FFT

from taemi_lib.data.media import SAMPLE_RATE
from taemi_lib.errors import EncoderError
from taemi_lib.features.loading import HERE_ONLY, check_complete, feature_extractor
from taemi_lib.features.sources import Source
from taemi_lib.features.speech import load_micro, load_openai

_STEP = 2 * HOP_LENGTH  # samples: the encoder's second convolution halves the frames of 10 ms


class WhisperSound:
    """The encoder and its spectrogram. `least`: samples that one frame of the spectrogram sees."""

    kind = "hidden states of Whisper's encoder"
    least = N_FFT
    normalizes = False  # its spectrogram has its own rule

    def __init__(self, place: Source, source: str, device: torch.device, in_transformers: bool):
        load = _of_transformers if in_transformers else _of_openai
        model, self._mel, steps = load(place, source)
        self.model = model.to(device).eval()
        self._device = device
        self._width = steps * _STEP  # samples per window

    def encode(self, samples: np.ndarray) -> torch.Tensor:
        """(N,) float32 at 16 kHz -> (T, D): every step whose middle lies inside the sound."""
        windows = []
        for start in range(0, len(samples), self._width):
            part = np.ascontiguousarray(samples[start : start + self._width])
            hidden = self.model(self._mel(part, self._width).to(self._device))
            hidden = hidden if isinstance(hidden, torch.Tensor) else hidden.last_hidden_state
            windows.append(hidden[0, : -(-len(part) // _STEP)])  # rounded up
        return torch.cat(windows)

    def times(self, count: int) -> np.ndarray:
        """(count,) s, the middle of what each step sees."""
        return np.arange(count) * _STEP / SAMPLE_RATE


Loaded = tuple[nn.Module, Callable[[np.ndarray, int], torch.Tensor], int]


def _of_openai(place: Source, source: str) -> Loaded:
    if Path(place.where).is_dir():
        model, _ = load_micro(Path(place.where))
    else:
        model = load_openai(place)
    mels = model.dims.n_mels

    def spectrogram(samples: np.ndarray, width: int) -> torch.Tensor:
        return whisper.log_mel_spectrogram(whisper.pad_or_trim(samples, width), mels)[None]

    return model.encoder, spectrogram, model.dims.n_audio_ctx


def _of_transformers(place: Source, source: str) -> Loaded:
    extractor = feature_extractor(place, source, "WhisperFeatureExtractor")
    model, info = WhisperModel.from_pretrained(
        place.where, dtype=torch.float32, output_loading_info=True, **HERE_ONLY
    )
    check_complete(info, source, "audio", optional=("decoder.",))
    config = model.config
    about = f"encoders.audio = {source!r}: its feature extractor's settings say"
    if extractor.hop_length != HOP_LENGTH:
        raise EncoderError(f"{about} hop_length = {extractor.hop_length}, expected {HOP_LENGTH}")
    if extractor.feature_size != config.num_mel_bins:
        raise EncoderError(
            f"{about} feature_size = {extractor.feature_size}, and its config.json "
            f"num_mel_bins = {config.num_mel_bins}; they must be equal"
        )
    if extractor.n_samples != config.max_source_positions * _STEP:
        raise EncoderError(
            f"{about} chunk_length = {extractor.chunk_length} s, and its config.json "
            f"max_source_positions = {config.max_source_positions}, which are "
            f"{config.max_source_positions * _STEP / SAMPLE_RATE:g} s; they must be equal"
        )

    def spectrogram(samples: np.ndarray, width: int) -> torch.Tensor:
        return extractor(
            samples, sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_features.float()

    return model.get_encoder(), spectrogram, config.max_source_positions

"""Sound -> sequence, by the network that `encoders.audio` names.

Which one that is, config.json decides: `waves` (wav2vec 2.0, HuBERT, WavLM; audeering's layout is
the paper's) or `whisper_sound` (the encoder of any Whisper, which may also be one of openai's files
or published names). Both give about 50 steps/s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import PretrainedConfig

from taemi_lib.data.media import SAMPLE_RATE, Unreadable
from taemi_lib.errors import EncoderError
from taemi_lib.features.loading import loading
from taemi_lib.features.sequences import Sequence
from taemi_lib.features.sources import Source, is_openai_whisper, locate_audio
from taemi_lib.features.steady import check_steady
from taemi_lib.features.waves import FAMILY, EmotionWav2Vec2, Waves
from taemi_lib.features.whisper_sound import WhisperSound

__all__ = ["AudioEncoder", "EmotionWav2Vec2"]


class AudioEncoder:
    """One clip's sound to a sequence of about 50 steps/s.

    source: folder or hub id of a Wav2Vec2, HuBERT, WavLM or Whisper checkpoint, a whisper .pt file,
    or a published Whisper's name. seconds: longer sound is cut (the paper: 12 s). dim: hidden + 3
    in audeering's layout, else hidden; kind: which of these, in words; normalizes: whether loudness
    is removed first. Raises EncoderError when the
    model is not there, is of another kind, or answers randomly.
    """

    def __init__(self, source: str, device: str = "cpu", seconds: float = 12.0):
        self.seconds = seconds
        place = locate_audio(source)
        with loading(source, "audio", place), torch.inference_mode():
            self._network = _network(place, source, torch.device(device))
            probe = np.sin(np.arange(SAMPLE_RATE // 2, dtype=np.float32) ** 1.3)  # a rising tone
            first = self._network.encode(probe)
            check_steady(first, self._network.encode(probe), source, "audio")
        self.model, self.kind = self._network.model, self._network.kind
        self.normalizes = self._network.normalizes
        self.dim = first.shape[1]
        self.identity = place.identity

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> Sequence:
        """samples (N,) float32 at 16 kHz -> values (T, dim) float32; times are the middle of what a
        step sees. Raises Unreadable for sound shorter than one frame."""
        samples = np.asarray(samples, np.float32)[: round(self.seconds * SAMPLE_RATE)]
        if samples.size < (least := self._network.least):
            raise Unreadable(f"audio shorter than one frame ({samples.size} of {least} samples)")
        values = self._network.encode(samples).cpu().numpy()  # (T, dim)
        return Sequence(values, self._network.times(len(values)).astype(np.float32))


def _network(place: Source, source: str, device: torch.device) -> Waves | WhisperSound:
    if is_openai_whisper(place):
        return WhisperSound(place, source, device, in_transformers=False)
    config, _ = PretrainedConfig.get_config_dict(place.where, local_files_only=True)
    kind = config.get("model_type")
    if kind in FAMILY:
        return Waves(place, source, device)
    if kind == "whisper":
        return WhisperSound(place, source, device, in_transformers=True)
    if Path(place.where).is_dir() and "n_audio_ctx" in config:  # the micro format
        return WhisperSound(place, source, device, in_transformers=False)
    raise EncoderError(
        f"encoders.audio = {source!r}: its config.json says model_type = {kind!r}; sound is "
        f"encoded by {', '.join(FAMILY)} or whisper"
    )

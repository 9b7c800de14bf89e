"""wav2vec 2.0, HuBERT, WavLM: networks that hear the wave itself.

Two outputs. A checkpoint of audeering's layout (a Wav2Vec2Model and a regression head of arousal,
dominance, valence) gives hidden states joined with the head's logits, `A = concat(H, Z)`
(docs/paper.md, "audio"): there the head sees the mean over time; here it runs on every frame,
T x (1024 + 3). Every other checkpoint gives the last hidden states alone, T x hidden: of a model
for speech recognition its encoder is used and its letters are not.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, Wav2Vec2Config, Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2PreTrainedModel

from taemi_lib.data.media import SAMPLE_RATE
from taemi_lib.features.loading import HERE_ONLY, check_complete, feature_extractor
from taemi_lib.features.sources import Source

FAMILY = ("wav2vec2", "hubert", "wavlm")  # config.json's model_type
# config.json's architectures of audeering's layout: the published one, its model card's class, ours
_EMOTION = {"Wav2Vec2ForSpeechClassification", "EmotionModel", "EmotionWav2Vec2"}
_HEAD = {f"classifier.{layer}.weight" for layer in ("dense", "out_proj")}
_UNUSED = ("masked_spec_embed",)  # in pre-training only


class EmotionHead(nn.Module):
    """dense -> tanh -> out_proj, on the last axis: (..., hidden) -> (..., 3)."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.out_proj(torch.tanh(self.dense(hidden)))


class EmotionWav2Vec2(Wav2Vec2PreTrainedModel):
    """Encoder and head under the names that audeering's weights use (`wav2vec2.*`,
    `classifier.*`)."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.classifier = EmotionHead(config)
        self.post_init()

    def forward(self, waves: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """waves (B, N) at 16 kHz, mask (B, N) 1 = valid -> (B, T, hidden + 3)."""
        hidden = self.wav2vec2(waves, attention_mask=mask).last_hidden_state  # (B, T, hidden)
        return torch.cat([hidden, self.classifier(hidden)], dim=-1)


class Waves:
    """The network and its own feature extractor. `least`: samples that one frame sees."""

    def __init__(self, place: Source, source: str, device: torch.device):
        self._extractor = feature_extractor(place, source, "Wav2Vec2FeatureExtractor")
        self.model, config = _load(place, source)
        self.model.to(device).eval()
        self.kind = "hidden states" + (" and logits" * isinstance(self.model, EmotionWav2Vec2))
        self.normalizes = bool(self._extractor.do_normalize)
        self._device = device
        steps = np.cumprod([1, *config.conv_stride[:-1]])
        self.least = int(1 + ((np.array(config.conv_kernel) - 1) * steps).sum())
        self._stride = math.prod(config.conv_stride)  # samples per frame
        if getattr(config, "add_adapter", False):  # convolutions of 3 around each frame they keep
            self._stride *= config.adapter_stride**config.num_adapter_layers

    def encode(self, samples: np.ndarray) -> torch.Tensor:
        """(N,) float32 at 16 kHz, N >= least -> (T, D).

        The paper pads to 12 s and masks; the valid frames come out the same on the real length, for
        less work, so there is no padding here.
        """
        waves = self._extractor(
            np.ascontiguousarray(samples), sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_values.to(self._device)  # (1, N)
        if isinstance(self.model, EmotionWav2Vec2):
            return self.model(waves, torch.ones_like(waves, dtype=torch.long))[0]
        return self.model(waves).last_hidden_state[0]

    def times(self, count: int) -> np.ndarray:
        """(count,) s, the middle of what each frame sees."""
        return (np.arange(count) * self._stride + self.least / 2) / SAMPLE_RATE


def _load(place: Source, source: str) -> tuple[nn.Module, PretrainedConfig]:
    """The network and its configuration. Which network: by config.json's architectures, or by the
    weights' names where these say more."""
    asked = {"dtype": torch.float32, "output_loading_info": True, **HERE_ONLY}
    config = AutoConfig.from_pretrained(place.where, **HERE_ONLY)
    emotion = config.model_type == "wav2vec2" and bool(_EMOTION & set(config.architectures or ()))
    if not emotion:
        model, info = AutoModel.from_pretrained(place.where, **asked)
        emotion = config.model_type == "wav2vec2" and set(info["unexpected_keys"]) >= _HEAD
    if emotion:
        model, info = EmotionWav2Vec2.from_pretrained(place.where, **asked)
    check_complete(info, source, "audio", optional=_UNUSED)
    return model, config

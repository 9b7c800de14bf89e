"""Sound -> sequence: wav2vec 2.0 hidden states joined with emotion logits, `A = concat(H, Z)`
(docs/paper.md, "audio").

The folder format is that of `audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim`: a
Wav2Vec2Model and a regression head (arousal, dominance, valence). There the head sees the mean over
time; here it runs on every frame: T x (1024 + 3).
"""

from __future__ import annotations

import json
import math

import numpy as np
import torch
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2PreTrainedModel
from transformers.utils import cached_file

from taemi_lib.data.media import SAMPLE_RATE, Unreadable
from taemi_lib.features.loading import check_complete, loading
from taemi_lib.features.sequences import Sequence
from taemi_lib.features.sources import Source, locate


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


class AudioEncoder:
    """One clip's sound to a sequence of 50 frames/s.

    source: folder or hub id in audeering's format. seconds: longer sound is cut (the paper: 12 s).
    dim: hidden + 3. Raises EncoderError when the model is not there or does not have this format.
    """

    def __init__(self, source: str, device: str = "cpu", seconds: float = 12.0):
        self.device, self.seconds = torch.device(device), seconds
        place = locate(source, "audio")
        with loading(source, "audio"):
            self.model, info = EmotionWav2Vec2.from_pretrained(
                place.where, revision=place.revision, dtype=torch.float32, output_loading_info=True
            )
            # masked_spec_embed is used in pre-training only
            check_complete(info, source, "audio", optional=("masked_spec_embed",))
            self.normalize = _preprocessing(place).get("do_normalize", True)
        self.model.to(self.device).eval()
        config = self.model.config
        self.dim = config.hidden_size + config.num_labels
        self.identity = place.identity
        self._stride = math.prod(config.conv_stride)  # samples per frame
        steps = np.cumprod([1, *config.conv_stride[:-1]])
        # samples that one frame sees
        self._field = int(1 + ((np.array(config.conv_kernel) - 1) * steps).sum())

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> Sequence:
        """samples (N,) float32 at 16 kHz -> values (T, hidden + 3) float32; times are the middle of
        what a frame sees.

        The paper pads to 12 s and masks; the valid frames come out the same on the real length, for
        less work, so there is no padding here. Raises Unreadable for sound shorter than one frame.
        """
        samples = np.asarray(samples, np.float32)[: round(self.seconds * SAMPLE_RATE)]
        if samples.size < self._field:
            raise Unreadable(
                f"audio shorter than one frame ({samples.size} of {self._field} samples)"
            )
        if self.normalize:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        waves = torch.from_numpy(np.ascontiguousarray(samples))[None].to(self.device)  # (1, N)
        mask = torch.ones_like(waves, dtype=torch.long)
        values = self.model(waves, mask)[0].cpu().numpy()  # (T, hidden + 3)
        times = (np.arange(len(values)) * self._stride + self._field / 2) / SAMPLE_RATE
        return Sequence(values, times.astype(np.float32))


def _preprocessing(place: Source) -> dict:
    path = cached_file(place.where, "preprocessor_config.json", revision=place.revision)
    with open(path, encoding="utf-8") as file:
        return json.load(file)

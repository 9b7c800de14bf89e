"""Train the micro audio encoder: a wav2vec2 in the shape of audeering's emotion model (encoder plus
dense-tanh-out head), which learns to hear, frame by frame, what SynthMimic's voices do.

Targets per frame: arousal, dominance, valence of the event sounding (the head that is kept; zero
outside events) and the four prosody settings behind it (a second head, thrown away, that keeps the
hidden states informative).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from taemi_lib.data.synthmimic import world
from taemi_lib.micro.corpus import RATE, Utterance, utterances
from taemi_lib.micro.optimise import fit

CONFIG = Wav2Vec2Config(
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=256,
    conv_dim=(96, 96, 128),
    conv_kernel=(200, 4, 4),
    conv_stride=(80, 2, 2),
    num_feat_extract_layers=3,
    feat_extract_norm="layer",
    conv_bias=True,
    do_stable_layer_norm=True,
    num_conv_pos_embeddings=31,
    num_conv_pos_embedding_groups=8,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    layerdrop=0.0,
    apply_spec_augment=False,
    num_labels=3,
    final_dropout=0.0,
    id2label={0: "arousal", 1: "dominance", 2: "valence"},
    label2id={"arousal": 0, "dominance": 1, "valence": 2},
)


class EmotionHead(torch.nn.Module):
    """dense -> tanh -> out, named as in audeering's published model."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.dense = torch.nn.Linear(width, width)
        self.out_proj = torch.nn.Linear(width, outputs)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.out_proj(torch.tanh(self.dense(hidden)))


class EmotionModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wav2vec2 = Wav2Vec2Model(CONFIG)
        self.classifier = EmotionHead(CONFIG.hidden_size, 3)
        self.prosody = EmotionHead(CONFIG.hidden_size, len(world.PROSODY))  # used in training only

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        kept = {
            name: value.contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith("prosody.")
        }
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        config = CONFIG.to_dict() | {"architectures": ["EmotionModel"]}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        preprocessor = {
            "do_normalize": False,
            "feature_size": 1,
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": RATE,
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def frame_targets(item: Utterance, frames: int) -> np.ndarray:
    """(frames, 7): arousal, dominance, valence, then scaled prosody, at 50 frames/s; zero outside
    the events."""
    values = np.zeros((frames, 3 + len(world.PROSODY)), dtype=np.float32)
    times = (np.arange(frames) + 0.5) * 0.02
    for (start, end), emotion, strength in zip(
        item.events, item.latents.emotions, item.latents.voice_strength
    ):
        name = world.EMOTIONS[emotion]
        shown = np.concatenate(
            [world.AFFECT[name], np.array(world.VOICE[name]) / world.PROSODY_SCALE]
        )
        values[(times >= start) & (times < end)] = strength * shown
    return values


def train(
    folder: Path,
    utterance_count: int = 8000,
    steps: int = 3000,
    batch: int = 16,
    seed: int = 0,
    progress: bool = True,
    corpus: list[Utterance] | None = None,
) -> list[float]:
    """Train from nothing and write `folder`. Returns the loss history."""
    corpus = corpus or utterances(utterance_count)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = EmotionModel()
    for module in model.wav2vec2.feature_extractor.modules():
        if isinstance(module, torch.nn.Conv1d):
            torch.nn.init.kaiming_normal_(module.weight)
    by_length = np.argsort([len(item.samples) for item in corpus], kind="stable")

    def loss(step: int) -> torch.Tensor:
        start = int(rng.integers(len(corpus) - batch))  # neighbours in length: little padding
        items = [corpus[i] for i in by_length[start : start + batch]]
        longest = max(len(item.samples) for item in items)
        lengths = torch.tensor([len(item.samples) for item in items])
        waves = torch.from_numpy(
            np.stack([np.pad(item.waveform, (0, longest - len(item.samples))) for item in items])
        )
        waves = waves + torch.randn_like(waves) * 10 ** (-float(rng.uniform(45, 65)) / 20)
        mask = torch.arange(longest)[None] < lengths[:, None]
        hidden = model.wav2vec2(waves, attention_mask=mask.long()).last_hidden_state  # (B, T, 128)
        frames = model.wav2vec2._get_feat_extract_output_lengths(lengths)
        valid = torch.arange(hidden.shape[1])[None] < frames[:, None]
        target = torch.from_numpy(
            np.stack([frame_targets(item, hidden.shape[1]) for item in items])
        )
        heard = torch.cat([model.classifier(hidden), model.prosody(hidden)], dim=-1)
        return (heard - target)[valid].pow(2).mean()

    history = fit(model, steps, 1e-3, loss, progress, "audio")
    model.save(folder)
    return history

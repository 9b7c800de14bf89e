"""Train the micro speech-to-text model: openai-whisper's own architecture at 128 wide, for the
closed grammar of SynthMimic.

Written as config.json (whisper's ModelDimensions and `sample_len`) and model.safetensors (fp16)
with compact token rows: of whisper's 51,864 tokens the grammar uses about a hundred; all others
share one row.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import whisper
from safetensors.torch import save_file
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import get_tokenizer

from taemi_lib.data.synthmimic import world
from taemi_lib.micro.corpus import Utterance, utterances
from taemi_lib.micro.optimise import fit

DIMENSIONS = ModelDimensions(
    n_mels=80,
    n_audio_ctx=300,
    n_audio_state=128,
    n_audio_head=4,
    n_audio_layer=3,
    n_vocab=51_864,
    n_text_ctx=48,
    n_text_state=128,
    n_text_head=4,
    n_text_layer=2,
)
FRAMES = 2 * DIMENSIONS.n_audio_ctx  # mel frames of 10 ms in one window of 6 s
SAMPLE_LENGTH = 40  # tokens
SILENCE = "_"


def used_tokens() -> list[int]:
    """Ids of every token that a sentence of the grammar can hold, with the special ones that
    whisper's decoder needs."""
    tokenizer = get_tokenizer(multilingual=False)
    phrases = [w for words in world.WORDS.values() for w in words] + [
        d for ds in world.DEGREES.values() for d in ds
    ]
    phrases += [*world.OPENINGS, *world.LINKS, *world.STRESS, *world.CUES[0], *world.CUES[1]]
    words = {word for phrase in phrases for word in phrase.split()}
    ids = {token for word in words for token in tokenizer.encode(" " + word)}
    return sorted(ids | {tokenizer.sot, tokenizer.eot, tokenizer.no_timestamps})


class CompactWhisper(torch.nn.Module):
    """Whisper whose token table holds only the used rows and one for all others; class K (the last)
    is "any other token"."""

    def __init__(self, ids: list[int], phonemes: int):
        super().__init__()
        dims = ModelDimensions(**{**DIMENSIONS.__dict__, "n_vocab": len(ids) + 1})
        self.whisper = Whisper(dims)
        self.ids = ids
        # A fresh Whisper leaves its two free parameters as uninitialised memory, and torch's
        # default rows are far too long
        torch.nn.init.normal_(self.whisper.decoder.positional_embedding, std=0.02)
        torch.nn.init.normal_(self.whisper.decoder.token_embedding.weight, std=0.05)
        self.phonemes = torch.nn.Linear(dims.n_audio_state, phonemes)  # used in training only

    def hear(self, mel: torch.Tensor) -> torch.Tensor:
        """(B, 80, F) -> (B, F / 2, 128): whisper's encoder, but also for windows shorter than its
        own."""
        encoder = self.whisper.encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        hidden = hidden + encoder.positional_embedding[: hidden.shape[1]]
        for block in encoder.blocks:
            hidden = block(hidden)
        return encoder.ln_post(hidden)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: value.half().contiguous() for name, value in self.whisper.state_dict().items()
        }
        table = state.pop("decoder.token_embedding.weight")
        state["token_embedding.rows"], state["token_embedding.other"] = (
            table[:-1].contiguous(),
            table[-1].contiguous(),
        )
        state["token_embedding.ids"] = torch.tensor(self.ids, dtype=torch.int32)
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text(
            json.dumps({**DIMENSIONS.__dict__, "sample_len": SAMPLE_LENGTH}, indent=2) + "\n"
        )


def _phoneme(name: str) -> str:
    return name.strip("'\",%=:|-_!") or SILENCE


def _frame_phonemes(item: Utterance, table: dict[str, int]) -> np.ndarray:
    """(n_audio_ctx,) the phoneme sounding in each encoder frame of 20 ms."""
    labels = np.full(DIMENSIONS.n_audio_ctx, table[SILENCE])
    for time, name in item.phonemes:
        labels[int(round(time / 0.02)) :] = table[_phoneme(name)]
    labels[int(len(item.samples) / 320) :] = table[SILENCE]
    return labels


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
    tokenizer, ids = get_tokenizer(multilingual=False), used_tokens()
    position = {token: index for index, token in enumerate(ids)}
    prompt = [tokenizer.sot, tokenizer.no_timestamps]
    table = {
        name: i
        for i, name in enumerate(
            sorted({_phoneme(n) for u in corpus for _, n in u.phonemes} | {SILENCE})
        )
    }
    targets = [
        [position[t] for t in prompt + tokenizer.encode(" " + u.latents.sentence) + [tokenizer.eot]]
        for u in corpus
    ]
    phonemes = np.stack([_frame_phonemes(item, table) for item in corpus])
    mels = torch.stack(
        [
            whisper.pad_or_trim(
                whisper.log_mel_spectrogram(np.pad(u.waveform, (0, 96_000))[:96_000]), FRAMES
            ).half()
            for u in corpus
        ]
    )
    model = CompactWhisper(ids, len(table))
    eot = position[tokenizer.eot]

    def loss(step: int) -> torch.Tensor:
        chosen = rng.integers(len(corpus), size=batch)
        mel = mels[chosen].float()
        lag = int(rng.integers(0, 20)) * 2  # up to 0.4 s of silence before the first word
        mel = torch.cat([mel[..., FRAMES - lag :], mel[..., : FRAMES - lag]], dim=-1)
        # three steps in four leave out most of the silence that fills the window: a third less to
        # compute
        window = FRAMES if step % 4 == 0 else 460
        mel = mel[..., :window]
        mel = mel + 0.05 * torch.randn_like(mel)
        longest = max(len(targets[i]) for i in chosen)
        tokens = torch.tensor([targets[i] + [eot] * (longest - len(targets[i])) for i in chosen])
        # predict from the last prompt token on, up to and with the first end token
        valid = torch.tensor(
            [[1 <= k < len(targets[i]) - 1 for k in range(longest - 1)] for i in chosen]
        )
        audio = model.hear(mel)  # (B, window / 2, 128)
        logits = model.whisper.decoder(tokens[:, :-1], audio)  # (B, L, K + 1)
        words = F.cross_entropy(logits[valid], tokens[:, 1:][valid], label_smoothing=0.02)
        sounds = torch.from_numpy(np.roll(phonemes[chosen], lag // 2, axis=1)[:, : window // 2])
        framewise = F.cross_entropy(model.phonemes(audio).flatten(0, 1), sounds.flatten())
        return words + framewise

    history = fit(model, steps, 1.5e-3, loss, progress, "speech to text")
    model.save(folder)
    return history

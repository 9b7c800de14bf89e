"""How much faster is a training step of TAEMI at the paper's sizes than the textbook's?

    python benchmarks/training_step.py [--device cuda] [--batches 4] [--repeats 3]

Textbook: nn.MultiheadAttention (need_weights=False) everywhere, every batch padded to the longest
possible clip. Ours: the single-query form, and batches of similar length padded to their longest
clip. Both do forward, loss, backward and AdamW on the same clips, taking turns batch by batch in
one run, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from taemi_lib.models import TAEMI, Batch, LengthGroupedBatches
from taemi_lib.models.attention import TimeFeatures
from taemi_lib.models.missing import MissingToken, ModalityDropout
from taemi_lib.support.device import choose, threads

DIMS, LONGEST, RATE = (
    {"audio": 1027, "vision": 768},
    {"audio": 599, "vision": 400},
    {"audio": 50.0, "vision": 30.0},
)
TEXT, WIDTH, HEADS, SIZE = 768, 512, 8, 32


class Textbook(nn.Module):
    """The same network as TAEMI (same parameters but for an idle key bias), written with torch's
    own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.modality_dropout, self.time = ModalityDropout(0.1), TimeFeatures(WIDTH)
        self.text_token, self.query = MissingToken(TEXT), nn.Linear(TEXT, WIDTH)
        self.project = nn.ModuleDict(
            {name: nn.Linear(width, WIDTH) for name, width in DIMS.items()}
        )
        self.own = nn.ModuleDict(
            {name: nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for name in DIMS}
        )
        self.norm = nn.ModuleDict({name: nn.LayerNorm(WIDTH) for name in DIMS})
        self.token = nn.ModuleDict({name: MissingToken(WIDTH) for name in DIMS})
        self.cross = nn.ModuleDict(
            {name: nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for name in DIMS}
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Sequential(
            nn.Linear(TEXT + 2 * WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(WIDTH, 6)
        )

    def forward(self, batch: Batch) -> Tensor:
        kept = self.modality_dropout(batch.present)
        text = self.text_token.in_vector(batch.pooled, kept["text"])
        parts = [text]
        for name in DIMS:
            mask = batch.mask[name]
            values = self.project[name](batch.values[name].float()) + self.time(batch.times[name])
            mixed, _ = self.own[name](
                values, values, values, key_padding_mask=~mask, need_weights=False
            )
            values, mask = self.token[name].in_sequence(
                self.norm[name](values + self.dropout(mixed)), mask, kept[name]
            )
            pooled, _ = self.cross[name](
                self.query(text)[:, None],
                values,
                values,
                key_padding_mask=~mask,
                need_weights=False,
            )
            parts.append(pooled[:, 0])
        return self.head(torch.cat(parts, dim=-1))


def clip_seconds(count: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths like the real data's: 7 s on average, 1 to 12 s."""
    return np.clip(rng.gamma(shape=6.0, scale=7.1 / 6.0, size=count), 1.0, 12.0)


def make_batch(seconds: np.ndarray, draw: torch.Generator, full: bool) -> Batch:
    """fp16 features of these clips as the store gives them; `full`: padded to the longest possible
    clip."""
    values, mask = {}, {}
    for name, width in DIMS.items():
        steps = torch.from_numpy(
            np.minimum(np.round(seconds * RATE[name]), LONGEST[name]).astype(int)
        )
        length = LONGEST[name] if full else int(steps.max())
        mask[name] = torch.arange(length) < steps[:, None]
        values[name] = (
            torch.randn(len(seconds), length, width, generator=draw).half() * mask[name][..., None]
        )
    pooled, labels = (
        torch.randn(len(seconds), TEXT, generator=draw),
        torch.rand(len(seconds), 6, generator=draw),
    )
    return Batch(values, mask, pooled=pooled, labels=labels)


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, device: torch.device
) -> float:
    """Seconds of one training step."""
    batch = batch.to(device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        output = model(batch)
    prediction = getattr(output, "prediction", output)
    functional.mse_loss(prediction.float(), batch.labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(device: torch.device, batches: int, repeats: int, seed: int = 0) -> dict[str, float]:
    """Seconds a step of both, and their ratio: the median over `repeats` rounds of `batches`
    batches."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    seconds = clip_seconds(SIZE * batches, rng)
    ours, textbook = TAEMI(*DIMS.values(), TEXT, WIDTH, HEADS).to(device), Textbook().to(device)
    optimizers = {
        model: torch.optim.AdamW(model.parameters(), 1e-4, fused=True) for model in (ours, textbook)
    }
    grouped = LengthGroupedBatches(seconds, SIZE, seed)
    rounds = []
    for turn in range(repeats + 1):
        grouped.set_epoch(turn)
        draw = torch.Generator().manual_seed(turn)
        times = {ours: 0.0, textbook: 0.0}
        for indices in list(grouped)[
            : 1 if turn == 0 else batches
        ]:  # a whole epoch: short and long batches
            for model in times:
                batch = make_batch(seconds[indices], draw, full=model is textbook)
                times[model] += step(model, optimizers[model], batch, device)
        if turn:  # the first round only warms up
            rounds.append((times[ours] / batches, times[textbook] / batches))
    return {
        "clip_s": float(seconds.mean()),
        "ours_s": statistics.median(ours for ours, _ in rounds),
        "textbook_s": statistics.median(textbook for _, textbook in rounds),
        "speed_up": statistics.median(textbook / ours for ours, textbook in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads", type=int, help="torch CPU threads (default: torch's own choice)"
    )
    parser.add_argument("--batches", type=int, default=4, help="batches of 32 clips in a round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    asked = parser.parse_args()
    device = choose(asked.device)
    with threads(asked.threads):
        found = measure(device, asked.batches, asked.repeats)
        print(
            f"training step, {SIZE} clips of {found['clip_s']:.1f} s on average, "
            f"up to 599 x 1027 and 400 x 768, "
            f"width {WIDTH}, on {device} ({torch.get_num_threads()} CPU threads): "
            f"textbook {found['textbook_s']:.2f} s, ours {found['ours_s']:.2f} s, "
            f"speed-up {found['speed_up']:.2f}x"
        )


if __name__ == "__main__":
    main()

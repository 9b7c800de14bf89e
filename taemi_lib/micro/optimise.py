"""The few lines that all four trainings share: one optimiser, one schedule, one loop, one
device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from tqdm.auto import tqdm


def fit(
    module: torch.nn.Module,
    steps: int,
    learning_rate: float,
    loss: Callable[[int], torch.Tensor],
    progress: bool = True,
    label: str = "",
) -> list[float]:
    """AdamW with one-cycle schedule: `steps` updates of `module` on `loss(step)`. Returns the loss
    of every step."""
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.1
    )
    module.train()
    history, shown = [], time.monotonic()
    with tqdm(total=steps, desc=label, unit="step", disable=not progress, mininterval=5) as bar:
        for step in range(steps):
            value = loss(step)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            history.append(value.item())
            bar.update()
            if time.monotonic() - shown > 5:
                bar.set_postfix(loss=f"{sum(history[-50:]) / len(history[-50:]):.4f}")
                shown = time.monotonic()
    module.eval()
    return history

"""How trainings of the control go, epoch by epoch, and when its heads part: why seeds of
constant_query end so far from each other. Scored on the SELECTION split.

    python benchmarks/learning.py       rewrites results/learning.csv, which notebooks 04 and 06
                                        show; about 10 minutes on one core

Nothing stops early here, so that a rule of stopping can be tried on the stored epochs. `parting`:
how unequally the head that sides most looks at a clip's two events, |a - b| / (a + b) of its mean
attention on them. 0: all heads of both streams look at both events alike; 1: one sees one event
only.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from taemi_lib import experiments, models
from taemi_lib.evaluation.attention import event_windows
from taemi_lib.evaluation.scoring import predict_dataset
from taemi_lib.experiments.tables import write_table
from taemi_lib.profiles import ROOT
from taemi_lib.training import train
from taemi_lib.workspace import Workspace

RESULTS = ROOT / "results"
SYSTEM = "constant_query"
SEEDS = {"dropout 0": 10, "searched": 5}


def settings() -> dict[str, dict]:
    """{name: what is changed of the demo profile}, without early stopping."""
    chosen = experiments.chosen(experiments.read_table(RESULTS / "search.csv"))
    epochs = Workspace("demo").profile.training.epochs
    return {
        "dropout 0": {"model.dropout": 0.0, "training.patience": epochs},
        "searched": chosen["cue", SYSTEM],
    }


def parting(folder: Path, selection, truth: pd.DataFrame) -> float:
    """Of the network in `folder`, over the clips of the selection split."""
    found = predict_dataset(models.load(folder), selection, attention=True)
    first, second = event_windows(truth, "cue", found.clip_ids)
    # the earlier event of a clip first, whichever of them counts
    earlier = np.where((first[:, :1] <= second[:, :1]), first, second)
    later = np.where((first[:, :1] <= second[:, :1]), second, first)
    sides = []
    for name, weights in found.attention.items():
        on = 0  # (event, heads)
        for clip, times, *windows in zip(weights, found.times[name], earlier, later, strict=True):
            if clip is not None:
                inside = [(times >= start) & (times < end) for start, end in windows]
                on = on + np.stack([clip[:, steps].sum(axis=1) for steps in inside])
        sides.append(np.abs(on[0] - on[1]) / (on[0] + on[1]))
    return float(np.max(sides))


def one(setting: str, seed: int, changes: dict) -> list[dict]:
    """One training: a row an epoch."""
    workspace = Workspace("demo", device="cpu", progress=False).changed(changes)
    parts, truth, rows = workspace.datasets(), workspace.truth(), []
    profile = workspace.profile
    with tempfile.TemporaryDirectory() as folder:

        def look(history: list[dict]) -> None:
            entry = history[-1]
            side = parting(Path(folder) / "run" / "last", parts["selection"], truth)
            kept = {name: entry[name] for name in ("epoch", "loss", "selection_rho")}
            rows.append({"setting": setting, "seed": seed, **kept, "parting": side})

        train(
            SYSTEM,
            parts["train"],
            parts["selection"],
            model=profile.model,
            training=profile.training,
            run_folder=Path(folder) / "run",
            seed=seed,
            device="cpu",
            progress=False,
            after_epoch=look,
        )
    print(setting, seed, f"best {max(row['selection_rho'] for row in rows):.3f}", flush=True)
    return rows


if __name__ == "__main__":
    found = [
        row
        for name, changes in settings().items()
        for seed in range(SEEDS[name])
        for row in one(name, seed, changes)
    ]
    write_table(RESULTS / "learning.csv", pd.DataFrame(found))

"""How the demo profile's hyper-parameters were chosen: TAEMI with one setting changed at a time,
scored on the SELECTION split.

    python benchmarks/presets.py        rewrites results/presets.csv, which notebook 04 shows; about
                                        10 minutes on two cores

The test split is never looked at here. Every setting is the demo profile's but for the one named;
the paper's own optimisation (its preset at the demo's width) stands in the same table.
"""

from __future__ import annotations

import csv
import dataclasses
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from taemi_lib.profiles import PROFILES, ROOT
from taemi_lib.training import train
from taemi_lib.workspace import Workspace

SETTINGS = [
    ("demo profile", {}, {}),
    ("learning rate 1e-3", {}, {"learning_rate": 1e-3}),
    ("learning rate 4e-3", {}, {"learning_rate": 4e-3}),
    ("no input dropout", {"input_dropout": 0.0}, {}),
    ("input dropout 0.4", {"input_dropout": 0.4}, {}),
    ("width 32", {"width": 32}, {}),
    ("width 128", {"width": 128, "mlp_width": 128}, {}),
    ("audio at 50 steps/s", {}, {"audio_average": 1}),
    ("paper's optimisation", {}, None),  # None: the paper's Training, on the demo's audio steps
]
SEEDS = (0, 1)


def score(setting: tuple, seed: int) -> dict:
    """One training; its best mean rho on the selection split."""
    name, model, training = setting
    demo, paper = PROFILES["demo"], PROFILES["paper"]
    if training is None:
        preset = dataclasses.replace(paper.training, audio_average=demo.training.audio_average)
    else:
        preset = dataclasses.replace(demo.training, **training)
    changed = dataclasses.replace(
        demo, model=dataclasses.replace(demo.model, **model), training=preset
    )
    parts = Workspace(changed, progress=False).datasets()
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            "taemi",
            parts["train"],
            parts["selection"],
            model=changed.model,
            training=preset,
            run_folder=Path(folder) / "run",
            seed=seed,
            device="cpu",
            progress=False,
        )
        best = max(epoch["selection_rho"] for epoch in run.history)
        return {
            "setting": name,
            "seed": seed,
            "selection_rho": round(best, 4),
            "best_epoch": run.best_epoch,
            "epochs": len(run.history),
            "seconds": round(run.metrics["seconds"], 1),
        }


if __name__ == "__main__":
    jobs = [(setting, seed) for setting in SETTINGS for seed in SEEDS]
    Workspace("demo").features()
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=multiprocessing.get_context("spawn")
    ) as executor:
        rows = list(executor.map(score, *zip(*jobs)))
    with open(ROOT / "results" / "presets.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)

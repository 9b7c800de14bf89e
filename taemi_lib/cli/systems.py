"""Systems: train them, evaluate them."""

from __future__ import annotations

import json

import click

from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError


@click.command()
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM...")
@click.option(
    "--seeds", type=click.IntRange(min=1), help="So many of each, from seed 0; else the profile's."
)
@click.option("--seed", type=click.IntRange(min=0), multiple=True, help="This one; repeatable.")
@options.imports
@options.places
@options.processes
def train(systems: tuple[str, ...], seeds: int | None, seed: tuple[int, ...], **places) -> None:
    """Train systems; finished runs are kept."""
    if seeds and seed:
        raise ChoiceError("--seeds 3 means the seeds 0, 1 and 2: give it or --seed, not both")
    here = options.workspace(**places)
    with options.failures_in_one_line():
        found = here.runs(systems, range(seeds) if seeds else seed or None)
    for (name, number), run in found.items():
        assert run.metrics is not None
        rho = run.metrics["selection"]["mean_rho"]
        print(f"{name}, seed {number}: mean rho {rho:.3f} on the selection split, {run.folder}")


@click.command()
@click.argument("run")
@click.option("--split", default="test", show_default=True, help="Which clips.")
@click.option("--seed", default=0, show_default=True, help="Of the run, for a system's name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.imports
@options.places
def evaluate(run: str, split: str, seed: int, as_json: bool, **places) -> None:
    """Score RUN (a run's folder, or a system's name) on a split."""
    from taemi_lib.evaluation.scoring import evaluate as score_run
    from taemi_lib.runs import refuse_other_features

    here = options.workspace(**places)
    found = options.finished_run(here, run, seed)
    dataset = here.require(split)[split]
    refuse_other_features(found, dataset)
    with options.failures_in_one_line():
        scores = score_run(found, dataset, places["device"])
    if as_json:
        print(json.dumps(scores.as_dict(), indent=2))
        return
    assert scores.interval is not None
    low, high = scores.interval.low, scores.interval.high
    print(f"{found.folder}, {len(dataset)} clips of the split {split!r}")
    print(f"mean rho {scores.mean_rho:.3f}, 95 % interval over clips [{low:.3f}, {high:.3f}]")
    for target, rho in scores.per_emotion.items():
        print(f"  {target:14} {rho:.3f}")
    for name, value in scores.more.items():
        print(f"  {name:14} {value:.3f}")
    if scores.constant:
        print(f"  the same for every clip, counted as 0: {', '.join(scores.constant)}")

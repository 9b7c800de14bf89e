"""Clips: make their features, predict their intensities."""

from __future__ import annotations

import json
from pathlib import Path

import click

from taemi_lib import profiles
from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError, CourseError


@click.command()
@options.places
def extract(**places) -> None:
    """Make the features of all clips; unchanged ones are kept."""
    from taemi_lib import features

    here = options.workspace(**places)
    manifest = here.clips()
    for line in features.missing(here.profile.encoders):
        print(f"not on this machine: {line}")
    _, report = here.features()
    splits = manifest.table["split"].value_counts()
    print(f"{len(manifest)} clips: {', '.join(f'{n} {name}' for name, n in splits.items())}")
    for line in manifest.skipped:
        print(f"  left out: {line}")
    print(report)
    print(f"features: {here.features_folder}")


@click.command()
@click.argument("clip", required=False)
@click.option("--checkpoint", metavar="RUN", help="A run's folder; else --system and --seed.")
@click.option("--split", help="Predict this split of the data, into a CSV to submit.")
@click.option(
    "--output",
    default="submission.csv",
    show_default=True,
    metavar="FILE",
    help="What --split writes.",
)
@click.option("--system", default="taemi", show_default=True, help="Whose run, without RUN.")
@click.option("--seed", default=0, show_default=True, help="Of that run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.imports
@options.places
def predict(
    clip: str | None,
    checkpoint: str | None,
    split: str | None,
    output: str,
    system: str,
    seed: int,
    as_json: bool,
    **places,
) -> None:
    """Six intensities for CLIP, or for a whole --split."""
    if (clip is None) == (split is None):
        raise ChoiceError(
            "name one clip, as in `taemi predict clip.mp4`, or a split: --split predict"
        )
    if split is not None:
        _predict_split(split, checkpoint, output, system, seed, places)
        return
    from taemi_lib.prediction import predict as predict_clip

    run = _run_folder(checkpoint, system, seed, places)
    found = predict_clip(str(clip), run, device=places["device"])
    print(json.dumps(found.as_dict(), indent=2) if as_json else found)


def _predict_split(
    split: str, checkpoint: str | None, output: str, system: str, seed: int, places: dict
) -> None:
    from taemi_lib.prediction import write_submission
    from taemi_lib.runs import load_run

    run = _run_folder(checkpoint, system, seed, places)
    here = options.workspace(**places)
    dataset = here.require(split)[split]
    write_submission(load_run(run), dataset, output, places["device"])
    print(f"{len(dataset)} clips of the split {split!r}, predicted by {run}: {output}")


def _run_folder(checkpoint: str | None, system: str, seed: int, places: dict) -> Path:
    """Of the run that predicts; own systems are known from here on.

    Raises CourseError saying how to get a run when there is none, or only a part of one.
    """
    from taemi_lib.runs import is_finished

    if checkpoint is not None:
        options.import_systems(places["imports"])
        named = Path(checkpoint).expanduser()
        run = named if named.exists() else profiles.resolve(named)
        there = run.exists()
    else:
        run = options.workspace(**places).run_folder(system, seed)
        there = is_finished(run)
    if not there:
        raise CourseError(
            f"no finished run in {run}: `taemi train {system} --seed {seed}` or `taemi run`, with "
            "the same --profile and --set, makes it; or name another one with --checkpoint"
        )
    return run

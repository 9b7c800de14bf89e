"""Predict: clips, folders and tables of them, or a split to submit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taemi_lib import profiles
from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError, CourseError
from taemi_lib.support import naming

if TYPE_CHECKING:
    from taemi_lib.prediction import Prediction


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--csv", "table", metavar="FILE", help="Write a table, too.")
@click.option("--html", metavar="FILE", help="Write a report with pictures, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else.")
@click.option("--checkpoint", metavar="RUN", help="A run's folder; else --system and --seed.")
@click.option("--system", default="taemi", show_default=True, help="Whose run, without RUN.")
@click.option("--seed", default=0, show_default=True, help="Of that run.")
@click.option("--ensemble", is_flag=True, help="All finished seeds of the system together.")
@click.option("--split", help="Predict this split of the data, into a CSV to submit.")
@click.option("--output", metavar="FILE", help="What --split writes (default: submission.csv).")
@options.imports
@options.places
def predict(
    paths: tuple[str, ...],
    table: str | None,
    html: str | None,
    as_json: bool,
    checkpoint: str | None,
    system: str,
    seed: int,
    ensemble: bool,
    split: str | None,
    output: str | None,
    **places,
) -> None:
    """Six intensities for each PATH: a clip, a folder, or a CSV of clips."""
    if not paths and split is None:
        raise ChoiceError(
            "name clips, as in `taemi predict clip.mp4`, a folder or a CSV of them, "
            "or a split: --split predict"
        )
    if split is not None:
        _refuse_beside("--split", paths=paths, csv=table, html=html, json=as_json)
        _refuse_beside("--split", ensemble=ensemble)
        run = _run_folder(checkpoint, system, seed, places)
        _predict_split(split, run, output or "submission.csv", places)
        return
    if output is not None:
        raise ChoiceError("--output belongs to --split; for clips write --csv FILE or --html FILE")
    if ensemble:
        _refuse_beside("--ensemble", checkpoint=checkpoint)
    _predict_clips(paths, table, html, as_json, (checkpoint, system, seed, ensemble), places)


def _refuse_beside(option: str, **others: object) -> None:
    for name, value in others.items():
        if value:
            said = "clips" if name == "paths" else f"--{name}"
            raise ChoiceError(f"{option} and {said} do not go together: give one of them")


def _predict_clips(
    paths: tuple[str, ...],
    table: str | None,
    html: str | None,
    as_json: bool,
    which: tuple[str | None, str, int, bool],
    places: dict,
) -> None:
    from taemi_lib.prediction.inputs import find, predict_all
    from taemi_lib.prediction.predictor import Predictor

    checkpoint, system, seed, ensemble = which
    here = options.workspace(**places)
    runs = (
        [_run_folder(None, system, one, places) for one in _seeds(here, system)]
        if ensemble
        else [_run_folder(checkpoint, system, seed, places)]
    )
    found = find(paths)
    predictor = Predictor(runs, places["device"], workspace=here)
    for file in found.skipped:
        print(f"skipped, no media file by its name: {naming.visible(str(file))}", file=sys.stderr)
    made = list(
        predict_all(
            predictor,
            found,
            here.runs_root / "features",
            here.profile.limits,
            progress=len(found.clips) > 1,
        )
    )
    single = (
        len(paths) == 1 and Path(paths[0]).is_file() and Path(paths[0]).suffix.lower() != ".csv"
    )
    if as_json:
        plain = [one.as_dict() for one in made]
        print(json.dumps(plain[0] if single else plain, indent=2, allow_nan=False))
    else:
        print(made[0] if single else _table(made))
    if table is not None:
        from taemi_lib.prediction.tables import write_table

        write_table(made, table)
        print(f"table: {table}", file=sys.stderr)
    if html is not None:
        from taemi_lib.figures.report import write_report

        write_report([(one, clip.video) for one, clip in zip(made, found.clips)], html)
        print(f"report: {html}", file=sys.stderr)
    if all(one.all_absent for one in made):
        raise CourseError("nothing could be used of any clip: the reasons stand above")


def _seeds(here, system: str) -> list[int]:
    """Of the profile, those that are trained; at least one name for the error."""
    from taemi_lib.runs import is_finished

    done = [seed for seed in here.profile.seeds if is_finished(here.run_folder(system, seed))]
    return done or [here.profile.seeds[0]]


def _table(made: list[Prediction]) -> str:
    """One line a clip; what must be known of it stands behind."""
    emotions = list(made[0].values)
    wide = min(max(len(one.clip) for one in made), 40)
    lines = [f"{'clip':{wide}}  " + " ".join(f"{name[:9]:>9}" for name in emotions)]
    for one in made:
        said = [*(f"no {name} ({why})" for name, why in one.absent.items())]
        said += [f"{name} incomplete" for name in one.damaged]
        if one.outside is not None and one.outside.is_outside:
            said.append(f"outside its world: {', '.join(one.outside.modalities)}")
        name = one.clip if len(one.clip) <= wide else f"{one.clip[: wide - 3]}..."
        numbers = " ".join(
            f"{'-' if one.all_absent else format(one.values[name], '.3f'):>9}" for name in emotions
        )
        lines.append(f"{name:{wide}}  {numbers}  {'; '.join(said)}".rstrip())
    notes = dict.fromkeys(one.interval for one in made if not one.all_absent)
    return "\n".join([*lines, "", *list(notes)[:3], made[0].caution])


def _predict_split(split: str, run: Path, output: str, places: dict) -> None:
    from taemi_lib.prediction import write_submission
    from taemi_lib.runs import load_run

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

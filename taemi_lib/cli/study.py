"""Studies: systems under one protocol, with statistics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError

if TYPE_CHECKING:
    from taemi_lib.experiments import Study

DONE_SO_FAR = (
    "this part of this round is done; when all parts are, in one folder of runs, give the same "
    "command again for the next (the search, the grid, what stands beside it)"
)
study_options = options.together(
    click.option(
        "--seeds", default=5, show_default=True, help="How many of each system, at least 2."
    ),
    click.option(
        "--results", metavar="FOLDER", help="Where the tables go, seen from the repository."
    ),
    options.imports,
    options.places,
    options.processes,
)


@click.command()
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM...")
@click.option(
    "--regime", help="Label sets of generated clips, as in cue,fixed (default: the first)."
)
@study_options
def compare(
    systems: tuple[str, ...], regime: str | None, seeds: int, results: str | None, **places
) -> None:
    """Train systems under one protocol; say which differ from taemi.

    Each system, taemi too, is trained with three learning rates and two seeds first (the search);
    then with the best rate and all seeds. What is there already is not trained again.
    """
    _check_seeds(seeds)
    here = options.workspace(**places)
    from taemi_lib import experiments

    # each once, in this order
    wanted = tuple(dict.fromkeys([experiments.REFERENCE, *systems]))
    if len(wanted) == 1:
        raise ChoiceError(
            f"nothing to compare {experiments.REFERENCE} with: name at least one other system"
        )
    regimes = (regime or here.label_sets[0]).split(",")
    grid = {name.strip(): wanted for name in regimes}
    study = experiments.Study(here, grid, tuple(range(seeds)))
    if results:
        study.check_tables(results)  # before hours of training, not after
    _finish(study, results, whole=False)


@click.command()
@click.option(
    "--part",
    default="1/1",
    metavar="2/4",
    help="Only this share of the runs, for several machines; give the command again when all "
    "parts are done, for the next of its three rounds.",
)
@study_options
def grid(part: str, seeds: int, results: str | None, **places) -> None:
    """Make the whole study of the course: every system (hours)."""
    _check_seeds(seeds)
    share = _share(part)
    here = options.workspace(**places)
    from taemi_lib import experiments

    # the committed tables are the demo's, whose seeds and label sets are the study's own
    demo = here.settings_folder.name == "demo"
    folder = results or ("results" if demo else here.settings_folder / "results")
    study = experiments.whole_grid(here, seeds=tuple(range(seeds)), part=share)
    study.check_tables(folder)
    _finish(study, folder, whole=True)


def _finish(study: Study, folder: str | Path | None, whole: bool) -> None:
    """Make what is missing, print the comparisons, write the tables."""
    from taemi_lib import experiments
    from taemi_lib.workspace import shown

    with options.failures_in_one_line():
        if not study.run() or (whole and not experiments.run_beside(study)):
            print(DONE_SO_FAR)
            return
        print(experiments.summary(study))
        if folder:
            written = study.write(folder)
            if whole:
                experiments.write_beside(study, written)
            print(f"\ntables: {shown(written)}")


def _check_seeds(seeds: int) -> None:
    if seeds < 2:
        raise ChoiceError(
            f"--seeds {seeds}: fewer than two cannot tell a difference from luck; give 2 or more"
        )


def _share(part: str) -> tuple[int, int]:
    """ "2/4" as (2, 4): the second of four."""
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ChoiceError(f"--part {part!r} is not a share such as 2/4")
    return int(number), int(count)

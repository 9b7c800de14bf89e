"""Studies: systems under one protocol, with statistics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError

if TYPE_CHECKING:
    from taemi_lib.experiments import Study
    from taemi_lib.workspace import Workspace

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


regime_option = click.option(
    "--regime", help="Label sets of generated clips, as in cue,fixed (default: the first)."
)


@click.command()
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM...")
@regime_option
@click.option(
    "--searched",
    metavar="TABLE",
    help="Train each system with the settings that `taemi search` chose, from its table.",
)
@study_options
def compare(
    systems: tuple[str, ...],
    regime: str | None,
    searched: str | None,
    seeds: int,
    results: str | None,
    **places,
) -> None:
    """Train systems under one protocol; say which differ from taemi.

    Each system, taemi too, is trained with three learning rates and two seeds first; then with the
    best rate and all seeds. `--searched` takes settings from a whole search instead, which is the
    fairer fight. What is there already is not trained again. What `--results` holds of other
    systems stays, and is compared anew together with these.
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
    grid = {name: wanted for name in _regimes(regime, here)}
    settings = None
    if searched is not None:
        settings = experiments.chosen(experiments.read_table(searched))
        pairs = [(name, system) for name in grid for system in wanted]
        if missing := [
            f"{system} in {name}" for name, system in pairs if (name, system) not in settings
        ]:
            raise ChoiceError(
                f"{searched} has no settings of {', '.join(missing)}: search them first, as in "
                f"taemi search {' '.join(wanted)} --table {searched}"
            )
    study = experiments.Study(here, grid, tuple(range(seeds)), settings=settings)
    if results:
        study.check_tables(results)  # before hours of training, not after
    _finish(study, results, whole=False)


@click.command()
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM...")
@regime_option
@click.option("--trials", default=24, show_default=True, help="Settings that each system is given.")
@click.option(
    "--after",
    metavar="TABLE",
    help="For further regimes: try the settings that did best in this table's first regime, not "
    "drawn ones, so that few --trials do.",
)
@click.option("--part", default="1/1", metavar="2/4", help="Only this share, for several machines.")
@click.option(
    "--table", metavar="FILE", help="Where the table of trials goes, seen from the repository."
)
@options.imports
@options.places
@options.processes
def search(
    systems: tuple[str, ...],
    regime: str | None,
    trials: int,
    after: str | None,
    part: str,
    table: str | None,
    **places,
) -> None:
    """Search each system's own best settings, with the same effort for all.

    Every system, taemi too, is given the same settings, drawn once; hopeless ones are cut early,
    the others judged by two seeds on the selection split. What is there already is not done again.
    """
    share = _share(part)
    here = options.workspace(**places)
    from taemi_lib import experiments
    from taemi_lib.workspace import shown

    wanted = {name: tuple(dict.fromkeys(systems)) for name in _regimes(regime, here)}
    first = None if after is None else experiments.read_table(after)
    asked = experiments.Search(here, wanted, trials, share, first)
    path = table or here.settings_folder / "search" / "search.csv"
    with options.failures_in_one_line():
        complete = asked.run()
        found = asked.table
        if len(found):
            print(experiments.search_summary(found, here.profile))
            print(f"\ntable: {shown(asked.write(path))}")
        if not complete:
            print("this part is done; the table is whole when all parts are, in one folder of runs")


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
        if not folder:
            print(experiments.summary(study))
            return
        written = study.write(folder)
        if whole:
            experiments.write_beside(study, written)
        # what the folder holds of other systems is in the same families
        print(experiments.summary(study, experiments.read_rows(written / "comparisons.csv")))
        print(f"\ntables: {shown(written)}")


def _regimes(asked: str | None, workspace: Workspace) -> list[str]:
    return [name.strip() for name in (asked or workspace.label_sets[0]).split(",")]


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

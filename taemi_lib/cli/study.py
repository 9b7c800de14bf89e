"""Studies: systems under one protocol, with statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError
from taemi_lib.profiles import resolve

if TYPE_CHECKING:
    import pandas as pd

    from taemi_lib.experiments import Study
    from taemi_lib.workspace import Workspace

DONE_SO_FAR = (
    "this part of this round is done; when all parts are, in one folder of runs, give the same "
    "command again for the next (the searches, the grid, what stands beside it)"
)
TRIALS = 24  # as experiments.TRIALS, which would cost seconds to import for a help text
trials_option = click.option(
    "--trials",
    default=TRIALS,
    show_default=True,
    help="Settings that each system is given in the first regime; a quarter of them in others.",
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


searched_option = click.option(
    "--searched",
    metavar="TABLE",
    help="Search nothing: take the settings from a table that `taemi search` wrote.",
)


@click.command()
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM...")
@regime_option
@trials_option
@searched_option
@study_options
def compare(
    systems: tuple[str, ...],
    regime: str | None,
    trials: int,
    searched: str | None,
    seeds: int,
    results: str | None,
    **places,
) -> None:
    """Train systems under one protocol; say which differ from taemi.

    First each system, taemi too, searches its own best settings, with the same effort (see `taemi
    search`); then it is trained with these and all seeds. What is there already is not done again.
    What `--results` holds of other systems stays, and is compared anew together with these.
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
    study = experiments.Study(here, grid, tuple(range(seeds)))
    table = None if searched is None else _searched(searched, grid)
    budget = (
        experiments.given(grid, here.label_sets[0], trials)
        if table is None
        else experiments.given_in(table)
    )
    with options.failures_in_one_line():
        if results:  # before hours of training, not after
            study.check_tables(results)
        experiments.refuse_unequal(budget, results)
        if table is None:
            table = experiments.search_all(here, grid, trials)
            assert table is not None  # one part: all of it
        study = replace(study, settings=experiments.chosen(table))
        study.run()
        if not results:
            print(experiments.summary(study))
            return
        written = study.write(results)
        experiments.write_search(table, written / "search.csv")
        _say(study, written)


@click.command()
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM...")
@regime_option
@click.option(
    "--trials", default=TRIALS, show_default=True, help="Settings that each system is given."
)
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
            print(f"\ntable: {shown(experiments.write_search(found, path))}")
        if not complete:
            print("this part is done; the table is whole when all parts are, in one folder of runs")


@click.command()
@click.option(
    "--part",
    default="1/1",
    metavar="2/4",
    help="Only this share of the runs, for several machines; give the command again when all "
    "parts are done, for the next of its rounds.",
)
@trials_option
@study_options
def grid(part: str, trials: int, seeds: int, results: str | None, **places) -> None:
    """Make the whole study of the course: every system (hours)."""
    _check_seeds(seeds)
    share = _share(part)
    here = options.workspace(**places)
    from taemi_lib import experiments

    # the committed tables are the demo's, whose seeds and label sets are the study's own
    demo = here.settings_folder.name == "demo"
    folder = results or ("results" if demo else here.settings_folder / "results")
    with options.failures_in_one_line():
        study = experiments.make_whole(here, folder, tuple(range(seeds)), trials, share)
        if study is None:
            print(DONE_SO_FAR)
        else:
            _say(study, resolve(folder))


@click.command()
@click.argument("systems", nargs=-1, metavar="[SYSTEM]...")
@trials_option
@searched_option
@click.option(
    "--plan",
    type=click.Choice(["losses", "noise", "mixed", "training"]),
    default="losses",
    show_default=True,
    help="Modalities and time steps lost; noise before the encoders; some of both; or what "
    "training for losses and noise is worth to taemi.",
)
@click.option("--part", default="1/1", metavar="2/4", help="Only this share, for several machines.")
@study_options
def robustness(
    systems: tuple[str, ...],
    trials: int,
    searched: str | None,
    plan: str,
    part: str,
    seeds: int,
    results: str | None,
    **places,
) -> None:
    """What systems lose when modalities are missing or noisy (first label set).

    taemi is always among them; without names, those of the course. Every system is trained once
    with its own best settings, as in `taemi compare`, and shown the same test clips under each
    condition: every subset of the modalities, whole modalities and single steps lost at rates
    from 0 to 0.9. With --plan noise it is noise of five strengths in sound, picture or words,
    before the encoders, which then encode the clips anew; with --plan mixed, modalities are lost
    and others noisy. --plan training trains taemi anew: with and without missing tokens, at four
    rates of modality dropout, on clips as they are and on spoiled ones. What is there already is
    not done again.
    """
    _check_seeds(seeds)
    share = _share(part)
    here = options.workspace(**places)
    from taemi_lib import experiments
    from taemi_lib.experiments import robustness as robust
    from taemi_lib.workspace import shown

    first = here.label_sets[0]
    if plan == "training":
        if systems:
            raise ChoiceError("--plan training is about taemi alone: name no systems with it")
        wanted: tuple[str, ...] = (experiments.REFERENCE,)
    else:
        wanted = tuple(dict.fromkeys([experiments.REFERENCE, *(systems or experiments.ROBUST)]))
    study = experiments.Study(here, {first: wanted}, tuple(range(seeds)), share)
    arms = robust.Arms(here, first, study.seeds, share)
    measured = robust.Robustness(arms if plan == "training" else study, robust.PLANS[plan])
    folder = results or here.settings_folder / "robustness" / first
    table = None if searched is None else _searched(searched, study.systems)
    with options.failures_in_one_line():
        robust.check_tables(measured, folder)  # before hours of training, not after
        if table is None:
            table = experiments.search_all(here, study.systems, trials, share)
        else:
            experiments.refuse_unequal(experiments.given_in(table))
        if table is not None:
            settings = experiments.chosen(table)
            study = replace(study, settings=settings)
            arms = replace(arms, settings=settings[first, experiments.REFERENCE])
            measured = replace(measured, study=arms if plan == "training" else study)
        if table is None or not measured.run():
            print(DONE_SO_FAR)
            return
        written = robust.write(measured, folder)
        print(experiments.robustness_summary(written, measured.plan.prefix))
        print(f"\ntables: {shown(written)}")


def _searched(path: str, grid: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The rows about these systems and regimes of a table of searches."""
    from taemi_lib import experiments

    table = experiments.read_table(path)
    pairs = [(regime, name) for regime, names in grid.items() for name in names]
    there = experiments.chosen(table)
    if missing := [f"{name} in {regime}" for regime, name in pairs if (regime, name) not in there]:
        names = dict.fromkeys(name for _, name in pairs)
        raise ChoiceError(
            f"{path} has no settings of {', '.join(missing)}: search them first, as in "
            f"taemi search {' '.join(names)} --table {path}"
        )
    return table[table[["regime", "system"]].apply(tuple, axis=1).isin(pairs)]


def _say(study: Study, folder: Path) -> None:
    """The comparisons of a study whose tables are written."""
    from taemi_lib import experiments
    from taemi_lib.workspace import shown

    # what the folder holds of other systems is in the same families
    print(experiments.summary(study, experiments.read_rows(folder / "comparisons.csv")))
    print(f"\ntables: {shown(folder)}")


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

"""Options that several commands share, and the workspace that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taemi_lib import profiles
from taemi_lib.errors import ChoiceError, CourseError, TaemiError

if TYPE_CHECKING:
    from taemi_lib.runs import Run
    from taemi_lib.workspace import Workspace

Command = Callable[..., Any]

profile = click.option(
    "--profile",
    default="demo",
    metavar="NAME",
    show_default=True,
    help="A profile's name, or a TOML file of settings.",
)
settings = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda context, option, pairs: profiles.parse_settings(pairs),
    help="Change one setting, as in training.batch_size=8; may be repeated "
    "(`taemi profiles demo` lists all).",
)
data_root = click.option(
    "--data-root",
    default="data",
    metavar="FOLDER",
    show_default=True,
    help="Where the clips are, seen from the repository.",
)
runs_root = click.option(
    "--runs-root",
    default="runs",
    metavar="FOLDER",
    show_default=True,
    help="Where results go, seen from the repository.",
)
device = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
imports = click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="FILE",
    help="A Python file with systems of your own; may be repeated.",
)
processes = click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Trainings side by side (default: as many as there are cores).",
)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, listed in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


places = together(profile, settings, data_root, runs_root, device)


def workspace(
    profile: str,
    settings: Mapping[str, object],
    data_root: str,
    runs_root: str,
    device: str,
    imports: Sequence[str] = (),
    processes: int | None = None,
) -> Workspace:
    """The workspace of these options, checked; own systems are known from here on.

    Raises ChoiceError naming option, value and what is allowed.
    """
    asked = profiles.load(profile, settings, "--set")
    from taemi_lib.workspace import Workspace

    files = import_systems(imports)
    found = Workspace(asked, data_root, runs_root, device, processes=processes, imports=files)
    found.check()
    return found


def import_systems(imports: Sequence[str]) -> list[Path]:
    """Make the systems of these files known; where the files lie. Raises ChoiceError."""
    from taemi_lib import models

    files = [Path(file).absolute() for file in imports]
    for file in files:
        models.import_systems(file)
    return files


def finished_run(here: Workspace, name: str, seed: int) -> Run:
    """A run by its folder, seen from here or from the repository, or by its system's name.

    Raises ChoiceError for a name that is neither, CourseError for a run that is not finished.
    """
    from taemi_lib import models
    from taemi_lib.runs import is_finished, load_run
    from taemi_lib.workspace import shown

    own = name in models.names()
    folder = here.run_folder(name, seed) if own else Path(name).expanduser()
    folder = folder if folder.exists() else profiles.resolve(folder)
    if not (own or folder.is_dir()):
        raise ChoiceError(
            f"{name!r} is neither a run's folder nor a system; "
            f"the systems are: {', '.join(models.names())}; "
            "one of your own needs --import FILE"
        )
    if not is_finished(folder):
        again = f"taemi train {name} --seed {seed}" if own else "the command that began it"
        raise CourseError(f"no finished run in {shown(folder)}: `{again}` makes or continues it")
    return load_run(folder)


@contextmanager
def failures_in_one_line() -> Iterator[None]:
    """A run that failed, or data that does not fit, as an error of the command line."""
    try:
        yield
    except TaemiError:
        raise
    except (RuntimeError, ValueError) as error:
        raise CourseError(error) from error

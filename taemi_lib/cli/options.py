"""Options that several commands share, and the workspace that they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taemi_lib import profiles

if TYPE_CHECKING:
    from taemi_lib.workspace import Workspace

Command = Callable[..., Any]

profile = click.option(
    "--profile",
    default="demo",
    metavar="NAME",
    show_default=True,
    help="A profile's name, or a TOML file of settings.",
)
changes = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
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


places = together(profile, changes, data_root, runs_root, device)


def workspace(
    profile: str,
    changes: Sequence[str],
    data_root: str,
    runs_root: str,
    device: str,
    imports: Sequence[str] = (),
    processes: int | None = None,
) -> Workspace:
    """The workspace of these options, checked; own systems are known from here on.

    Raises ChoiceError naming option, value and what is allowed.
    """
    from taemi_lib import models
    from taemi_lib.workspace import Workspace

    asked = profiles.load(profile, profiles.parse_settings(changes), "--set")
    files = [Path(file).absolute() for file in imports]
    for file in files:
        models.import_systems(file)
    found = Workspace(asked, data_root, runs_root, device, processes=processes, imports=files)
    found.check()
    return found

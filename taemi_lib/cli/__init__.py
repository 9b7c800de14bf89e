"""The command line `taemi`: one file for each group of commands, in the order of the work.

Commands are click's, which papermill brings along. Heavy libraries are imported inside the
commands, so that `taemi --help` answers at once.
"""

from __future__ import annotations

import sys

import click

from taemi_lib.cli import clips, fetch, importing, notebooks, predict, settings, study, systems
from taemi_lib.errors import ChoiceError, EncoderError, ManifestError, TaemiError


class InOrder(click.Group):
    """Lists its commands in the order of the work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"unknown command {args[0]!r}; the commands are: {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
def taemi() -> None:
    """From video clips to six emotional mimicry intensities."""


for command in (
    notebooks.run,
    clips.extract,
    importing.import_,
    systems.train,
    systems.evaluate,
    predict.predict,
    study.search,
    study.compare,
    study.grid,
    study.robustness,
    settings.profiles,
    fetch.fetch,
    notebooks.notebooks,
    notebooks.render,
):
    taemi.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """The command `taemi`. Returns the exit code: 0, 1 (something failed), 2 (a wrong name,
    option, table or encoder), 130 (Ctrl-C)."""
    try:
        taemi.main(arguments, prog_name="taemi", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:  # `taemi` alone
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        _say(_mistake(error, sys.argv[1:] if arguments is None else arguments))
        return 2
    except (ChoiceError, ManifestError, EncoderError) as error:  # what was given, not what failed
        _say(error)
        return 2
    except (TaemiError, OSError) as error:
        _say(error)
        return 1
    except (click.Abort, KeyboardInterrupt):
        _say("stopped; the same command continues from here")
        return 130
    return 0


def _mistake(error: click.UsageError, arguments: list[str]) -> str:
    """What click found, in one line, with the right form of an option that lacks its value."""
    said = " ".join(error.format_message().split()).removesuffix(".")
    command = taemi.commands.get(arguments[0]) if arguments else None
    name = getattr(error, "option_name", None)  # of a value that is missing
    for option in command.params if command else ():
        if name in option.opts and option.metavar:
            said = f"{said}: write {name} {option.metavar}"
    return f"{said} ({f'taemi {command.name}' if command else 'taemi'} --help)"


def _say(what: object) -> None:
    print(f"taemi: {what}", file=sys.stderr)

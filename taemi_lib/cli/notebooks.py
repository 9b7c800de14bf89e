"""The course: run it, list it, render it."""

from __future__ import annotations

import click

from taemi_lib import profiles
from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError

Pairs = tuple[tuple[str, str], ...]

first = click.option(
    "--from", "first", metavar="03", help="Start at this notebook; earlier results are kept."
)


def _separated(context: click.Context, option: click.Parameter, pairs: Pairs) -> Pairs:
    """`-p seed=3` would take the next option as its value."""
    for name, _ in pairs:
        if "=" in name:
            right = name.replace("=", " ", 1)
            raise ChoiceError(f"-p {name}: write -p NAME VALUE, as in -p {right}")
    return pairs


@click.command()
@options.places
@first
@click.option(
    "-p",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    callback=_separated,
    help="A notebook's own parameter, or seed; may be repeated.",
)
@click.option("--figures", is_flag=True, help="Also rewrite the PNGs in figures/.")
def run(
    profile: str,
    settings: dict[str, object],
    data_root: str,
    runs_root: str,
    device: str,
    first: str | None,
    parameters: Pairs,
    figures: bool,
) -> None:
    """Run the notebooks in order and print the summary."""
    profiles.load(profile, settings, "--set")  # refuses before the imports, which take seconds
    from taemi_lib import course

    summary = course.run(
        profile,
        settings,
        first=first,
        parameters={name: course.literal(value) for name, value in parameters},
        data_root=data_root,
        runs_root=runs_root,
        device=device,
        rewrite=figures,
    )
    print(f"\n{course.summary_table(summary)}")


@click.command()
def notebooks() -> None:
    """List the notebooks and their parameters."""
    from taemi_lib import course

    for path in course.notebooks_in(profiles.ROOT / "notebooks"):
        found = course.accepted_parameters(path)
        print(f"{path.stem:28} {', '.join(f'{name}={value!r}' for name, value in found.items())}")


@click.command()
@first
@click.option("--only", is_flag=True, help="Just that one.")
def render(first: str | None, only: bool) -> None:
    """Execute the notebooks and store their outputs (developers)."""
    from taemi_lib import course

    course.render(first, only)

"""Features that others made: bring them in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from taemi_lib.cli import options
from taemi_lib.errors import ChoiceError


def _pairs(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    """("audio=20", ...) as {"audio": "20"}."""
    found = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise ChoiceError(f"{option.opts[0]} {pair!r}: write {option.opts[0]} {option.metavar}")
        found[name.strip()] = value.strip()
    return found


def _names(context: click.Context, option: click.Parameter, given: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (given or "").split(",") if name.strip())


@click.command("import")
@click.argument("source", metavar="SOURCE")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="Where the store goes.")
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    help="mmsa, mult, merbench, vidmimic2, own, hf, or one of your own (default: recognised).",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    metavar="MODALITY=STEPS",
    callback=_pairs,
    help="Steps a second, as in audio=20, where the source has no times; may be repeated.",
)
@click.option(
    "--seconds",
    type=float,
    default=10.0,
    show_default=True,
    help="How long a clip is taken to be where neither times nor a rate are known.",
)
@click.option(
    "--pooled",
    type=click.Choice(["cls", "mean"]),
    help="The text's one vector: its first step, or the mean of all (default: the format's).",
)
@click.option(
    "--targets",
    metavar="NAMES",
    callback=_names,
    help="Which labels, as in Joy,Anger (default: all).",
)
@click.option("--low", type=float, help="The lowest value that a label may have.")
@click.option("--high", type=float, help="The highest value that a label may have.")
@click.option(
    "--metrics",
    type=click.Choice(["intensity", "sentiment", "sims"]),
    help="How the field scores it (default: the format's).",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="OURS=THEIRS",
    callback=_pairs,
    help="A column, or folder of features, of another name, as in audio=hubert; may be repeated.",
)
@click.option(
    "--without",
    "leave_out",
    metavar="MODALITIES",
    callback=_names,
    help="Leave these out, as in text or audio,vision.",
)
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="FILE",
    help="A Python file with a reader of your own.",
)
@options.profile
@options.settings
@options.device
def import_(
    source: str,
    folder: str,
    format_: str | None,
    rates: dict[str, str],
    targets: tuple[str, ...],
    imports: Sequence[str],
    profile: str,
    settings: dict[str, object],
    device: str,
    **more: Any,
) -> None:
    """Bring in features that others made, as one store.

    MOSI, MOSEI and SIMS of MMSA, MulT and MultiBench, MERBench, the official features of Vidmimic2,
    a folder of Hugging Face datasets, or a folder of your own. Nothing in a file is run. Then:
    taemi train taemi --profile features --set data.features=FOLDER
    """
    from taemi_lib import profiles
    from taemi_lib.data import readers
    from taemi_lib.features.importing import import_features
    from taemi_lib.workspace import shown

    asked = profiles.load(profile, settings, "--set")
    for file in imports:
        readers.import_readers(file)
    chosen = readers.Options(rates=_numbers(rates), targets=targets or None, **more)
    with options.failures_in_one_line():
        made = import_features(
            source, profiles.resolve(folder), format_, chosen, _encoder(asked.encoders, device)
        )
    print(made)
    print(f"features: {shown(Path(made.folder))}")


def _numbers(rates: dict[str, str]) -> dict[str, float]:
    try:
        return {name: float(rate) for name, rate in rates.items()}
    except ValueError as error:
        raise ChoiceError(f"--rate: {error}; write --rate audio=20") from error


def _encoder(encoders: Any, device: str) -> Callable[[], Any]:
    """Loads the profile's text encoder when it is asked for."""

    def load() -> Any:
        from taemi_lib.features.text import TextEncoder
        from taemi_lib.features.token_ids import TokenIds
        from taemi_lib.support import device as devices

        place = str(devices.choose(device))
        return TokenIds(TextEncoder(encoders.text, place, encoders.text_pooling))

    return load

"""Readers of feature files that others made: one file a format, all giving the same `FeatureClip`s.

A reader is a generator of clips, registered under a name. `find` chooses one by what lies at a
place. How to write one in ten lines: CONTRIBUTING.md, "Features of another format".
"""

from __future__ import annotations

import runpy
from pathlib import Path

from taemi_lib.data.readers import hf, merbench, mmsa, mult, own, vidmimic2
from taemi_lib.data.readers.base import (
    READERS,
    SPLITS,
    FeatureClip,
    Options,
    Reader,
    Source,
    reader,
)
from taemi_lib.errors import ChoiceError


def find(source: Source, name: str | None = None) -> Reader:
    """The reader of this name, or the one that recognises the source.

    Raises ChoiceError listing the formats, with what each looks like.
    """
    if name is not None and name not in READERS:
        raise ChoiceError(f"unknown format {name!r}; the formats are: {', '.join(READERS)}")
    if name is not None:
        return READERS[name]
    fitting = [found for found in READERS.values() if found.recognises(source)]
    if len(fitting) == 1:
        return fitting[0]
    looks = "\n".join(f"  {found.name}: {found.about}" for found in READERS.values())
    what = "several formats fit" if fitting else "this is none of the known formats"
    names = ", ".join(found.name for found in fitting) or "one"
    raise ChoiceError(f"{source.path}: {what}; name {names} with --format:\n{looks}")


def import_readers(file: str | Path) -> None:
    """Run a Python file that registers readers of one's own.

    Raises ChoiceError naming the file when it is missing, fails, or registers none.
    """
    path, before = Path(file).expanduser().resolve(), dict(READERS)
    if not path.is_file():
        raise ChoiceError(f"--import {path}: no such file")
    try:
        runpy.run_path(str(path))
    except Exception as error:
        READERS.clear()
        READERS.update(before)
        raise ChoiceError(f"--import {path}: {type(error).__name__}: {error}") from error
    if before == READERS:
        raise ChoiceError(f"--import {path}: it registers no reader (@reader(NAME))")


def exists(path: str | Path) -> Path:
    """The place, when something lies there. Raises ChoiceError."""
    place = Path(path).expanduser()
    if not place.exists():
        raise ChoiceError(f"{place}: no such file or folder; give the place of the features")
    return place


__all__ = [
    "READERS",
    "SPLITS",
    "FeatureClip",
    "Options",
    "Reader",
    "Source",
    "exists",
    "find",
    "hf",
    "import_readers",
    "merbench",
    "mmsa",
    "mult",
    "own",
    "reader",
    "vidmimic2",
]

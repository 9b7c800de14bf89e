"""Folder names that say which settings they belong to."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping

from taemi_lib.support.differences import changes

LONGEST = 100  # characters, before a name is shortened


def nearest(known: Mapping[str, Mapping], asked: Mapping) -> tuple[str, dict[str, object]]:
    """The known settings that differ least from the asked ones (the first of several), and what
    is asked otherwise: ("demo", {"training.batch_size": 8})."""
    differs = {name: changes(settings, asked) for name, settings in known.items()}
    near = min(differs, key=lambda name: len(differs[name]))
    return near, differs[near]


def named(near: str, differs: Mapping[str, object]) -> str:
    """A folder's name: "demo+training.batch_size=8". Too long ones end in a mark instead; the
    folder's own profile.toml says everything."""
    text = "+".join([near, *(f"{name}={_readable(value)}" for name, value in differs.items())])
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 20].rstrip('+,.=-')}+more-{mark(text)}"


def mark(text: str) -> str:
    """Six hex digits that tell this text from others."""
    # a file's name may hold bytes that are no text; they tell it from others, too
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]


def visible(text: str) -> str:
    """A file's name as readers may be shown it: control characters (of terminals, too), marks that
    turn the direction of what follows, and bytes that are no text are written out as "[U+202E]".
    Joiners stay, which Persian and emoji need."""
    return "".join(
        f"[U+{ord(character):04X}]"
        if character not in "\u200c\u200d"
        and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character
        for character in text
    )


def safe(text: str) -> str:
    """Letters, digits, dot, underscore and hyphen stay; a mark keeps others apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", text)
    return plain if plain == text else f"{plain}-{mark(text)}"


def _readable(value: object) -> str:
    if isinstance(value, str) and "/" in value:  # a folder or hub id: its last part is the name
        return f"{safe(value.rstrip('/').rsplit('/', 1)[-1])}-{mark(value)}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_readable, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return safe(str(value))

"""Which clips are new, which have changed, and which are as they were when they were encoded.

A clip's features belong to the bytes of its files (and to its words, where a table gives them). The
store keeps their hashes. Sizes and times, kept beside it, save most of the hashing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from taemi_lib import profiles
from taemi_lib.data.manifest import Clip
from taemi_lib.features.store import Store
from taemi_lib.support import files

SEEN = "seen.json"  # {clip id: {"video": [file, size, time]}} of files whose hash is the stored one
_LARGEST_SEEN = 256 << 20  # bytes; a clip takes about 200
_UNREADABLE = "cannot be read"  # stands for a hash: no size and time says when it can be


@dataclass
class Changes:
    """Clips that are not in the store, whose files or words are others than those that were
    encoded, and of which only a file's name or date is another."""

    new: list[Clip] = field(default_factory=list)
    changed: list[Clip] = field(default_factory=list)
    touched: list[Clip] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.touched)


def words_of_table(clip: Clip, settings: profiles.Encoders) -> str | None:
    """The words that the clip table has for this clip, where these are the ones to use."""
    if settings.transcripts == "table":
        return clip.transcript
    return (clip.transcript or None) if settings.transcripts == "auto" else None


def source_of(clip: Clip, settings: profiles.Encoders) -> dict[str, str]:
    """What the clip's features are made from: {"video": sha256, "audio": ..., "words": ...}"""
    found = {name: _digest(path) for name, path in _files(clip).items()}
    return found | _words(clip, settings)


def changes(clips: Iterable[Clip], store: Store, settings: profiles.Encoders) -> Changes:
    """What has changed between the clips and the store. Only files of another size or date are
    read."""
    seen, found = _read(store), Changes()
    for clip in clips:
        if clip.clip_id not in store:
            found.new.append(clip)
            continue
        stored = store.source(clip.clip_id)
        if stored.get("words") != _words(clip, settings).get("words"):
            found.changed.append(clip)
        elif seen.get(clip.clip_id) != stamp(clip, store) or _UNREADABLE in stored.values():
            same = source_of(clip, settings) == stored
            (found.touched if same else found.changed).append(clip)
    return found


def stamp(clip: Clip, store: Store) -> dict[str, list]:
    """{"video": [path from the store, bytes, time in ns]}: another one says that a file may have
    changed. The path is relative, so that data and runs may be moved together."""
    return {
        name: [os.path.relpath(path, store.root), about.st_size, about.st_mtime_ns]
        for name, path in _files(clip).items()
        if path.exists() and (about := path.stat())
    }


def remember(stamps: dict[str, dict[str, list]], store: Store) -> None:
    """Keep the stamps of clips whose files are those of the store, taken before these were read: a
    file may change meanwhile. For the holder of the store's lock."""
    before = _read(store)
    if (seen := before | stamps) != before:
        files.write_json(store.root / SEEN, seen)


def _read(store: Store) -> dict:
    try:
        return files.read_json(store.root / SEEN, _LARGEST_SEEN)
    except (OSError, ValueError):  # only saves hashing
        return {}


def _files(clip: Clip) -> dict[str, Path]:
    named = {"video": clip.video, "audio": clip.audio}
    return {name: path for name, path in named.items() if path is not None}


def _words(clip: Clip, settings: profiles.Encoders) -> dict[str, str]:
    words = words_of_table(clip, settings)
    return {} if words is None else {"words": hashlib.sha256(words.encode()).hexdigest()}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:  # the clip's report says so, too
        return _UNREADABLE

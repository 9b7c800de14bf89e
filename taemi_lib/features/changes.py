"""Which clips are new, which have changed, and which are as they were when they were encoded.

A clip's features belong to the bytes of its files (and to its words, where a table gives them). The
store keeps their hashes; sizes and times, kept beside it, save most of the hashing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from taemi_lib import profiles
from taemi_lib.data.manifest import Clip
from taemi_lib.features.store import Store
from taemi_lib.support import files

SEEN = "seen.json"  # {clip id: {file: [size, time]}} of files whose hash is the stored one


def words_of_table(clip: Clip, settings: profiles.Encoders) -> str | None:
    """The words that the clip table has for this clip, where these are the ones to use."""
    if settings.transcripts == "table":
        return clip.transcript
    return (clip.transcript or None) if settings.transcripts == "auto" else None


def source_of(clip: Clip, settings: profiles.Encoders) -> dict[str, str]:
    """What the clip's features are made from: {"video": sha256, "audio": ..., "words": ...}"""
    found = {name: _digest(path) for name, path in _files(clip).items()}
    if (words := words_of_table(clip, settings)) is not None:
        found["words"] = hashlib.sha256(words.encode()).hexdigest()
    return found


def outdated(
    clips: Iterable[Clip], store: Store, settings: profiles.Encoders
) -> tuple[list[Clip], list[Clip]]:
    """(clips that are not in the store, clips that have changed since they were encoded)"""
    seen, new, changed = _read(store), [], []
    for clip in clips:
        if clip.clip_id not in store:
            new.append(clip)
            continue
        stored, words = store.source(clip.clip_id), words_of_table(clip, settings)
        same_words = stored.get("words") == (
            None if words is None else hashlib.sha256(words.encode()).hexdigest()
        )
        if same_words and seen.get(clip.clip_id) == _stamps(clip):
            continue
        if not same_words or source_of(clip, settings) != stored:
            changed.append(clip)
    return new, changed


def remember(clips: Iterable[Clip], store: Store) -> None:
    """Note the sizes and times of files that are those of the store. For the holder of its
    lock."""
    before = _read(store)
    seen = before | {clip.clip_id: _stamps(clip) for clip in clips}
    if seen != before:
        files.write_json(store.root / SEEN, seen)


def _read(store: Store) -> dict:
    try:
        return json.loads((store.root / SEEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # only saves hashing
        return {}


def _files(clip: Clip) -> dict[str, Path]:
    named = {"video": clip.video, "audio": clip.audio}
    return {name: path for name, path in named.items() if path is not None}


def _stamps(clip: Clip) -> dict[str, list]:
    found = {}
    for name, path in _files(clip).items():
        about = path.stat()
        found[name] = [str(path), about.st_size, about.st_mtime_ns]
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

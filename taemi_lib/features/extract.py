"""Clips -> store: decode and encode every clip once, in several processes, to be stopped and
continued at will.

Each clip is encoded by itself on one thread, so its features do not depend on the number of
processes, and it is written the moment it is done, so a killed run loses no more than the clips in
flight.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from taemi_lib import features, profiles
from taemi_lib.data.manifest import Clip, Manifest
from taemi_lib.data.media import SAMPLE_RATE, Frames, Unreadable
from taemi_lib.errors import ExtractionError, StoreError, TaemiError
from taemi_lib.features.changes import Changes, changes, remember, source_of, stamp, words_of_table
from taemi_lib.features.clip import extract_clip
from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.features.store import Store
from taemi_lib.support import device as devices
from taemi_lib.support import files, workers

_WORTH_A_PROCESS = 8  # clips; starting a process and loading its encoders takes some seconds
GIVEN_UP = "given up: "  # how the reasons of clips begin that could not be encoded
# how torch, oneDNN and C++ say it, as a RuntimeError
_NO_MEMORY = ("can't allocate memory", "could not create a primitive", "bad_alloc")
_LIMITS = "limits"  # in a clip's source: those that it was given up under


@dataclass(frozen=True)
class Report:
    """What an extraction did: clips encoded now, clips found in the store, and absent modalities
    with their reasons.

    absent, damaged and notes have the columns clip_id, modality, reason and cover all clips of the
    manifest.
    changed      ids of clips that were encoded again, because their files or words are others
    transcripts  where the words come from: {"table": clips, "whisper": clips, "none": clips}
    given_up     ids of clips of which nothing could be encoded: see the reasons in `absent`
    """

    done: int
    found: int
    absent: pd.DataFrame
    damaged: pd.DataFrame
    notes: pd.DataFrame
    seconds: float
    changed: list[str]
    transcripts: dict[str, int]
    given_up: list[str]

    def __str__(self) -> str:
        lines = [f"{self.done} clips encoded now, {self.found} found in the store"]
        if self.changed:
            lines.append(
                f"  encoded again, because their files, words or limits changed: "
                f"{_few(self.changed)}"
            )
        if self.given_up:
            lines.append(f"  given up ({len(self.given_up)} clips): {_few(self.given_up)}")
        words = {"table": "from the table", "whisper": "from Whisper", "none": "none"}
        counts = [f"{words[name]} {count}" for name, count in self.transcripts.items() if count]
        lines.append(f"  transcripts (clips): {', '.join(counts)}")
        for name, table in (
            ("absent", self.absent),
            ("damaged", self.damaged),
            ("note", self.notes),
        ):
            counts = table.groupby(["modality", "reason"]).size()
            lines += [
                f"  {modality} {name}: {reason} ({count} clips)"
                for (modality, reason), count in counts.items()
            ]
        return "\n".join(lines)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def extract(
    manifest: Manifest,
    encoders: profiles.Encoders,
    store_root: str | Path,
    processes: int | None = None,
    device: str | None = None,
    progress: bool = True,
    limits: profiles.Limits | None = None,
) -> Report:
    """Encode the manifest's clips that are not in the store at `store_root` yet.

    A clip whose files (or words, where the table gives them) have changed is encoded again. One
    that cannot be encoded (whatever its decoder does: an exception, a crash, an endless loop, more
    than `limits` allow) stops no other. It is kept with all modalities absent and that reason, and
    tried again when its files change or, where time, memory or a crash was the reason, the limits.

    processes: as many as cores by default, one on a GPU; scripts that call this need the usual
    `if __name__ == "__main__":` guard. 0 encodes in this process, without limits: what crashes
    there takes this process along. device: None or "auto" takes a GPU if there is one.
    Raises StoreError for a store of other encoders, EncoderError for an encoder that is not on
    this machine, and ExtractionError for what is no clip's doing: a script without the guard,
    encoders that fail with any input, a store that cannot be written. torch.OutOfMemoryError is a
    GPU that is too small.
    """
    started = time.perf_counter()
    limits = limits or profiles.Limits()
    store = Store(store_root, features.identity(encoders))
    place = str(devices.choose(device))
    done, again = 0, list[str]()
    if _to_do(manifest, store, encoders, limits):
        if processes != 0:
            workers.refuse_unguarded()
        # a second command on the same store waits, then finds the work done
        with files.locked(store.root):
            store = Store(store_root)
            store.clean()
            stamps = {clip.clip_id: stamp(clip, store) for clip in manifest}
            found = _to_do(manifest, store, encoders, limits)
            again = [clip.clip_id for clip in found.changed]
            if todo := [*found.new, *found.changed]:
                _fill(store, todo, stamps, encoders, place, limits, processes, progress)
                done = len(todo)
            remember(stamps, store)
    made = stored(manifest, store)
    return replace(
        made,
        done=done,
        found=len(manifest) - done,
        seconds=time.perf_counter() - started,
        changed=again,
        transcripts=_transcripts(manifest, encoders, made.absent),
    )


def stored(manifest: Manifest, store: Store) -> Report:
    """The report on features that are all there, imported ones for example: nothing is encoded.

    Raises StoreError naming a clip that is not in the store.
    """
    if missing := [clip_id for clip_id in manifest.clip_ids if clip_id not in store]:
        raise StoreError(
            f"{store.root}: {len(missing)} of {len(manifest)} clips have no features, the first is "
            f"{missing[0]!r}: import them again"
        )
    absent, damaged, notes = (
        _of(store.report(kind), manifest) for kind in ("absent", "damaged", "notes")
    )
    silent = int((absent["modality"] == "text").sum())
    words = {"table": len(manifest) - silent, "whisper": 0, "none": silent}
    given_up = sorted(set(absent["clip_id"][absent["reason"].str.startswith(GIVEN_UP)]))
    return Report(0, len(manifest), absent, damaged, notes, 0.0, [], words, given_up)


def _to_do(
    manifest: Manifest, store: Store, settings: profiles.Encoders, limits: profiles.Limits
) -> Changes:
    """What has changed, clips among it that were given up under other limits."""
    found = changes(manifest, store, settings)
    there = {clip.clip_id for clip in [*found.new, *found.changed]}
    for clip in manifest:
        if clip.clip_id not in there:
            given_up_under = store.source(clip.clip_id).get(_LIMITS)
            if given_up_under not in (None, _text(limits)):
                found.changed.append(clip)
    return found


def _text(limits: profiles.Limits) -> str:
    return f"{limits.clip_seconds:g} s, {limits.clip_memory:g} GB"


def _transcripts(
    manifest: Manifest, settings: profiles.Encoders, absent: pd.DataFrame
) -> dict[str, int]:
    """Where the words of how many clips come from."""
    without = set(absent["clip_id"][absent["modality"] == "text"])
    counts = {"table": 0, "whisper": 0, "none": len(without)}
    for clip in manifest:
        if clip.clip_id not in without:
            given = words_of_table(clip, settings) is not None
            counts["table" if given else "whisper"] += 1
    return counts


def _fill(
    store: Store,
    todo: list[Clip],
    stamps: dict[str, dict[str, list]],
    encoders: profiles.Encoders,
    device: str,
    limits: profiles.Limits,
    processes: int | None,
    progress: bool,
) -> None:
    """Every clip into the store: its features, or why it was given up."""
    results = _results(todo, encoders, device, limits, processes, (store.root, store.identity))
    bar = tqdm(results, total=len(todo), desc="encoding clips", unit="clip", disable=not progress)
    for number, trouble in bar:
        if trouble is not None:
            clip = todo[number]
            source = _given_up_for(clip, trouble, encoders, limits)
            if stamp(clip, store) != stamps[clip.clip_id]:
                source = {}  # another file by now, to be tried next time
            store.write(_without(clip, trouble.reason), source)


def _given_up_for(
    clip: Clip, trouble: _Trouble, encoders: profiles.Encoders, limits: profiles.Limits
) -> dict[str, str]:
    """What the clip has to differ from to be tried again."""
    at = {_LIMITS: _text(limits)} if trouble.at_limit else {}
    return source_of(clip, encoders) | at


def _of(report: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    return report[report["clip_id"].isin(manifest.clip_ids)].reset_index(drop=True)


# --- one clip at a time, here or in other processes ---


@dataclass(frozen=True)
class _Trouble:
    """Why a clip could not be encoded; `at_limit`: other limits may let it pass."""

    reason: str
    at_limit: bool = False


_Place = tuple[Path, dict[str, str]]  # of the store that takes the features
_Result = _Trouble | None  # None: the features are in the store


def _without(clip: Clip, reason: str) -> ClipFeatures:
    return ClipFeatures(clip.clip_id, absent=dict.fromkeys(profiles.MODALITIES, reason))


def _processes(clips: int, device: str) -> int:
    """How many processes so many clips are worth: one on a GPU, else at most the cores."""
    if device != "cpu":
        return 1
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(count or 1, -(-clips // _WORTH_A_PROCESS))


def _results(
    clips: list[Clip],
    settings: profiles.Encoders,
    device: str,
    limits: profiles.Limits,
    processes: int | None,
    place: _Place,
) -> Iterator[tuple[int, _Result]]:
    """(number of the clip, what became of it), in the order in which they are done."""
    count = _processes(len(clips), device) if processes is None else processes
    if count == 0:
        with devices.threads(1):  # more would sum in another order, and gain nothing here
            job = _Job(settings, device, None, place)
            for number, clip in enumerate(clips):
                yield number, job.encode(clip)
        return
    memory = limits.clip_memory if device == "cpu" else None
    arguments = (settings, device, memory, place)
    results = workers.each(clips, _work, _start, arguments, count, limits.clip_seconds, device)
    for number, result in results:
        if isinstance(result, workers.Lost):
            reason = f"{GIVEN_UP}{workers.CHANCES} attempts, {result.reason}"
            yield number, _Trouble(reason, at_limit=True)
        else:
            yield number, result


class _Job:
    """Encoders and store of one process."""

    def __init__(
        self, settings: profiles.Encoders, device: str, memory: float | None, place: _Place
    ):
        self.encoders = features.load_encoders(settings, device)
        self.store = Store(*place)
        # on top of what the encoders hold, which no clip is to blame for
        self.memory = memory if memory is not None and workers.limit_memory(memory) else None

    def encode(self, clip: Clip) -> _Result:
        try:
            source = source_of(clip, self.encoders.settings)  # before: a file may change meanwhile
            self._write(extract_clip(clip, self.encoders), source)
            return None
        except (TaemiError, torch.OutOfMemoryError):  # no room on the GPU: not the clip's doing
            raise
        except Exception as error:  # whatever it is, it must not stop the other clips
            trouble = self._trouble(error)
        # here, because until now the error held on to all that its clip had taken
        if not trouble.at_limit:
            self._try_encoders(trouble.reason)
        return trouble

    def _write(self, made: ClipFeatures, source: dict[str, str]) -> None:
        try:
            self.store.write(made, source)
        except OSError as error:  # a full disk is nothing that the clip has done
            raise ExtractionError(
                f"clip {made.clip_id} cannot be written to {self.store.root}: {error.strerror}. "
                "The clips before it are kept there; make room, and run the same again."
            ) from error

    def _trouble(self, error: Exception) -> _Trouble:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            limit = f" of {self.memory:g} GB (limits.clip_memory)" if self.memory else ""
            return _Trouble(f"{GIVEN_UP}needs more than the memory{limit}", at_limit=True)
        return _Trouble(f"{GIVEN_UP}{type(error).__name__}: {error}")

    def _try_encoders(self, reason: str) -> None:
        """Raises ExtractionError when the encoders fail without any file, too: then it is they, and
        every clip would be given up for nothing."""
        noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)  # 1 s
        grey = Frames(np.full((2, 64, 64, 3), 128, np.uint8), np.arange(2, dtype=np.float32) / 10)
        tries: list[Callable[[], object]] = [
            lambda: self.encoders.audio.encode(noise),
            lambda: self.encoders.vision.encode(grey),
            lambda: self.encoders.text.encode("to see you"),
        ]
        if (speech := self.encoders.speech) is not None:
            tries.append(lambda: speech.transcribe(noise))
        for attempt in tries:
            try:
                attempt()
            except Unreadable:  # an answer
                continue
            except Exception as fault:
                raise ExtractionError(
                    f"the encoders fail with any input: {type(fault).__name__}: {fault} "
                    f"(met in a clip as {reason.removeprefix(GIVEN_UP)})"
                ) from fault


_job: _Job  # of this process, once _start has run in it


def _start(settings: profiles.Encoders, device: str, memory: float | None, place: _Place) -> None:
    global _job
    torch.set_num_threads(1)
    _job = _Job(settings, device, memory, place)


def _work(clip: Clip) -> _Result:
    return _job.encode(clip)


__all__ = ["Report", "extract"]

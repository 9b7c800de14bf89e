"""Many clips, each encoded in a process that may be lost: whatever a decoder does with one file
(an exception, a crash, an endless loop, all the memory), the others are encoded.

pebble ends a worker whose clip takes too long and says which clip a dead worker was at; the
standard library's pool is broken as a whole by one crash.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pebble import ProcessExpired, ProcessPool

from taemi_lib import features, profiles
from taemi_lib.data.manifest import Clip
from taemi_lib.errors import ExtractionError, TaemiError
from taemi_lib.features.changes import source_of
from taemi_lib.features.clip import extract_clip
from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.features.store import Store
from taemi_lib.support import device as devices
from taemi_lib.support import workers

_WORTH_A_PROCESS = 8  # clips; starting a process and loading its encoders takes some seconds
_CHANCES = 2  # how often a clip may cost its worker the life before it is given up
_NO_MEMORY = 77  # exit code of a worker that ran out of what it may hold
_SIGNALS = {-9: "killed: often out of memory", -11: "segmentation fault", -6: "abort"}


@dataclass(frozen=True)
class Outcome:
    """What became of one clip: its features (None: kept in the store by the worker), or `trouble`,
    the reason why it was given up. `raised` tells an exception from a process that was lost."""

    clip: Clip
    features: ClipFeatures | None
    trouble: str = ""
    raised: bool = False


def given_up(clip: Clip, trouble: str) -> ClipFeatures:
    """The features of a clip that could not be encoded: none, and why."""
    return ClipFeatures(clip.clip_id, absent=dict.fromkeys(profiles.MODALITIES, trouble))


def in_processes(clips: Sequence[Clip], device: str) -> int:
    """How many processes these clips are worth: one on a GPU, else as many as cores."""
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, -(-len(clips) // _WORTH_A_PROCESS))


def encode_clips(
    clips: Sequence[Clip],
    settings: profiles.Encoders,
    device: str = "cpu",
    limits: profiles.Limits | None = None,
    processes: int | None = None,
    store: Store | None = None,
) -> Iterator[Outcome]:
    """Each clip's outcome, in the order in which they are done.

    store: where workers keep what they made, instead of handing it back. processes: 0 encodes in
    this process, where nothing can be ended (for tests). Raises what concerns all clips, when it
    happens: EncoderError, StoreError, ExtractionError for a store that cannot be written, and
    torch.OutOfMemoryError of a GPU.
    """
    count = in_processes(clips, device) if processes is None else min(processes, len(clips))
    if count == 0:
        yield from _here(clips, settings, device, store)
        return
    workers.refuse_unguarded()
    limits = limits or profiles.Limits()
    memory = limits.clip_memory if device == "cpu" else None
    place = None if store is None else (store.root, store.identity)
    arguments = (settings, device, memory, place)
    context: Any = multiprocessing.get_context("spawn")  # a forked copy of torch's threads may hang
    pool = ProcessPool(count, initializer=_start_worker, initargs=arguments, context=context)
    try:
        yield from _outcomes(pool, clips, limits)
        pool.close()
    finally:
        pool.stop()
        pool.join()


def _outcomes(
    pool: ProcessPool, clips: Sequence[Clip], limits: profiles.Limits
) -> Iterator[Outcome]:
    lost: dict[str, int] = {}
    waiting: dict[Future, Clip] = {
        pool.schedule(_work, (clip,), timeout=limits.clip_seconds): clip for clip in clips
    }
    while waiting:
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            clip = waiting.pop(future)
            try:
                yield Outcome(clip, future.result())
                continue
            except BrokenProcessPool as error:
                raise ExtractionError(
                    "a process died while encoding: out of memory, or a script whose calls are not "
                    f"all under {workers.GUARD} What was encoded is kept. Run the same again to "
                    "continue."
                ) from error
            except TimeoutError:
                trouble = f"took longer than {limits.clip_seconds:g} s (limits.clip_seconds)"
            except ProcessExpired as error:
                trouble = _why(error.exitcode, limits)
            except (TaemiError, torch.OutOfMemoryError):
                raise  # of all clips, not of this one
            except Exception as error:
                yield Outcome(clip, None, f"{type(error).__name__}: {error}", raised=True)
                continue
            lost[clip.clip_id] = lost.get(clip.clip_id, 0) + 1
            if lost[clip.clip_id] < _CHANCES:  # it may have been another program's doing
                again = pool.schedule(_work, (clip,), timeout=limits.clip_seconds)
                waiting[again] = clip
            else:
                yield Outcome(clip, None, f"given up after {_CHANCES} attempts: {trouble}")


def _why(code: int, limits: profiles.Limits) -> str:
    if code == _NO_MEMORY:
        return f"needs more than {limits.clip_memory:g} GB (limits.clip_memory)"
    return f"its process died ({_SIGNALS.get(code, f'exit code {code}')})"


def _here(
    clips: Sequence[Clip], settings: profiles.Encoders, device: str, store: Store | None
) -> Iterator[Outcome]:
    with devices.threads(1):  # more would sum in another order, and gain nothing on single clips
        encoders = features.load_encoders(settings, device)
        for clip in clips:
            try:
                yield Outcome(clip, _encode(clip, encoders, store))
            except (TaemiError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                yield Outcome(clip, None, f"{type(error).__name__}: {error}", raised=True)


def _encode(clip: Clip, encoders: features.Encoders, store: Store | None) -> ClipFeatures | None:
    if store is None:
        return extract_clip(clip, encoders)
    source = source_of(clip, encoders.settings)  # before: a file may change meanwhile
    made = extract_clip(clip, encoders)
    try:
        store.write(made, source)
    except OSError as error:  # a full disk is nothing that the clip has done
        raise ExtractionError(
            f"{store.root}: clip {clip.clip_id} cannot be written: {error.strerror}. What was "
            "encoded before is kept; make room, or choose another --runs-root"
        ) from error
    return None


# --- in a worker

_worker: tuple[features.Encoders, Store | None] | TaemiError  # once _start_worker has run


def _start_worker(
    settings: profiles.Encoders,
    device: str,
    memory: float | None,
    place: tuple[Path, dict[str, str]] | None,
) -> None:
    global _worker
    workers.end_with_parent()
    torch.set_num_threads(1)
    if memory is not None:
        workers.limit_memory(memory)
    try:
        store = None if place is None else Store(*place)
        _worker = features.load_encoders(settings, device), store
    except TaemiError as error:  # said by the first clip, where it can be heard
        _worker = error


def _work(clip: Clip) -> ClipFeatures | None:
    if isinstance(_worker, TaemiError):
        raise _worker
    try:
        return _encode(clip, *_worker)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            os._exit(_NO_MEMORY)  # what was not let go is not the next clip's fault
        raise

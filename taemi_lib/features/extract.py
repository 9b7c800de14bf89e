"""Clips -> store: decode and encode every clip once, in several processes, to be stopped and
continued at will.

Each clip is encoded by itself on one thread, so its features do not depend on the number of
processes, and it is written the moment it is done, so a killed run loses no more than the clips in
flight.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from taemi_lib import features, profiles
from taemi_lib.data.manifest import Clip, Manifest
from taemi_lib.errors import ExtractionError
from taemi_lib.features.changes import changes, remember, source_of, stamp, words_of_table
from taemi_lib.features.clip import extract_clip
from taemi_lib.features.store import Store
from taemi_lib.support import device as devices
from taemi_lib.support import files, workers

_WORTH_A_PROCESS = 8  # clips; starting a process and loading its encoders takes some seconds


@dataclass(frozen=True)
class Report:
    """What an extraction did: clips encoded now, clips found in the store, and absent modalities
    with their reasons.

    absent, damaged and notes have the columns clip_id, modality, reason and cover all clips of the
    manifest.
    changed      ids of clips that were encoded again, because their files or words are others
    transcripts  where the words come from: {"table": clips, "whisper": clips, "none": clips}
    """

    done: int
    found: int
    absent: pd.DataFrame
    damaged: pd.DataFrame
    notes: pd.DataFrame
    seconds: float
    changed: list[str]
    transcripts: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{self.done} clips encoded now, {self.found} found in the store"]
        if self.changed:
            shown = ", ".join(self.changed[:5]) + (", ..." if len(self.changed) > 5 else "")
            lines.append(f"  encoded again, because their files or words changed: {shown}")
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


def extract(
    manifest: Manifest,
    encoders: profiles.Encoders,
    store_root: str | Path,
    processes: int | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Report:
    """Encode the manifest's clips that are not in the store at `store_root` yet.

    A clip whose files (or words, where the table gives them) have changed is encoded again.

    processes: as many as cores by default, one on a GPU; scripts that call this need the usual
    `if __name__ == "__main__":` guard. device: None or "auto" takes a GPU if there is one.
    Raises StoreError for a store of other encoders, EncoderError for an encoder that is not on
    this machine, ExtractionError at once in a script without the guard, and after all other clips
    are done, naming the clips that failed for another reason than a bad file.
    """
    started = time.perf_counter()
    store = Store(store_root, features.identity(encoders))
    place = str(devices.choose(device))
    done, again = 0, list[str]()
    if changes(manifest, store, encoders):
        workers.refuse_unguarded()
        # a second command on the same store waits, then finds the work done
        with files.locked(store.root):
            store = Store(store_root)
            store.clean()
            stamps = {clip.clip_id: stamp(clip, store) for clip in manifest}
            found = changes(manifest, store, encoders)
            again = [clip.clip_id for clip in found.changed]
            if todo := [*found.new, *found.changed]:
                done = _encode_all(todo, encoders, store, place, processes, progress)
            remember(stamps, store)
    absent, damaged, notes = (
        _of(store.report(kind), manifest) for kind in ("absent", "damaged", "notes")
    )
    return Report(
        done,
        len(manifest) - done,
        absent,
        damaged,
        notes,
        time.perf_counter() - started,
        again,
        _transcripts(manifest, encoders, absent),
    )


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


def _encode_all(
    todo: list[Clip],
    encoders: profiles.Encoders,
    store: Store,
    device: str,
    processes: int | None,
    progress: bool,
) -> int:
    """Number of clips encoded: all of them, or ExtractionError."""
    if processes is None:
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        processes = 1 if device != "cpu" else min(cores, -(-len(todo) // _WORTH_A_PROCESS))
    results = (_in_processes if processes > 1 else _in_this_process)(
        todo, encoders, store, device, processes
    )
    bar = tqdm(results, total=len(todo), desc="encoding clips", unit="clip", disable=not progress)
    failed = {clip_id: error for clip_id, error in bar if error}
    if failed:
        lines = "\n".join(f"  {clip_id}: {error}" for clip_id, error in sorted(failed.items()))
        raise ExtractionError(
            f"{len(failed)} of {len(todo)} clips failed, the others are in {store.root}:\n{lines}\n"
            "Run the same again to continue with these."
        )
    return len(todo)


def _of(report: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    return report[report["clip_id"].isin(manifest.clip_ids)].reset_index(drop=True)


# --- one clip at a time, here or in other processes ---

_Result = tuple[str, str]  # clip id, what went wrong ("" if nothing)


def _encode(clip: Clip, encoders: features.Encoders, store: Store) -> _Result:
    try:
        source = source_of(clip, encoders.settings)  # before: a file may change meanwhile
        store.write(extract_clip(clip, encoders), source)
    # whatever it is, it must not stop the other clips; extract() raises it at the end
    except Exception as error:
        return clip.clip_id, f"{type(error).__name__}: {error}"
    return clip.clip_id, ""


def _in_this_process(
    todo: list[Clip], settings: profiles.Encoders, store: Store, device: str, _: int
) -> Iterator:
    with devices.threads(1):  # more would sum in another order, and gain nothing on single clips
        encoders = features.load_encoders(settings, device)
        for clip in todo:
            yield _encode(clip, encoders, store)


def _in_processes(
    todo: list[Clip], settings: profiles.Encoders, store: Store, device: str, count: int
) -> Iterator:
    context = multiprocessing.get_context("spawn")  # a forked copy of torch's threads may hang
    arguments = (settings, store.root, store.identity, device)
    with ProcessPoolExecutor(min(count, len(todo)), context, _start_worker, arguments) as pool:
        futures = {pool.submit(_work, clip): clip.clip_id for clip in todo}
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            # an encoder that cannot be loaded says so here, better than in a worker
            features.load_encoders(settings, device)
            raise ExtractionError(
                "a process died while encoding: out of memory, or a script whose calls are not "
                f"all under {workers.GUARD} "
                f"{sum(c.clip_id in store for c in todo)} of {len(todo)} clips are in "
                f"{store.root}. Run the same again to continue, with fewer processes."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_worker: tuple[features.Encoders, Store]  # of this process, once _start_worker has run in it


def _start_worker(
    settings: profiles.Encoders, root: Path, made_by: dict[str, str], device: str
) -> None:
    global _worker
    workers.end_with_parent()
    torch.set_num_threads(1)
    _worker = features.load_encoders(settings, device), Store(root, made_by)


def _work(clip: Clip) -> _Result:
    return _encode(clip, *_worker)


__all__ = ["Report", "extract"]

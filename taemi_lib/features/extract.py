"""Clips -> store: decode and encode every clip once, in several processes, to be stopped and
continued at will.

Each clip is encoded by itself on one thread, so its features do not depend on the number of
processes, and it is written the moment it is done, so a killed run loses no more than the clips in
flight.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from taemi_lib import features, profiles
from taemi_lib.data.manifest import Clip, Manifest
from taemi_lib.errors import ExtractionError
from taemi_lib.features.changes import changes, remember, source_of, stamp, words_of_table
from taemi_lib.features.pool import Outcome, encode_clips, given_up
from taemi_lib.features.store import Store
from taemi_lib.support import device as devices
from taemi_lib.support import files, workers

_IN_A_ROW = 8  # clips; when the first so many all fail, the clips are not what is wrong


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
    limits: profiles.Limits | None = None,
) -> Report:
    """Encode the manifest's clips that are not in the store at `store_root` yet.

    A clip whose files (or words, where the table gives them) have changed is encoded again. One
    that cannot be encoded, or that takes more than `limits`, stops no other: its modalities are
    absent, with what happened as the reason.

    processes: as many as cores by default, one on a GPU; scripts that call this need the usual
    `if __name__ == "__main__":` guard. 0 encodes in this process, which a file may then crash.
    device: None or "auto" takes a GPU if there is one.
    Raises StoreError for a store of other encoders, EncoderError for an encoder that is not on
    this machine, ExtractionError at once in a script without the guard, when every clip fails, and
    when the store cannot be written.
    """
    started = time.perf_counter()
    store = Store(store_root, features.identity(encoders))
    place = str(devices.choose(device))
    done, again = 0, list[str]()
    if changes(manifest, store, encoders):
        if processes != 0:
            workers.refuse_unguarded()
        # a second command on the same store waits, then finds the work done
        with files.locked(store.root):
            store = Store(store_root)
            store.clean()
            stamps = {clip.clip_id: stamp(clip, store) for clip in manifest}
            found = changes(manifest, store, encoders)
            again = [clip.clip_id for clip in found.changed]
            if todo := [*found.new, *found.changed]:
                outcomes = encode_clips(todo, encoders, place, limits, processes, store)
                _keep(outcomes, todo, encoders, store, progress)
                done = len(todo)
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


def _keep(
    outcomes: Iterator[Outcome],
    todo: list[Clip],
    encoders: profiles.Encoders,
    store: Store,
    progress: bool,
) -> None:
    """Let all clips be encoded; those that were given up are kept, too, with their reason: later
    steps and the next run know of them.

    Raises ExtractionError when exceptions are all that comes: that is no fault of the clips.
    """
    bar = tqdm(outcomes, total=len(todo), desc="encoding clips", unit="clip", disable=not progress)
    before = len(store)
    failed: list[Outcome] = []
    for number, outcome in enumerate(bar, start=1):
        if not outcome.trouble:
            continue
        failed.append(outcome)
        if len(failed) == number >= min(_IN_A_ROW, len(todo)) and (
            number == _IN_A_ROW or not before
        ):
            _refuse(failed, todo)
    for outcome in failed:
        clip = outcome.clip
        store.write(given_up(clip, outcome.trouble), source_of(clip, encoders))


def _refuse(failed: list[Outcome], todo: list[Clip]) -> None:
    if all(outcome.raised for outcome in failed):
        lines = "\n".join(f"  {one.clip.clip_id}: {one.trouble}" for one in failed)
        raise ExtractionError(
            f"encoding failed for each of the first {len(failed)} of {len(todo)} clips, so it is "
            f"given up:\n{lines}"
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


def _of(report: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    return report[report["clip_id"].isin(manifest.clip_ids)].reset_index(drop=True)


__all__ = ["Report", "extract"]

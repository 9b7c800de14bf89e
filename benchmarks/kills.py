"""kill -9 at random moments, many times, and whether anything was lost.

    python benchmarks/kills.py                50 kills, about 15 minutes on two cores
    python benchmarks/kills.py --kills 5      a look

A small study (clips -> features -> search -> grid -> tables) is made once without interruption.
Then it is made again and again in fresh folders, killed on the way and continued with the same
command, and compared: every file there must be there here, and no other, with the same bytes (but
for times, costs, and what names a file's date). After each kill, nothing that was finished may be
made a second time. Exit code 1 when anything differs.

Every third kill hits the parent alone, as when a notebook's kernel is restarted; the others hit the
whole process group. The moments are drawn (--seed): so many clips made, encoded, or epochs trained,
and a pause of up to 0.3 s after that, so that they also fall into writing and starting up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from taemi_lib.profiles import PROFILES, ROOT
from taemi_lib.workspace import Workspace

# few clips, of a seed with which every emotion varies in every split; many short epochs, so that
# kills fall between two
PROFILE = PROFILES["smoke"].changed(
    {
        "data.clips": 28,
        "data.seed": 8,
        "training.batch_size": 4,
        "training.epochs": 12,
        "training.patience": 99,
    }
)
SYSTEMS = ("taemi", "text_only")
SEEDS = (0, 1)
TRIALS = 2  # settings that each system searches
STEPS = ("generation", "extraction", "training and grid")
PAUSE = 0.3  # s, the longest between the moment that was drawn and the kill
ROUND = 25  # kills in one folder
PATIENCE = 600  # s without a clip, a feature or an epoch more: it hangs
TIMES = {"seconds", "cpu_seconds", "peak_memory_mb"}  # what no two runs have in common
PASSING = {".lock", "seen.json"}  # who works there; dates of files


# --- the work that is killed


def workspace(folder: Path) -> Workspace:
    return Workspace(PROFILE, folder / "data", folder / "runs", device="cpu", progress=False)


def make(folder: Path) -> None:
    from taemi_lib.experiments import Study, chosen, search_all, write_search

    here = workspace(folder)
    systems = {here.label_sets[0]: SYSTEMS}
    table = search_all(here, systems, TRIALS)
    assert table is not None
    study = Study(here, systems, SEEDS, settings=chosen(table))
    study.run()
    write_search(table, study.write(folder / "results") / "search.csv")


def started(folder: Path) -> subprocess.Popen:
    log = (folder / "log.txt").open("ab")
    return subprocess.Popen(
        [sys.executable, __file__, "--make", str(folder)],
        start_new_session=True,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )


# --- how far it is, and what it made


def histories(folder: Path) -> dict[Path, list[dict]]:
    """{path: epochs} of every run. (A search keeps whole trials only.)"""
    found = folder.glob("runs/*/systems/*/*/seed*/history.json")
    return {path: json.loads(path.read_text()) for path in found}


def reached(folder: Path) -> tuple[int, int, int]:
    """(clips made, clips encoded, epochs trained)"""
    here = workspace(folder)
    complete = (here.clips_folder / "truth.parquet").exists()
    rows = len(list(here.clips_folder.glob("rows/*.json")))
    encoded = len(list(here.features_folder.glob("clips/*.safetensors")))
    epochs = sum(map(len, histories(folder).values()))
    return PROFILE.data.clips if complete else rows, encoded, epochs


def finished(folder: Path) -> dict:
    """What may never be made again: clips and features by their file's time, epochs by the seconds
    that they took."""
    here = workspace(folder)
    data = here.clips_folder
    if (data / "truth.parquet").exists():
        clips = list(data.glob("raw/*.mp4"))
    else:
        clips = [data / "raw" / f"{row.stem}.mp4" for row in data.glob("rows/*.json")]
    encoded = here.features_folder.glob("clips/*.safetensors")
    found: dict = {path: path.stat().st_mtime_ns for path in [*clips, *encoded]}
    for path, epochs in histories(folder).items():
        found |= {(path, number): epoch["seconds"] for number, epoch in enumerate(epochs)}
    return found


def results(folder: Path) -> dict[str, object]:
    """{file: content} of everything that must not depend on how it came about."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name != "log.txt":
            found[name] = None if path.name in PASSING else _content(path)
    return found


def _content(path: Path) -> object:
    if path.name in ("metrics.json", "history.json", "state.json") or path.match("search/*/*/*"):
        return _without_times(json.loads(path.read_text()))
    if path.name in ("runs.csv", "search.csv"):
        return pd.read_csv(path).drop(columns=sorted(TIMES), errors="ignore").to_csv()
    return path.read_bytes()


def _without_times(content):
    if isinstance(content, dict):
        return {k: _without_times(v) for k, v in content.items() if k not in TIMES}
    return [_without_times(entry) for entry in content] if isinstance(content, list) else content


def differences(whole: dict, killed: dict) -> Iterator[str]:
    for name in sorted(whole.keys() | killed.keys()):
        if name not in killed:
            yield f"{name}: is missing"
        elif name not in whole:
            yield f"{name}: was left behind"
        elif whole[name] != killed[name]:
            yield f"{name}: is another"


# --- kills


def moments(draw: random.Random, count: int, most: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(step, how far) of each kill, in the order of the work: a quarter falls into generation, a
    quarter into extraction."""
    quarter = max(1, count // 4)
    found = []
    for step, share in enumerate((quarter, quarter, count - 2 * quarter)):
        # the last few units may be over before the kill arrives
        far = sorted(draw.randint(0, max(0, most[step] - 3)) for _ in range(share))
        found += [(step, enough) for enough in far]
    return found[:count]


def watched(process: subprocess.Popen, folder: Path) -> Iterator[tuple[int, int, int]]:
    """How far the work is, over and over until its process ends. One that hangs is killed: a busy
    machine is slow, but goes on."""
    far, since = None, time.monotonic()
    while process.poll() is None:
        now = reached(folder)
        if now != far:
            far, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
        yield now
        time.sleep(0.01)


def _ended(process: subprocess.Popen) -> str:
    """What is wrong with how a watched process ended, "" if nothing."""
    if process.returncode == -signal.SIGKILL:
        return "hangs"
    return f"exit code {process.returncode}" if process.returncode else ""


def kill_at(folder: Path, step: int, enough: int, pause: float, alone: bool) -> str:
    """Start or continue the work and kill it at this moment. What went wrong, or ""; "done" when
    it was over before."""
    process = started(folder)
    for far in watched(process, folder):
        if far[step] >= enough:
            break
    else:
        return _ended(process) or "done"
    time.sleep(pause)
    # taken before its workers can be orphans: the group's number stays valid while any is alive
    (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
    code = process.wait()
    if code == 0:
        return "done"
    if code != -signal.SIGKILL:
        return f"exit code {code}"
    return "" if _gone(process.pid) else "its workers outlived it"


def _gone(group: int, seconds: float = 30) -> bool:
    """Whether all processes of the group end: nothing may be at work beside the next start."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)
    return False


def one_round(
    folder: Path, count: int, draw: random.Random, most: tuple[int, int, int]
) -> tuple[Counter, list[str]]:
    """({step: kills}, what went wrong) of one folder, killed `count` times and then let finish."""
    kills: Counter = Counter()
    faults: list[str] = []
    kept: dict = {}
    for number, (step, enough) in enumerate(moments(draw, count, most)):
        pause = draw.uniform(0, PAUSE)
        said = kill_at(folder, step, enough, pause, alone=number % 3 == 2)
        if said == "done":
            break
        where = f"kill {number + 1}, {STEPS[step]} at {enough} + {pause:.2f} s"
        if said:
            faults.append(f"{where}: {said}")
        kills[STEPS[step]] += 1
        now = finished(folder)
        again = [key for key, value in kept.items() if now.get(key) != value]
        faults += [f"{where}: made a second time, or lost: {key}" for key in again[:3]]
        kept = now
        print(f"{where}: {'; '.join(faults[-1:]) if said or again else 'continues'}", flush=True)
    if said := _finish(folder):
        faults.append(f"the last start: {said}\n{_tail(folder)}")
    now = finished(folder)
    again = [key for key, value in kept.items() if now.get(key) != value]
    faults += [f"after the last start: made a second time, or lost: {key}" for key in again[:3]]
    if traceback := re.findall(rb"^\w*Error.*", (folder / "log.txt").read_bytes(), re.M):
        faults.append(f"the log tells of {traceback[0].decode(errors='replace')[:300]}")
    return kills, faults


def _finish(folder: Path) -> str:
    process = started(folder)
    for _ in watched(process, folder):
        pass
    return _ended(process)


def _tail(folder: Path) -> str:
    return "\n".join((folder / "log.txt").read_text(errors="replace").splitlines()[-8:])


def main(total: int, seed: int, place: Path) -> int:
    draw, kills, faults = random.Random(seed), Counter[str](), list[str]()
    begun = time.monotonic()
    whole = place / "whole"
    whole.mkdir(parents=True)
    if said := _finish(whole):
        print(f"the uninterrupted run: {said}\n{_tail(whole)}")
        return 1
    most, expected, rounds = reached(whole), results(whole), 0
    print(f"without interruption: {most} in {time.monotonic() - begun:.0f} s", flush=True)
    while kills.total() < total and rounds < total:
        rounds += 1
        folder = place / f"round{rounds}"
        folder.mkdir()
        found, wrong = one_round(folder, min(ROUND, total - kills.total()), draw, most)
        kills += found
        wrong += differences(expected, results(folder))
        faults += [f"round {rounds}: {line}" for line in wrong]
    print(
        f"\n{kills.total()} kills in {rounds} folders, {time.monotonic() - begun:.0f} s: "
        + ", ".join(f"{step} {kills[step]}" for step in STEPS)
    )
    print(f"{len(expected)} files compared in each folder; {len(faults)} faults")
    print("\n".join(faults))
    return 1 if faults or kills.total() < total else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make(given.make)
    elif given.keep:
        sys.exit(main(given.kills, given.seed, given.keep.resolve()))
    else:
        with tempfile.TemporaryDirectory() as made:
            sys.exit(main(given.kills, given.seed, Path(made)))

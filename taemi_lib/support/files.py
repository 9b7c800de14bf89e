"""Writing that a kill -9 cannot break: a file or folder is either the old one or the new one, never
half of each.

Used wherever the flow leaves something on disk that a later call builds on (checkpoints, histories,
metrics).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = ".lock"  # the file in a folder that says who holds it


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file through a temporary neighbour and one atomic rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
    except OSError:  # a full disk: what fitted would stay in the way
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def sweep(folder: str | Path) -> None:
    """Remove what `write_bytes` of killed processes left in this folder. Nothing of a process that
    is at work on this machine is touched."""
    for leftover in Path(folder).glob(".*.tmp"):
        writer = leftover.name.split(".")[-2]
        if writer.isdecimal() and not _at_work(int(writer)):
            leftover.unlink(missing_ok=True)


def _at_work(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True


def write_json(path: str | Path, content: object) -> None:
    """`content` as indented JSON, atomically. NaN is refused (it is not JSON). Raises
    ValueError."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


LARGEST_JSON = 16 << 20  # bytes; parsed, a file takes up to thirty times its size


def read_json(path: str | Path, largest: int = LARGEST_JSON, kind: type = dict) -> Any:
    """The object (or list) in a JSON file. Raises ValueError for a larger file, and for what is no
    JSON or of another kind: the caller says what that means."""
    size = Path(path).stat().st_size
    if size > largest:
        raise ValueError(f"it has {size:,} bytes, at most {largest:,} are read")
    try:
        found = json.loads(Path(path).read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, kind):
        raise ValueError(f"it holds a {type(found).__name__}, expected a {kind.__name__}")
    return found


def check_archive(path: str | Path) -> None:
    """Raises ValueError for an archive with packed parts, or with parts larger than itself:
    torch.save packs nothing, and unpacking would take the memory that a few bytes claim."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"it is a damaged archive ({error})") from error
    claimed, size = sum(part.file_size for part in parts), Path(path).stat().st_size
    if claimed > size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError(f"its parts are packed: unpacked they have {claimed:,} bytes, it {size:,}")


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Fill the yielded folder; when the block ends well it takes the place of `path`, else `path`
    stays as it was.

    A folder cannot replace another in one step, so the old one moves aside first. `mend_folder`
    puts things right after a kill between the two renames: call it before reading.
    """
    path = Path(path)
    fresh, old = path.with_name(path.name + ".tmp"), path.with_name(path.name + ".old")
    mend_folder(path)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except Exception:  # a full disk, say: half a folder would only fill it
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if path.exists():
        os.rename(path, old)
    os.rename(fresh, path)
    shutil.rmtree(old, ignore_errors=True)


def mend_folder(path: str | Path) -> None:
    """Undo what an interrupted `new_folder` left behind: the last complete version stands at `path`
    afterwards."""
    path = Path(path)
    fresh, old = path.with_name(path.name + ".tmp"), path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        os.rename(old, path)
    for leftover in (fresh, old):
        if leftover.exists():
            shutil.rmtree(leftover)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold `folder` for this process; a second process waits. The kernel frees the lock when a
    process is killed. What killed processes left half written in it is removed.

    Killing a parent leaves its workers alive for a moment: without the lock, the restarted command
    and an orphaned worker would write the same run at the same time.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        sweep(folder)
        yield

"""Worker processes: they may be lost without harm, and are gone when the process that started them
is gone.

`each` is for work that may crash, hang or take all the memory: the item that did it is named, and
the others are done. `context` starts processes that already hold what takes seconds to import.
`end_with_parent` is for every pool. `kill -9`, or a notebook's kernel being
restarted, ends the parent alone: its workers would finish what they are at, beside the restarted
command that does the same, and then wait for work forever.
"""

from __future__ import annotations

import ast
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from taemi_lib.errors import ExtractionError, TaemiError

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

GUARD = 'if __name__ == "__main__":'
CHANCES = 2  # how often an item may cost its process the life; once may be another program's doing
_AHEAD = "taemi_lib.support.ahead"  # what processes hold already when they start
_PATIENCE = 1.0  # s between looks at whether a pool that answers nothing is still alive


def refuse_unguarded() -> None:
    """Raises ExtractionError in a script that starts processes without a main guard.

    Each of them imports the script again, runs into the same call, and waits for the lock that the
    first one holds: for ever. Notebooks, commands and tests are not concerned.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    script = Path(file) if file and getattr(main, "__spec__", None) is None else None
    # of a process that is still importing the script which started it
    importing = getattr(multiprocessing.current_process(), "_inheriting", False)
    if importing or (script is not None and not _is_guarded(script)):
        raise ExtractionError(
            f"{Path(file or 'the script').name} starts processes, and each of them would run it "
            f"again: put its calls under {GUARD}"
        )


def _is_guarded(script: Path) -> bool:
    """Whether some statement of the script is only run when it is the main one."""
    try:
        statements = ast.parse(script.read_bytes()).body
    except (SyntaxError, ValueError, OSError):  # no Python source: a launcher
        return True
    tests = [statement.test for statement in statements if isinstance(statement, ast.If)]
    return any("__name__" in ast.unparse(test) for test in tests)


def context(device: str) -> BaseContext:
    """How a pool that encodes or trains on `device` ("cpu", "cuda", ...) starts its processes.

    A fresh Python spends some five seconds on importing torch, transformers and whisper. So on
    Linux one does this once, as long as this process lives: multiprocessing's fork server. It
    never does anything else, so that there is no thread which a forked copy would lack (those of
    OpenBLAS and jemalloc begin anew in each). A GPU cannot be used in what is forked, in case the
    driver was already asked for it.

    The processes have the environment of the server: `take_over` gives them this one's.
    """
    if sys.platform != "linux" or device != "cpu":
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([_AHEAD])
    here = dict(os.environ)
    # The server has to import from where this process does; by itself it would look into the
    # current folder first, and not where a script has added to the path.
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        take_over(here)
    return found


def take_over(environment: dict[str, str]) -> None:
    """Make this the environment of this process."""
    os.environ.clear()
    os.environ.update(environment)


def end_with_parent() -> None:
    """For a pool's `initializer`: end this process as soon as its parent is no more."""
    threading.Thread(target=_wait, daemon=True).start()


def limit_memory(gigabytes: float) -> bool:
    """From now on this process may take so much more than it holds already; asking for more raises
    MemoryError. False where the platform cannot count that (only Linux does)."""
    held = _private_bytes()
    if resource is None or held is None:
        return False
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = held + round(gigabytes * 1e9)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return True


def _private_bytes() -> int | None:
    """What Linux holds against RLIMIT_DATA: private writable memory, used or not."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmData:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _wait() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


# --- work that may cost a process its life


@dataclass(frozen=True)
class Lost:
    """What became of an item whose process was lost each time, and why."""

    reason: str


def each(
    items: Sequence[Any],
    work: Callable[[Any], Any],
    start: Callable[..., None],
    arguments: tuple = (),
    processes: int = 1,
    seconds: float | None = None,
    device: str = "cpu",
) -> Iterator[tuple[int, Any]]:
    """(number of the item, what `work` made of it, or Lost) for all items, in the order in which
    they are done.

    start(*arguments) is called first in every process. `seconds` is the most that one item may
    take; then its process is ended. An item that loses its process gets a new one, once.

    Raises what `work` raises (what concerns one item only should be returned instead), what
    `start` raises, and ExtractionError when processes die before they have started.
    """
    crew = _Crew(items, work, (start, arguments), seconds, device)
    try:
        for _ in range(min(processes, len(items))):
            crew.begin()
        while crew.busy:
            for future in crew.finished():
                yield from crew.outcome(future)
    finally:
        crew.dismiss()


class _Crew:
    """The processes of one call of `each`.

    Each is a pool of its own, with one item in flight: nothing is shared that a dying process could
    leave locked, and there is no doubt about which item it was at.
    """

    def __init__(
        self,
        items: Sequence[Any],
        work: Callable,
        initial: tuple,
        seconds: float | None,
        device: str,
    ):
        self.items, self.work, self.seconds = items, work, seconds
        self.initial, self.context = (*initial, dict(os.environ)), context(device)
        self.waiting = deque(range(len(items)))
        self.losses: Counter[int | None] = Counter()  # of the item; None: before the first one
        self.busy: dict[Future, tuple[ProcessPool, int | None]] = {}

    def begin(self) -> None:
        started: Any = self.context
        pool = ProcessPool(1, initializer=_begin, initargs=self.initial, context=started)
        self.busy[pool.schedule(_begun)] = pool, None

    def finished(self) -> list[Future]:
        """Those that have an answer, or whose pool will never give one."""
        done, others = wait(self.busy, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
        return [*done] or [one for one in others if not self.busy[one][0].active]

    def outcome(self, future: Future) -> Iterator[tuple[int, Any]]:
        """What there is to tell; its process has its next item by then."""
        pool, item = self.busy[future]
        if lost := _why_lost(future, self.seconds):
            del self.busy[future]
            _end(pool)
            yield from self._after_loss(item, lost)
            return
        result = future.result()  # raises what `work` or `start` raised
        del self.busy[future]
        self._hand_next_to(pool)
        if item is None:
            self.losses[None] = 0
        else:
            yield item, result

    def _hand_next_to(self, pool: ProcessPool) -> None:
        if not self.waiting:
            _end(pool)
            return
        try:
            item = self.items[self.waiting[0]]
            future = pool.schedule(self.work, (item,), timeout=self.seconds)
        except RuntimeError:  # its process was killed while it had nothing to do
            _end(pool)
            self.begin()
        else:
            self.busy[future] = pool, self.waiting.popleft()

    def _after_loss(self, item: int | None, lost: str) -> Iterator[tuple[int, Any]]:
        self.losses[item] += 1
        given_up = self.losses[item] == CHANCES
        if item is None and given_up:
            raise ExtractionError(
                f"a process died while encoding, before its first clip ({lost}): too little memory "
                f"for the encoders, or a script whose calls are not all under {GUARD}"
            )
        if item is not None and not given_up:
            self.waiting.append(item)
        if self.waiting:
            self.begin()
        if item is not None and given_up:
            yield item, Lost(lost)

    def dismiss(self) -> None:
        pools = [pool for pool, _ in self.busy.values()]
        for pool in pools:
            pool.stop()  # all of them first: they end side by side
        for pool in pools:
            _end(pool)


def _end(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def _why_lost(future: Future, seconds: float | None) -> str:
    """Why the process was lost, "" when it was not."""
    error = future.exception() if future.done() else BrokenProcessPool()
    if isinstance(error, TimeoutError):
        return f"took longer than {seconds:g} s"
    if isinstance(error, BrokenProcessPool):
        return "its process died"
    if isinstance(error, ProcessExpired):
        return f"its process died: {_named(error.exitcode)}"
    return ""


def _named(code: int) -> str:
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
    return f"signal {-code}, {name}" + (", often for lack of memory" if name == "SIGKILL" else "")


_start_failed: BaseException | None = None  # in a worker


def _begin(start: Callable[..., None], arguments: tuple, environment: dict[str, str]) -> None:
    global _start_failed
    end_with_parent()
    take_over(environment)
    try:
        start(*arguments)
    except TaemiError as error:  # told by `_begun`, which is heard
        _start_failed = error
    except Exception as error:
        _start_failed = ExtractionError(
            f"a process could not start: {type(error).__name__}: {error}"
        )


def _begun() -> None:
    if _start_failed is not None:
        raise _start_failed

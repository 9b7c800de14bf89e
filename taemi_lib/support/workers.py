"""Worker processes that are gone when the process that started them is gone.

Used by every step that works in several processes. `kill -9`, or a notebook's kernel being
restarted, ends the parent alone: its workers would finish what they are at, beside the restarted
command that does the same, and then wait for work forever.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import sys
import threading
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

from taemi_lib.errors import ExtractionError

GUARD = 'if __name__ == "__main__":'


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


def end_with_parent() -> None:
    """For a pool's `initializer`: end this process as soon as its parent is no more."""
    threading.Thread(target=_wait, daemon=True).start()


def limit_memory(gigabytes: float) -> None:
    """What this process may hold of its own, code and mapped files left aside; asking for more
    raises MemoryError, where the platform counts (Linux does)."""
    if resource is None:
        return
    limit, hard = round(gigabytes * 1e9), resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def _wait() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)

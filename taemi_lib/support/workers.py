"""Worker processes that are gone when the process that started them is gone.

Used by every step that works in several processes. `kill -9`, or a notebook's kernel being
restarted, ends the parent alone: its workers would finish what they are at, beside the restarted
command that does the same, and then wait for work forever.
"""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """For a pool's `initializer`: end this process as soon as its parent is no more."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)

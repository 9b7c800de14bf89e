"""How much memory this machine has left for a file that must be read whole."""

from __future__ import annotations

import os
from pathlib import Path

_MEMINFO, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that can be taken without swapping: what the kernel says, or what is left of a
    container's limit, whichever is less."""
    return min(_of_machine(), _of_group())


def _of_machine() -> int:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    # no Linux: all that there is, as nothing better is known without another library
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_group() -> int:
    try:
        limit = int((_GROUP / "memory.max").read_text())  # "max": none
        return max(limit - int((_GROUP / "memory.current").read_text()), 0)
    except (OSError, ValueError):
        return 1 << 62


def gigabytes(count: float) -> str:
    """ "1.5 GB" """
    return f"{count / 1e9:.1f} GB"

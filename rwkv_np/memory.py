"""How much memory this process uses, and how much the machine has."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# The memory limit of the container, if the process runs in one.
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def resident_anonymous() -> int | None:
    """Bytes of memory that belong to this process alone, without mapped files; None if unknown.

    Known on Linux only. Pages of the model file are not counted: the system can drop them at any time.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), None)


def installed() -> int | None:
    """The most bytes of memory that a process can use: the machine's, or its container's limit; None if unknown."""
    found = [n for n in (_physical(), *map(_limit, _CGROUPS)) if n]
    return min(found, default=None)


def _physical() -> int | None:
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf; a system may not know the names
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _physical_on_windows()


def _physical_on_windows() -> int | None:
    import ctypes

    n_kb = ctypes.c_ulonglong()
    with suppress(AttributeError, OSError):
        if ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(n_kb)):  # type: ignore[attr-defined]
            return 1024 * n_kb.value
    return None


def _limit(path: str) -> int | None:
    with suppress(OSError, ValueError):  # "max" is not a number: no limit
        return int(Path(path).read_text(encoding="ascii"))
    return None

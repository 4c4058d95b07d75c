"""How much memory this process holds."""

from __future__ import annotations


def anonymous_memory() -> int | None:
    """Bytes that the system cannot drop and read again (RssAnon); None where that is not told.

    A mapped model file is not among them: what is in memory of it is the system's to keep or drop.
    """
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("RssAnon"))
    except (OSError, StopIteration):  # not Linux
        return None
    return int(line.split()[1]) * 1024

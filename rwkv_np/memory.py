"""How much memory this process uses."""

from __future__ import annotations

from pathlib import Path


def resident_anonymous() -> int | None:
    """Bytes of memory that belong to this process alone, mapped files left out; None where unknown.

    Known on Linux only. Pages of the model file are not counted: the system can drop them at any time.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), None)

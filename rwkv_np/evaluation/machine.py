"""What the operating system says of this process and its processor; None or "unknown" where it says nothing."""

from __future__ import annotations

import platform
from pathlib import Path


def resident_anonymous() -> int | None:
    """Bytes of memory that belong to this process alone, mapped files left out; None where unknown.

    Linux alone tells it: what is left out are pages of the model file, which the kernel takes back at will.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), None)


def processor() -> str:
    """The processor's name and how many there are, as well as it can be known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {max(1, len(names))} processors"

"""The processor, as the operating system reports it."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The processor's name and the number of processors, as far as known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {max(1, len(names))} processors"

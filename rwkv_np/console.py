"""What the terminal that we write to can do, and the line on it that is written over."""

from __future__ import annotations

import os
import sys
from typing import IO

_ERASE_LINE = "\r\x1b[K"


def is_drawable(stream: IO[str]) -> bool:
    """Whether a line there can be written over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_color(stream: IO[str]) -> bool:
    """Whether colour is possible and welcome there."""
    return is_drawable(stream) and not os.environ.get("NO_COLOR")


def write_over(line: str) -> None:
    """Put `line` in place of the one at hand on stderr; nothing where that cannot be drawn on."""
    if is_drawable(sys.stderr):
        print(f"{_ERASE_LINE}{line}", end="", file=sys.stderr, flush=True)

"""What the terminal can do, and its progress line."""

from __future__ import annotations

import os
import re
import sys
from typing import IO

_ERASE_LINE = "\r\x1b[K"
# C0 and C1 controls but for tab and line feed: an answer must not move the cursor or set the title.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_drawable(stream: IO[str]) -> bool:
    """Whether a line there can be written over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_color(stream: IO[str]) -> bool:
    """Whether the stream supports colour and the user wants it."""
    return is_drawable(stream) and not os.environ.get("NO_COLOR")


def columns(stream: IO[str]) -> int:
    """How wide the terminal there is now; 80 where that is unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):  # no terminal, closed, or no file at all
        return 80


def printable(text: str, stream: IO[str]) -> str:
    """`text` of a model or a file, with its control characters made visible where a terminal would obey them."""
    if not stream.isatty():
        return text
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def write_over(line: str) -> None:
    """Replace the current line on stderr by `line`; does nothing if stderr cannot be redrawn."""
    if is_drawable(sys.stderr):
        print(f"{_ERASE_LINE}{line}", end="", file=sys.stderr, flush=True)

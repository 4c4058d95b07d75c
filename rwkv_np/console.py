"""What the terminal can do, and its progress line."""

from __future__ import annotations

import os
import re
import sys
from typing import IO

from rwkv_np.wrapping import width

_ERASE_LINE = "\r\x1b[K"
# C0 and C1 controls except tab and line feed: an answer must not move the cursor or set the title.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_drawable(stream: IO[str]) -> bool:
    """Whether a line of that stream can be overwritten."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_color(stream: IO[str], wanted: bool | None = None) -> bool:
    """Whether to write colours to that stream.

    `wanted` is the user's setting for this program. If it is None, the common variables NO_COLOR and FORCE_COLOR
    decide, in this order, and then whether the terminal has colours.
    """
    if wanted is not None:
        return wanted
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_drawable(stream)


def is_utf_8(stream: IO[str]) -> bool:
    """Whether any character can be written to that stream."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf8")


def window(stream: IO[str]) -> os.terminal_size:
    """Columns and rows of the terminal; 80 and 24 if they are unknown."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):  # not a terminal, closed, or not a file
        size = os.terminal_size((0, 0))
    return os.terminal_size((size.columns or 80, size.lines or 24))


def columns(stream: IO[str]) -> int:
    """The current width of the terminal; 80 if it is unknown."""
    return window(stream).columns


def printable(text: str, stream: IO[str]) -> str:
    """`text` from a model or a file; if a terminal would obey its control characters, they are made visible."""
    if not stream.isatty():
        return text
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def write_over(line: str) -> None:
    """Replace the current line on stderr with `line`; does nothing if stderr cannot be redrawn.

    A longer line is cut to one row: the terminal would wrap it, and the next call would erase only its last row.
    """
    if is_drawable(sys.stderr):
        print(f"{_ERASE_LINE}{_cut(line, columns(sys.stderr) - 1)}", end="", file=sys.stderr, flush=True)


def _cut(line: str, n: int) -> str:
    """The beginning of `line` that takes at most `n` columns."""
    while width(line) > n:
        line = line[: len(line) - max(1, (width(line) - n) // 2)]
    return line

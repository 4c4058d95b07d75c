"""What the terminal can do, and its progress line."""

from __future__ import annotations

import os
import re
import sys
from typing import IO

from rwkv_np.wrapping import width

_ERASE_LINE = "\r\x1b[K"
# C0 and C1 controls but for tab and line feed: an answer must not move the cursor or set the title.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_drawable(stream: IO[str]) -> bool:
    """Whether a line there can be written over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_color(stream: IO[str], wanted: bool | None = None) -> bool:
    """Whether to write in colour there.

    `wanted` is what the user has set for this program. Without it NO_COLOR and FORCE_COLOR, the
    variables that programs share, decide in this order, and then whether the terminal has colours.
    """
    if wanted is not None:
        return wanted
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_drawable(stream)


def is_utf_8(stream: IO[str]) -> bool:
    """Whether any character can be written there."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf8")


def window(stream: IO[str]) -> os.terminal_size:
    """Columns and rows of the terminal there; 80 and 24 where they are unknown."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):  # no terminal, closed, or no file at all
        size = os.terminal_size((0, 0))
    return os.terminal_size((size.columns or 80, size.lines or 24))


def columns(stream: IO[str]) -> int:
    """How wide the terminal there is now; 80 where that is unknown."""
    return window(stream).columns


def printable(text: str, stream: IO[str]) -> str:
    """`text` of a model or a file, with its control characters made visible where a terminal would obey them."""
    if not stream.isatty():
        return text
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def write_over(line: str) -> None:
    """Replace the current line on stderr by `line`; does nothing if stderr cannot be redrawn.

    What has no room on one row is cut off: the terminal would wrap it, and the next call erase the last row only.
    """
    if is_drawable(sys.stderr):
        print(f"{_ERASE_LINE}{_cut(line, columns(sys.stderr) - 1)}", end="", file=sys.stderr, flush=True)


def _cut(line: str, n: int) -> str:
    """The beginning of `line` that takes at most `n` columns."""
    while width(line) > n:
        line = line[: len(line) - max(1, (width(line) - n) // 2)]
    return line

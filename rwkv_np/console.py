"""What the terminal that we write to can do."""

from __future__ import annotations

import os
from typing import IO


def is_drawable(stream: IO[str]) -> bool:
    """Whether a line there can be written over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_color(stream: IO[str]) -> bool:
    """Whether colour is possible and welcome there."""
    return is_drawable(stream) and not os.environ.get("NO_COLOR")

"""What is said to the person beside the work, in a line: once in a process."""

from __future__ import annotations

import functools
import logging

_log = logging.getLogger("rwkv_np")


@functools.cache
def say_once(text: str) -> None:
    """A line on stderr, where nothing else is set up for `logging`."""
    _log.warning("%s", text)

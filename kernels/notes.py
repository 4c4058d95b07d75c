"""Notes to the user, one line each, shown once per process."""

from __future__ import annotations

import functools
import logging

_log = logging.getLogger("rwkv_np")


@functools.cache
def say_once(text: str) -> None:
    """Log a warning; it goes to stderr unless `logging` is set up otherwise."""
    _log.warning("%s", text)

"""A spinner until the first token: while the prompt is read and the first token computed.

A thread draws it, since the kernels keep the main thread busy (they release the GIL). Before anything else
is written, the thread has stopped and its line is erased.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rwkv_np.console import is_drawable, is_utf_8, write_over

DELAY, PERIOD = 0.15, 0.1  # seconds; the delay avoids a flash before a fast answer
_SIGNS, _PLAIN_SIGNS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"


class Spinner:
    """A turning sign with `text` next to it, on the current line of stderr if that is a terminal."""

    def __init__(self) -> None:
        self.text = ""
        self._signs = _SIGNS if is_utf_8(sys.stderr) else _PLAIN_SIGNS
        self._stopped, self._thread = threading.Event(), threading.Thread(target=self._turn, daemon=True)

    def start(self) -> None:
        """Begin to turn, after a moment."""
        if sys.stdout.isatty() and is_drawable(sys.stderr):
            self._thread.start()

    def stop(self) -> None:
        """Stop, and erase the line."""
        if self._thread.is_alive():
            self._stopped.set()
            self._thread.join()

    def _turn(self) -> None:
        n, wait = 0, DELAY
        while not self._stopped.wait(wait):
            write_over(f"{self._signs[n % len(self._signs)]} {self.text}")
            n, wait = n + 1, PERIOD
        if n:
            write_over("")


@contextmanager
def spinning() -> Iterator[Spinner]:
    """A spinner that stops when the block ends, also after an exception."""
    spinner = Spinner()
    spinner.start()
    try:
        yield spinner
    finally:
        spinner.stop()

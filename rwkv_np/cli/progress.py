"""Progress of long work, on stderr: the current step, how much is done, and the time left.

One line for all commands. On a terminal it is overwritten ten times a second, and removed at the end; in a log it is a
new line every 30 s. Its content differs: bytes have a bar and a rate, tokens have their results so far.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from rwkv_np.console import columns, is_drawable, printable, write_over

_TERMINAL_EVERY_S, _LOG_EVERY_S = 0.1, 30.0
_BAR = 20  # characters


class ProgressLine:
    """The line; a subclass defines its content. Called with a text, how much is done, and the total."""

    def __init__(self) -> None:
        self._is_terminal = is_drawable(sys.stderr)
        self._every_s = _TERMINAL_EVERY_S if self._is_terminal else _LOG_EVERY_S
        self._start = self._shown = time.monotonic()
        self._first = 0  # what was already done when the clock started
        self._last: int | None = None

    def __call__(self, text: str, done: int, total: int) -> None:
        now = time.monotonic()
        is_first = self._last is None or done < self._last  # of this work, or of the next
        if is_first:
            self._start, self._first = now, done
        self._last = done
        if now - self._shown >= self._every_s or is_first and self._is_terminal:
            self._show(text, done, total, self._rate(now, done))
            self._shown = now
        if done == total:
            write_over("")

    def _rate(self, now: float, done: int) -> float:
        """Units per second since the start; 0 in the first second, which is not representative."""
        return (done - self._first) / (now - self._start) if now >= self._start + 1 else 0.0

    def _show(self, text: str, done: int, total: int, rate: float) -> None:
        left = _clock((total - done) / rate) if rate else ""
        line = self._line(printable(text, sys.stderr), done, total, rate, left)
        if self._is_terminal:
            write_over(line[: columns(sys.stderr) - 1])
        else:
            click.echo(line, err=True)

    def _line(self, text: str, done: int, total: int, rate: float, left: str) -> str:
        """`rate` in units per second; `left` as 1:23, empty if unknown."""
        raise NotImplementedError


class RunningLine(ProgressLine):
    """Intermediate results of long work."""

    def _line(self, text: str, done: int, total: int, rate: float, left: str) -> str:
        return f"{done:,} of {total:,}{f', {left} left' if left else ''}: {text}"


class ByteLine(ProgressLine):
    """Bytes of a file that is read or written. `label` names the work, and the text names the current part."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def _line(self, text: str, done: int, total: int, rate: float, left: str) -> str:
        n = _BAR * done // total if total else 0
        bar = f" [{'#' * n}{'-' * (_BAR - n)}]" if self._is_terminal else ""
        figures = [f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"]
        figures += [f"{rate / 1e6:,.1f} MB/s", f"{left} left"] if left else []
        return f"{self._label}{bar} {100 * done // total if total else 0:3d} %  {', '.join(figures)}  {text}"


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (name, bytes done, total bytes) that draws the line, which is cleared at the end.

    The line appears with the first call, so an error before the work starts is shown without it.
    """
    try:
        yield ByteLine(label)
    finally:
        write_over("")


def show_loading(what: str, done: int, total: int) -> None:
    """The line while a model loads, without figures; only on a terminal."""
    write_over(f"{what}: {done} of {total}" if done < total else "")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

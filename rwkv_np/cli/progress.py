"""Progress of long work on stderr: what is being done, how far it is, and the time left."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from rwkv_np.console import is_drawable, write_over

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (name, bytes done, bytes in all) that draws a bar where stderr is a terminal.

    The bar appears with the first call, so that an error before the work starts is shown without a bar.
    """
    with ExitStack() as stack:
        bar: ProgressBar[str] | None = None
        done_before = 0

        def show(name: str, done: int, total: int) -> None:
            nonlocal bar, done_before
            if bar is None:
                bar = stack.enter_context(_bar(label, total))
            bar.update(done - done_before, name)
            done_before = done

        yield show


def _bar(label: str, length: int) -> ProgressBar[str]:
    return click.progressbar(
        length=length,
        label=label,
        file=sys.stderr,
        show_eta=True,
        item_show_func=lambda name: name or "",
    )


def show_loading(what: str, done: int, total: int) -> None:
    """One line that is updated while a model loads, and cleared afterwards; only on a terminal."""
    write_over(f"{what}: {done} of {total}" if done < total else "")


class RunningLine:
    """Intermediate results of long work, in one line that is updated; in a log, a new line every 30 s.

    Called with a short text of the results, how much is done, and the total.
    """

    def __init__(self) -> None:
        self._is_terminal = is_drawable(sys.stderr)
        self._every_s = 0.1 if self._is_terminal else 30.0
        self._start = self._shown = time.monotonic()
        self._first = 0  # what was already done when the clock started

    def __call__(self, figures: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done <= self._first or self._first == 0:
            self._start, self._first = now, done
        elif now - self._shown >= self._every_s or (done == total and self._is_terminal):
            left = (now - self._start) / (done - self._first) * (total - done)
            self._show(f"{done:,} of {total:,}, {_clock(left)} left: {figures}", is_last=done == total)
            self._shown = now

    def _show(self, text: str, is_last: bool) -> None:
        if not self._is_terminal:
            click.echo(text, err=True)
            return
        width = shutil.get_terminal_size().columns - 1
        write_over("" if is_last else text[:width])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

"""Progress of long work on stderr: what is being done, how far, and how long it will still take."""

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

    The bar appears with the first call: an error before the work starts stands alone on the screen.
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
    """One line that is written over as a model is loaded, and gone when it is; a terminal alone sees it."""
    write_over(f"{what}: {done} of {total}" if done < total else "")


class RunningLine:
    """Long work's figures so far, in one line that is written over; every 30 s a new one in a log.

    Called with the figures in a few words, how much is done, and how much there is.
    """

    def __init__(self) -> None:
        self._is_terminal = is_drawable(sys.stderr)
        self._every_s = 0.1 if self._is_terminal else 30.0
        self._start = self._shown = time.monotonic()
        self._first = 0  # what was done when the clock was started, which was with other work

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

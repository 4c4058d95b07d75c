"""Progress of long work on stderr: what is being done, how far, and how long it will still take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from rwkv_np.console import is_drawable

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
    if is_drawable(sys.stderr):
        text = f"{what}: {done} of {total}" if done < total else ""
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)

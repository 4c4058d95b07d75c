"""Progress of long work on stderr: what is being done, how far, and how long it will still take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (name, bytes done, bytes in all) that draws a bar where stderr is a terminal."""
    with click.progressbar(
        length=1, label=label, file=sys.stderr, show_eta=True, item_show_func=lambda name: str(name or "")
    ) as bar:
        done_before = 0

        def show(name: str, done: int, total: int) -> None:
            nonlocal done_before
            bar.length = total
            bar.update(done - done_before, name)
            done_before = done

        yield show

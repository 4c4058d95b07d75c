"""Redraws the input line when the window becomes narrower.

Most terminals then wrap every row again, so there are more rows than prompt_toolkit has painted. It goes up by
the number that it painted, which left pieces of the line on the screen at each step of the mouse. A program cannot ask
a terminal whether it wraps again, so the terminals that do not are named here, and are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Point
from prompt_toolkit.utils import get_cwidth


def erase_all_on_resize(app: Application[Any]) -> None:
    """Make `app` erase all rows of its line when the window becomes narrower, before it paints the line again."""
    resize = app._on_resize

    def on_resize() -> None:
        renderer, columns = app.renderer, app.output.get_size().columns
        screen, size, cursor = renderer.last_rendered_screen, renderer._last_size, renderer._cursor_pos
        if screen and size and columns < size.columns and _wraps_anew(os.environ):
            rows = [_cells(screen.data_buffer[y]) for y in range(cursor.y)]
            before = _cells(screen.data_buffer[cursor.y])[: cursor.x]
            above = sum(n_rows(cells, columns) for cells in rows) + n_rows(before, columns) - 1
            renderer._cursor_pos = Point(min(cursor.x, columns - 1), above)
        resize()

    app._on_resize = on_resize  # type: ignore[method-assign]


def _cells(row: Mapping[int, Any]) -> list[int]:
    """The width of each character in a painted row, without the space at its end; 0 for a wide one's second half."""
    end = max((x for x, cell in row.items() if cell.char.strip()), default=-1) + 1
    return [get_cwidth(row[x].char) if x in row else 1 for x in range(end)]


def n_rows(cells: list[int], columns: int) -> int:
    """How many rows a row of characters of these widths takes in a window of so many columns."""
    n, at = 1, 0
    for width in cells:
        if at + width > columns:
            n, at = n + 1, 0
        at += width
    return n


def _wraps_anew(environment: Mapping[str, str]) -> bool:
    """xterm, the Linux console, st and GNU screen cut rows off instead. (tmux may call itself screen.)"""
    if environment.get("TMUX"):
        return True
    name = environment.get("TERM", "")
    return "XTERM_VERSION" not in environment and name.partition("-")[0] not in ("linux", "st", "screen", "dumb")

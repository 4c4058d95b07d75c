"""Writes an answer to the terminal as it arrives: styled text, lines of code, tables.

Running text is only appended, wrapped between words. So answers taller than the window and changes of its size need no
special care. Two things are drawn a second time, and only if the window has not changed since: a line of code that fits
on one row, because its end may change its colours; and a table, when its last row has arrived and all of it is still in
the window.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable

from rwkv_np.chat.highlight import Highlighter
from rwkv_np.chat.styles import RESET, Style, sequence
from rwkv_np.chat.table import draw
from rwkv_np.wrapping import Wrapper, width

_RUN = re.compile(r"[^ \t\n]+")


class Page:
    """The place of one answer.

    put     writes to the terminal
    size    returns the terminal's current columns and rows
    column  where the answer begins, after the speaker's name
    moves   whether the terminal can move its cursor; if not, nothing is drawn a second time
    """

    def __init__(
        self, put: Callable[[str], None], size: Callable[[], os.terminal_size], column: int = 0, *, moves: bool = True
    ) -> None:
        self._put, self._size, self._moves = put, size, moves
        self._at_label = column > 0
        self._styles: deque[tuple[Style, int]] = deque()  # of the visible characters in the wrapper, and how many
        self._wrapper = Wrapper(lambda: self._size().columns, column)
        self._is_muted = False
        self._code: _CodeLine | None = None
        self._table: str | None = None
        self._table_size = size()

    # --- running text

    def write(self, text: str, style: Style = Style.PLAIN) -> None:
        """Text, which may be a part of a word, in a style."""
        self._at_label = self._at_label and not text
        n_visible = sum(map(len, _RUN.findall(text)))
        if n_visible:
            is_same = self._styles and self._styles[-1][0] == style
            self._styles.append((style, n_visible + (self._styles.pop()[1] if is_same else 0)))
        self._show(self._wrapper.push(text))
        if text.endswith("\n"):
            self._wrapper.indent = 0

    def flush(self) -> None:
        """Show the last word, which waited for its end."""
        self._show(self._wrapper.flush())

    def begin_block(self, indent: int) -> None:
        """A heading, a list item and the like begin on a new line, not on the line with the name."""
        if self._at_label:
            self.write("\n")
        self._wrapper.indent = indent if self._size().columns >= 3 * indent else 0

    def _show(self, text: str) -> None:
        """Write text that the wrapper returned. The wrapper moves only spaces, so visible characters keep their
        order."""
        painted = self._painted(text)
        if painted and not self._is_muted:
            self._put(painted)

    def _painted(self, text: str) -> str:
        """`text` with the styles of its visible characters; each stretch ends with a reset."""
        parts, at = [], 0
        for run in _RUN.finditer(text):
            start, end = run.span()
            while start < end:
                style, n = self._take_style(end - start)
                if style:
                    parts += [text[at:start], sequence(style), text[start : start + n], RESET]
                    at = start + n
                start += n
        return "".join([*parts, text[at:]])

    def _take_style(self, n: int) -> tuple[Style, int]:
        """The style of the next visible characters, and how many of the next `n` have it."""
        style, n_left = self._styles.popleft()
        if n_left > n:
            self._styles.appendleft((style, n_left - n))
        return style, min(n, n_left)

    # --- code

    def open_code(self, language: str) -> None:
        """Lines of code begin."""
        self._code = _CodeLine(Highlighter(language), self._write_raw, self._size, self._moves)

    def code(self, text: str) -> None:
        """A part of a line of code, or a line break."""
        assert self._code
        self._code.add(text)

    def close_code(self) -> None:
        """Running text follows."""
        self._code = None
        self._wrap_from_the_edge()

    # --- tables

    def open_table(self) -> None:
        """Rows of a table begin."""
        self.flush()
        self._table, self._table_size = "" if self._moves else None, self._size()

    def cells(self, text: str) -> None:
        """A part of a row, or a line break; shown as it was written until the table is whole."""
        if self._table is not None:
            self._table += text
        self._write_raw(text)

    def close_table(self) -> None:
        """Draw the table with aligned columns, over its rows."""
        text, self._table = self._table, None
        self._wrap_from_the_edge()
        if not text or self._is_muted:
            return
        size, whole = self._table_size, text.rstrip("\n")
        n_up = _n_rows(whole, size.columns) - (whole == text)
        if size == self._size() and n_up < size.lines and (drawn := draw(whole, size.columns)):
            self._put(f"\r\x1b[{n_up}A\x1b[J" * bool(n_up) + drawn + "\n" * (whole != text))

    def _wrap_from_the_edge(self) -> None:
        self._wrapper = Wrapper(lambda: self._size().columns)

    def _write_raw(self, text: str) -> None:
        if not self._is_muted:
            self._put(text)

    # --- continuing an answer

    def mute(self) -> None:
        """Read the next text without showing it: it has been shown already."""
        self._is_muted = True

    def unmute(self) -> None:
        """Continue at the left edge; a line that was shown in part stays as it is."""
        self.flush()
        self._is_muted, self._table = False, None
        self._wrap_from_the_edge()
        if self._code:
            self._code.leave_as_it_is()


class _CodeLine:
    """The line of code that is being written."""

    def __init__(
        self,
        highlighter: Highlighter,
        put: Callable[[str], None],
        size: Callable[[], os.terminal_size],
        moves: bool,
    ) -> None:
        self._highlighter, self._put, self._size, self._moves = highlighter, put, size, moves
        self._begin()

    def add(self, text: str) -> None:
        if text == "\n":
            self._draw(self._highlighter.colors(self._text, is_whole=True))
            self._put("\n")
            self._begin()
            return
        self._text += text
        self._draw(self._highlighter.colors(self._text))

    def leave_as_it_is(self) -> None:
        """The beginning of this line is on another row: do not draw it again."""
        self._columns = 0

    def _begin(self) -> None:
        self._text = ""
        self._drawn: list[str] = []  # the colours of its characters on the screen
        self._columns = self._size().columns if self._moves else 0

    def _draw(self, colors: list[str]) -> None:
        """Append the new characters; if colours of earlier ones have changed, write over the whole row."""
        first = len(self._drawn)
        if colors[:first] != self._drawn and self._is_on_one_row():
            first = 0
            self._put("\r")
        if first < len(colors):
            self._put(_in_colors(self._text[first:], colors[first:]))
        self._drawn = colors

    def _is_on_one_row(self) -> bool:
        columns = self._size().columns
        return columns == self._columns and width(self._text.expandtabs(8)) < columns


def _in_colors(text: str, colors: list[str]) -> str:
    parts, shown = [], ""
    for char, color in zip(text, colors):
        if color != shown:
            parts += [RESET if shown else "", color]
            shown = color
        parts.append(char)
    return "".join([*parts, RESET if shown else ""])


def _n_rows(text: str, columns: int) -> int:
    """The number of rows that `text` takes when the terminal wraps its lines."""
    return sum(_n_rows_of(line.expandtabs(8), columns) for line in text.split("\n"))


def _n_rows_of(line: str, columns: int) -> int:
    n, at = 1, 0
    for char in line:
        if at + width(char) > columns:
            n, at = n + 1, 0
        at += width(char)
    return n

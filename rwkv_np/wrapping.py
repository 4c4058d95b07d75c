"""Word wrapping of text as it arrives, for terminals, which would break lines inside words.

A word waits until it is complete: only then is it known whether it fits on the line. Chinese and Japanese may be broken
between any two characters, but not before a closing mark nor after an opening one. A word longer than a line is written
as it arrives, and the terminal breaks it. Only a screen needs this: pipes get the text unchanged.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

TAB = 8
_JOINER = "\u200d"
# Not at the start of a line, in addition to Unicode's closing class: marks, small kana, prolonged sound marks.
_NEVER_FIRST = frozenset(
    "，。、！？：；．…‥—～〜·・％‰℃°,.!?:;%ーァィゥェォッャュョヮヵヶぁぃぅぇぉっゃゅょゎ々〻ゝゞヽヾ"
)


def width(text: str) -> int:
    """Columns that `text` takes in a terminal, without tabs and line breaks."""
    return sum(map(_width, text))


def _width(char: str) -> int:
    if char < "\u0300":
        return 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):  # they combine with the character before
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _is_ideograph(char: str) -> bool:
    """Whether lines may end before and after it. (Korean has spaces, and is broken at them.)"""
    return unicodedata.east_asian_width(char) in "WF" and not "\uac00" <= char <= "\ud7a3"


def _may_part(before: str, after: str) -> bool:
    """Whether a line may end between two characters that are not spaces."""
    if not (_is_ideograph(before) or _is_ideograph(after)) or before == _JOINER or not _width(after):
        return False
    if "\U0001f3fb" <= after <= "\U0001f3ff":  # a skin tone modifies the emoji before it
        return False
    if after in _NEVER_FIRST or unicodedata.category(after) in ("Pe", "Pf"):
        return False
    return unicodedata.category(before) not in ("Ps", "Pi")


class Wrapper:
    """Breaks lines: push text, show the returned text, and show the result of `flush` at the end.

    columns  returns the current width of the terminal
    column   where the text begins
    indent   how many spaces begin a line after a break
    """

    def __init__(self, columns: Callable[[], int], column: int = 0, indent: int = 0) -> None:
        self._columns, self._column, self.indent = columns, column, indent
        self._space, self._word, self._width = "", "", 0
        self._is_long = False  # the word is longer than a line, and part of it was shown

    def push(self, text: str) -> str:
        """The part of the text so far that can be shown."""
        columns = max(1, self._columns())
        return "".join([self._take(char, columns) for char in text])

    def flush(self) -> str:
        """The rest of the text, at its end."""
        return self._end_word(max(1, self._columns()))

    def _take(self, char: str, columns: int) -> str:
        if char == "\n":
            shown = self._end_word(columns) + char
            self._column, self._space = 0, ""
            return shown
        if char in " \t":
            shown = self._end_word(columns)
            self._space += char
            return shown
        shown = self._end_word(columns) if self._word and _may_part(self._word[-1], char) else ""
        return shown + self._add(char, columns)

    def _add(self, char: str, columns: int) -> str:
        """Add a character to the word. The word waits, unless it is longer than a line."""
        self._word += char
        self._width += _width(char)
        if self._is_long:
            self._advance(char, columns)
            return char
        if self._width <= columns - self.indent:
            return ""
        shown, self._space, self._is_long = self._space + self._word, "", True
        self._advance(shown, columns)
        return shown

    def _end_word(self, columns: int) -> str:
        """The word that is complete now, on this line or at the start of the next."""
        word, self._word, n = self._word, "", self._width
        is_long, self._is_long, self._width = self._is_long, False, 0
        if not word or is_long:
            return ""
        space, self._space = self._space, ""
        if self._column and self._column_after(space) + n > columns:
            space = "\n" + " " * self.indent
            self._column = 0
        self._advance(space.lstrip("\n") + word, columns)
        return space + word

    def _column_after(self, space: str) -> int:
        column = self._column
        for char in space:
            column = (column // TAB + 1) * TAB if char == "\t" else column + 1
        return column

    def _advance(self, text: str, columns: int) -> None:
        """Advance by `text`; the terminal starts a new line when one is full."""
        for char in text:
            after = self._column_after(char) if char in " \t" else self._column + _width(char)
            self._column = after if after <= columns else after - self._column


def wrapped(text: str, columns: int, column: int = 0, indent: int = 0) -> str:
    """All of `text`, broken between words; it begins at `column`."""
    wrapper = Wrapper(lambda: columns, column, indent)
    return wrapper.push(text) + wrapper.flush()

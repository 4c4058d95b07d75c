"""A parser for Markdown that streams: it reports each piece of an answer as soon as its meaning is certain.

A parser for whole documents (markdown-it, which rich uses) would have to run again for each token, and text already
shown would change when a marker closes. Here nothing is taken back: an opening `**` turns bold on at once, and
a line appears as soon as its first characters say what it is. So a few rules are narrower than Markdown's:
emphasis uses stars only (names_like_this stay whole) and ends with its line, and links, HTML and formulas stay as
they were written.

It does not know terminals: page.py shows what it reports.
"""

from __future__ import annotations

import re
from typing import Protocol

from rwkv_np.chat.styles import Style

# A line whose beginning looks like this may still become anything.
_UNDECIDED = re.compile(r" *(#{0,6}|[+>]|-+|\*+|\d{1,9}[.)]?|`{0,2}|~{0,2})")
_FENCE = re.compile(r" *(`{3,}|~{3,})")
_MAYBE_CLOSING = re.compile(r" *(`*|~*) *")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+")
_BULLET = re.compile(r"( *)[-+*] ")
_NUMBER = re.compile(r" *\d{1,9}[.)] ")
_QUOTE = re.compile(r" {0,3}> ?")
_TABLE = re.compile(r" *\|")
_RULE = re.compile(r" {0,3}(-{3,}|\*{3,}) *")

_PLAIN = re.compile(r"[^*`\\]+")
_MARK = re.compile(r"\*+|`+|\\.?", re.DOTALL)
_ESCAPABLE = "*_`#~|"  # not brackets: in formulas, \( and \[ are not escapes
_EMPHASIS = {1: Style.ITALIC, 2: Style.BOLD, 3: Style.BOLD | Style.ITALIC}
_RULE_SHOWN = "─" * 24


class Sink(Protocol):
    """Receives what the parser finds."""

    def write(self, text: str, style: Style) -> None:
        """Running text, with its line breaks."""

    def begin_block(self, indent: int) -> None:
        """A block begins on this line; its further rows begin with `indent` spaces."""

    def open_code(self, language: str) -> None:
        """The lines of code after a fence begin."""

    def code(self, text: str) -> None:
        """Code: a part of a line, or a line break."""

    def close_code(self) -> None:
        """The code has ended."""

    def open_table(self) -> None:
        """The rows of a table begin."""

    def cells(self, text: str) -> None:
        """A part of a row, or a line break."""

    def close_table(self) -> None:
        """The table has ended."""


class Markdown:
    """Push text as it arrives, then flush."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._line = ""  # the beginning of a line that is not decided yet
        self._is_decided = False
        self._kind = "text"  # of the line once it is decided: text, fence, code or table
        self._fence = ""  # the marks that opened the code
        self._info = ""
        self._in_table = False
        self._style = self._base = Style.PLAIN
        self._ticks = 0  # the number of backquotes that began the inline code
        self._held, self._before = "", ""  # marks whose meaning depends on the next character; the character before

    def push(self, text: str) -> None:
        """Add `text`, which may be part of a word."""
        first, *rest = text.split("\n")
        self._add(first)
        for part in rest:
            self._end_line()
            self._add(part)

    def flush(self) -> None:
        """Show what was still undecided: the text has ended."""
        if not self._is_decided:
            self._decide(is_whole=True)
        self._inline("", is_whole=True)
        self._leave_table()
        if self._fence and self._kind == "code":
            self._sink.close_code()

    def _add(self, text: str) -> None:
        """A part of a line."""
        if not text:
            return
        if self._is_decided:
            self._go_on(text)
            return
        self._line += text
        self._decide(is_whole=False)

    def _end_line(self) -> None:
        if not self._is_decided:
            self._decide(is_whole=True)
        if self._kind == "text":
            self._inline("", is_whole=True)
        self._break()
        self._line, self._is_decided = "", False
        self._style = self._base = Style.PLAIN
        self._before, self._ticks = "", 0
        if self._kind == "fence":
            self._after_fence()

    def _break(self) -> None:
        if self._kind == "code":
            self._sink.code("\n")
        elif self._kind == "table":
            self._sink.cells("\n")
        else:
            self._sink.write("\n", Style.PLAIN)

    def _go_on(self, text: str) -> None:
        """More of a line whose kind is known."""
        if self._kind == "code":
            self._sink.code(text)
        elif self._kind == "table":
            self._sink.cells(text)
        elif self._kind == "fence":
            self._info += text
            self._sink.write(text, Style.DIM)
        else:
            self._inline(text)

    # --- the kind of a line

    def _decide(self, *, is_whole: bool) -> None:
        """Decide the kind of the line if its start is enough for that; at the line's end it always is."""
        if self._fence:
            self._decide_code(is_whole)
        elif is_whole or not _UNDECIDED.fullmatch(self._line):
            self._begin_line(is_whole)

    def _decide_code(self, is_whole: bool) -> None:
        """A line after an opening fence: code, unless it is the closing one."""
        line = self._line
        if not is_whole and _MAYBE_CLOSING.fullmatch(line):
            return
        marks = line.strip(" ")
        self._is_decided = True
        if is_whole and marks.startswith(self._fence) and not marks.strip(self._fence[0]):
            self._sink.close_code()
            self._kind, self._fence, self._info = "fence", "", ""
            self._sink.write(line, Style.DIM)
        elif line:
            self._kind = "code"
            self._sink.code(line)

    def _begin_line(self, is_whole: bool) -> None:
        line, self._is_decided = self._line, True
        if _TABLE.match(line):
            self._begin_row(line)
            return
        self._leave_table()
        self._kind = "text"
        if found := _FENCE.match(line):
            self._begin_fence(line, found[1])
        elif found := _QUOTE.match(line):
            self._begin_quote(line[found.end() :], is_whole)
        elif found := _HEADING.match(line):
            self._sink.begin_block(0)
            self._style = self._base = Style.HEADING
            self._inline(line[found.end() :])
        elif found := _BULLET.match(line):
            self._sink.begin_block(found.end())
            self._sink.write(f"{found[1]}• ", Style.PLAIN)
            self._inline(line[found.end() :])
        elif found := _NUMBER.match(line):
            self._sink.begin_block(found.end())
            self._sink.write(found[0], Style.PLAIN)
            self._inline(line[found.end() :])
        elif is_whole and _RULE.fullmatch(line):
            self._sink.begin_block(0)
            self._sink.write(_RULE_SHOWN, Style.DIM)
        else:
            self._inline(line)

    def _begin_row(self, line: str) -> None:
        if not self._in_table:
            self._sink.begin_block(0)
            self._sink.open_table()
        self._in_table, self._kind = True, "table"
        self._sink.cells(line)

    def _leave_table(self) -> None:
        if self._in_table:
            self._in_table = False
            self._sink.close_table()

    def _begin_fence(self, line: str, marks: str) -> None:
        self._sink.begin_block(0)
        self._kind, self._fence, self._info = "fence", marks, line.strip(" ").strip(marks[0])
        self._sink.write(line, Style.DIM)

    def _after_fence(self) -> None:
        """The line after a fence begins: code, or running text again."""
        if not self._fence:
            self._kind = "text"
        elif self._fence[0] in self._info:  # ```code``` on one line
            self._kind, self._fence = "text", ""
        else:
            self._kind = "code"
            self._sink.open_code((self._info.split() or [""])[0])

    def _begin_quote(self, rest: str, is_whole: bool) -> None:
        self._sink.begin_block(2)
        self._sink.write("│ ", Style.DIM)
        self._line, self._is_decided = rest, False  # a quote may contain a list
        self._decide(is_whole=is_whole)

    # --- the text in a line

    def _inline(self, text: str, *, is_whole: bool = False) -> None:
        """Running text; marks at its end wait for the next character, unless the line is whole."""
        text, self._held = self._held + text, ""
        at = 0
        while at < len(text):
            found = _PLAIN.match(text, at)
            if found:
                self._show(found[0])
            else:
                found = _MARK.match(text, at)
                assert found
                if found.end() == len(text) and not is_whole and len(found[0]) < 80:
                    self._held = found[0]
                    return
                self._mark(found[0], text[found.end() : found.end() + 1])
            at = found.end()

    def _mark(self, mark: str, after: str) -> None:
        """Stars, backquotes, or a backslash and a character; `after` is what comes next, if anything does."""
        if mark[0] == "`":
            self._tick(mark)
        elif self._ticks:
            self._show(mark)
        elif mark[0] == "\\":
            self._show(mark[1] if mark[1:] and mark[1] in _ESCAPABLE else mark)
        else:
            self._star(mark, after)

    def _tick(self, mark: str) -> None:
        if not self._ticks:
            self._ticks = len(mark)
            self._style |= Style.CODE
        elif self._ticks == len(mark):
            self._ticks = 0
            self._style &= ~Style.CODE
        else:
            self._show(mark)

    def _star(self, mark: str, after: str) -> None:
        emphasis = _EMPHASIS.get(len(mark))
        before = self._before
        if emphasis and emphasis in self._style and before.strip():
            self._style &= ~emphasis | self._base
        elif emphasis and after.strip() and emphasis not in self._style and not _is_product(before, after, mark):
            self._style |= emphasis
        else:
            self._show(mark)

    def _show(self, text: str) -> None:
        self._before = text[-1]
        self._sink.write(text, self._style)


def _is_product(before: str, after: str, mark: str) -> bool:
    """Whether stars are an operator, as in 2*3 and 2**3. (Chinese has no spaces around emphasis.)"""
    is_word = before.isascii() and before.isalnum()
    return is_word and (len(mark) == 1 or after.isascii() and after.isalnum())

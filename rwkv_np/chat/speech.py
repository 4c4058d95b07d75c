"""One answer on stdout: the speaker's name, and the text as it arrives.

On a terminal the text is wrapped between words, and its Markdown is rendered if there are colours (page.py). The
model's output is text there, never a command. In a pipe the text is written unchanged, for programs to read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rwkv_np.chat.markdown import Markdown
from rwkv_np.chat.page import Page
from rwkv_np.chat.styles import LABEL, RESET, Style
from rwkv_np.console import has_color, is_drawable, is_utf_8, printable, window
from rwkv_np.wrapping import width


@dataclass(frozen=True)
class Looks:
    """How answers look on a terminal; color None: the environment decides."""

    color: bool | None = None
    markdown: bool = True


class Speech:
    """Writes an answer; `name` is shown before its first text, on a terminal only.

    before  text of the answer that was shown earlier, if this is the rest of it
    """

    def __init__(self, name: str, looks: Looks | None = None, before: str = "") -> None:
        looks = looks or Looks()
        self._name, self._before = name, before
        self._is_terminal, self._has_color = sys.stdout.isatty(), has_color(sys.stdout, looks.color)
        # Without colours, the marks of Markdown are the only emphasis.
        self._reads_markdown = looks.markdown and self._has_color and is_utf_8(sys.stdout)
        self._page: Page | None = None
        self._markdown: Markdown | None = None
        self._is_dim = self._has_begun = False

    def begin(self) -> None:
        """Show the name, unless that was done. (Before that, the progress of reading is drawn on this line.)"""
        if self._has_begun:
            return
        self._has_begun = True
        if self._is_terminal:
            label = f"{printable(self._name, sys.stdout)}:" if self._name else ""
            self._put(f"{LABEL}{label}{RESET} " if self._has_color and label else f"{label} " if label else "")
            column = width(label) + 1 if label else 0
            self._page = Page(self._put, lambda: window(sys.stdout), column, moves=is_drawable(sys.stdout))
            self._read_before()

    def write(self, text: str, *, is_dim: bool = False) -> None:
        """Add `text`, which may be part of a word."""
        self.begin()
        if not self._page:
            self._put(text)
            return
        if is_dim != self._is_dim:
            self._page.flush()
            self._is_dim = is_dim
        text = printable(text, sys.stdout)
        if self._markdown and not is_dim:
            self._markdown.push(text)
        else:
            self._page.write(text, Style.DIM if is_dim and self._has_color else Style.PLAIN)

    def end(self) -> None:
        """End the line, and any open block."""
        self.begin()
        if self._markdown:
            self._markdown.flush()
        if self._page:
            self._page.flush()
        self._put("\n")

    def break_off(self) -> None:
        """After an error: start the next output on a new line."""
        if self._has_begun and self._is_terminal:
            self.end()

    def _read_before(self) -> None:
        """Parse the earlier text of an answer that is continued: it may have stopped inside a block of code."""
        if not self._reads_markdown or not self._page:
            return
        self._markdown = Markdown(self._page)
        if self._before:
            self._page.mute()
            self._markdown.push(printable(self._before, sys.stdout))
            self._page.unmute()

    def _put(self, text: str) -> None:
        print(text, end="", flush=True)

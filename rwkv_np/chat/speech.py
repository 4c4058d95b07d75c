"""One answer on stdout: who speaks, and the text as it comes.

In a terminal, lines end between words, and what a model writes is text, never a command. In a pipe the
text is written unchanged: its reader has no screen width.
"""

from __future__ import annotations

import sys

from rwkv_np.console import columns, has_color, printable
from rwkv_np.wrapping import Wrapper, width

_DIM, _BOLD_CYAN, _RESET = "\x1b[2m", "\x1b[1;36m", "\x1b[0m"


class Speech:
    """Writes an answer; `name` is shown before its first text, on a terminal only."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_terminal, self._is_bright = sys.stdout.isatty(), has_color(sys.stdout)
        self._wrapper: Wrapper | None = None
        self._is_dim = self._has_begun = False

    def begin(self) -> None:
        """Show the name, unless that was done. (Before that, the progress of reading is drawn on this line.)"""
        if self._has_begun:
            return
        self._has_begun = True
        if self._is_terminal:
            label = f"{printable(self._name, sys.stdout)}:" if self._name else ""
            self._put(f"{_BOLD_CYAN}{label}{_RESET} " if self._is_bright and label else f"{label} " if label else "")
            self._wrapper = Wrapper(lambda: columns(sys.stdout), width(label) + 1 if label else 0)

    def write(self, text: str, *, is_dim: bool = False) -> None:
        """Go on with `text`, which may be a part of a word."""
        self.begin()
        if is_dim != self._is_dim:
            self._flush()
            self._is_dim = is_dim
        self._put_text(self._wrapper.push(printable(text, sys.stdout)) if self._wrapper else text)

    def end(self) -> None:
        """End the line, and what was begun."""
        self.begin()
        self._flush()
        self._put("\n")

    def break_off(self) -> None:
        """After an error: what comes next starts on a new line."""
        if self._has_begun and self._is_terminal:
            self.end()

    def _flush(self) -> None:
        if self._wrapper:
            self._put_text(self._wrapper.flush())

    def _put_text(self, text: str) -> None:
        self._put(f"{_DIM}{text}{_RESET}" if text and self._is_dim and self._is_bright else text)

    def _put(self, text: str) -> None:
        print(text, end="", flush=True)

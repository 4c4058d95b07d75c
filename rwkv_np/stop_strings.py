"""Strings that end a text, searched for in the bytes of tokens as they arrive.

For each token there are two questions: is there a stop string now, and could there be one later?
This module knows only bytes: completion.py ends the text.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable


class StopStrings:
    """Any number of stop strings, none of them empty."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._stops = [string.encode() for string in strings]
        self._longest = max(map(len, self._stops), default=1) - 1  # most bytes of an incomplete stop string

    def __bool__(self) -> bool:
        return bool(self._stops)

    def find(self, data: bytes) -> int:
        """Where the first stop string begins; -1 if there is none."""
        return min((at for stop in self._stops if (at := data.find(stop)) >= 0), default=-1)

    def _begins(self, piece: bytes) -> bool:
        """Whether a longer stop string begins with `piece`. (A set of all prefixes takes 5 GB for 100 kB.)"""
        return any(len(piece) < len(stop) and stop.startswith(piece) for stop in self._stops)

    def n_withheld(self, data: bytes) -> int:
        """How many of the last bytes could be the start of a stop string."""
        lengths = range(min(self._longest, len(data)), 0, -1)
        return next((n for n in lengths if self._begins(data[-n:])), 0)

    def may_begin_in(self, token: bytes) -> bool:
        """Whether the state before this token may have to be restored.

        That is the case if a stop string can begin in it, or if it ends inside a character. The next token may then
        contain the rest of the character and a stop string, and the text before the stop string has to be encoded
        again.
        """
        if not self._stops:
            return False
        return self.find(token) >= 0 or self.n_withheld(token) > 0 or n_unfinished(token) > 0


def n_unfinished(data: bytes) -> int:
    """How many of the last bytes are the start of an incomplete UTF-8 character."""
    return len(data) - codecs.utf_8_decode(data, "replace", False)[1]

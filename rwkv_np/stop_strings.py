"""Strings that end a text, searched in the bytes of tokens as they come.

Two questions are asked of each token: is there a stop string now, and could there be one later?
This module knows only bytes: completion.py ends the text.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable


class StopStrings:
    """Any number of them, none of them empty."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._stops = [string.encode() for string in strings]
        self._longest = max(map(len, self._stops), default=1) - 1  # bytes that have begun one and not ended it

    def __bool__(self) -> bool:
        return bool(self._stops)

    def find(self, data: bytes) -> int:
        """Where the first stop string begins; -1 if there is none."""
        return min((at for stop in self._stops if (at := data.find(stop)) >= 0), default=-1)

    def _begins(self, piece: bytes) -> bool:
        """Whether a stop string begins with it and is longer. (A set of all beginnings takes 5 GB for 100 kB.)"""
        return any(len(piece) < len(stop) and stop.startswith(piece) for stop in self._stops)

    def n_withheld(self, data: bytes) -> int:
        """How many of the last bytes could be the beginning of a stop string."""
        lengths = range(min(self._longest, len(data)), 0, -1)
        return next((n for n in lengths if self._begins(data[-n:])), 0)

    def may_begin_in(self, token: bytes) -> bool:
        """Whether a text may have to go back to before this token.

        That is so where a stop string begins in it, and where it ends inside a character: the
        next token may bring the rest of the character and a stop string, and the text between
        the two has to be encoded again.
        """
        if not self._stops:
            return False
        return self.find(token) >= 0 or self.n_withheld(token) > 0 or n_unfinished(token) > 0


def n_unfinished(data: bytes) -> int:
    """How many of the last bytes are the beginning of a character in UTF-8 that is not complete."""
    return len(data) - codecs.utf_8_decode(data, "replace", False)[1]

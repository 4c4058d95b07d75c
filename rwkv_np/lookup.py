"""Prompt lookup: guess the next tokens from the last place where the same tokens stood.

An answer often repeats its prompt or itself: a file that is edited, a document that is summed up, names, code. So what
followed the last few tokens at an earlier place is a good guess, and costs no model. A guess may be wrong: it is only
read along, and generation.py keeps what the sampler chooses anyway.

This module knows token ids only, and neither models nor the price of a guess (drafts.py).
"""

from __future__ import annotations

from collections.abc import Iterable

SHORTEST = 3  # tokens that must be the same; after two, one guess in ten was right
# Of the latest places, the one with the longest match is taken. With 8 places and 16 tokens, an edited file came 12 %
# slower: its lines resemble each other, and the right one is told apart only by the name of its function.
CANDIDATES = LONGEST = 32
# Tokens that are searched: a place costs 200 bytes. Half of them are dropped when there are twice as many.
REMEMBERED = 2**15


class Lookup:
    """The tokens of a text so far."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._last: dict[tuple[int, ...], int] = {}  # the end of the last place of each three tokens
        self._before: list[int] = []  # for each end: the end of the place before it with the same three tokens, or 0
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """The text continues with these tokens."""
        for token in [*tokens][-REMEMBERED:]:
            self.add(token)

    def add(self, token: int) -> None:
        """The text continues with this token."""
        tokens = self._tokens
        tokens.append(token)
        end = len(tokens)
        key = (*tokens[-SHORTEST:],)
        self._before.append(self._last.get(key, 0))
        self._last[key] = end
        if end == 2 * REMEMBERED:
            self.__init__(tokens[REMEMBERED:])  # type: ignore[misc]

    def prepare(self) -> None:
        """Nothing takes long here."""

    def guess(self, n: int) -> list[int]:
        """The n tokens after the best earlier place, or none. After the end of the text, it repeats."""
        tokens, end = self._tokens, len(self._tokens)
        place = self._best_place()
        if not place:
            return []
        found = tokens[place : place + n]
        while len(found) < n:  # the place overlaps the end: what stands between both repeats
            found.append(found[len(found) - (end - place)])
        return found

    def _best_place(self) -> int:
        """The end of the earlier place with the longest match, the latest of these; 0 if there is none."""
        if len(self._tokens) <= SHORTEST:
            return 0
        best, longest, place = 0, SHORTEST - 1, self._before[-1]
        for _ in range(CANDIDATES):
            if not place or longest >= LONGEST:
                break
            # One comparison of lists, since most places are no better.
            if place > longest and self._tokens[place - longest - 1 : place] == self._tokens[-longest - 1 :]:
                best, longest = place, self._match(place, longest + 1)
            place = self._before[place - 1]
        return best

    def _match(self, place: int, n: int) -> int:
        """How many tokens before `place` are those at the end of the text, at most LONGEST; n of them are known."""
        tokens, end = self._tokens, len(self._tokens)
        while n < LONGEST and n < place and tokens[place - 1 - n] == tokens[end - 1 - n]:
            n += 1
        return n

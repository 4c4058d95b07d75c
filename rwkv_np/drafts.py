"""How many tokens to guess, so that guessing pays and never costs much.

A pass over a few tokens takes little longer than over one, since both read every weight. How much longer depends on
the model and the machine, so it is measured. Guesses are bought on credit: a right one earns a token, a pass costs what
it takes longer than a plain one, and each plain token earns a small allowance. Without credit nothing is guessed. So a
text that does not repeat loses at most that allowance, and one that begins to repeat is noticed soon.

The guesses change no token of the text: they may depend on the clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

# Guesses of a pass: with the token itself 4 or 8, which the kernels process together. 3 and 5 cost more than 4.
SHORT, LONG = 3, 7
SIZES = (LONG, SHORT, 1)
# Tokens of credit: at the beginning, the most, and for each plain token.
AT_FIRST, MOST, ALLOWANCE = 1.0, 8.0, 0.015
# How much longer a pass with so many guesses takes than one without, until it is measured.
EXPECTED = {1: 0.15, SHORT: 0.25, LONG: 0.45}


class Guesser(Protocol):
    """Guesses how a text continues. It gets all tokens of the text."""

    def extend(self, tokens: Sequence[int]) -> None:
        """The text continues with these tokens."""

    def add(self, token: int) -> None:
        """The text continues with this token."""

    def guess(self, n: int) -> list[int]:
        """At most n tokens that may come next."""


class Drafts:
    """Decides what is guessed in each pass of one text.

    guessers  asked in turn, until one has a guess
    n_passes  passes of the model after the prompt, with guesses or without
    """

    def __init__(self, guessers: Sequence[Guesser]) -> None:
        self._guessers = guessers
        self._size, self._credit = SHORT, AT_FIRST
        self._seconds: dict[int, float] = {}  # of a pass, by its number of guesses; smoothed
        self._n, self._n_sharing = 0, 1  # the guesses of the last pass, and the texts that it read
        self.n_passes = 0

    def extend(self, tokens: Sequence[int]) -> None:
        """The text continues with these tokens."""
        for guesser in self._guessers:
            guesser.extend(tokens)

    def add(self, token: int) -> None:
        """The text continues with this token."""
        for guesser in self._guessers:
            guesser.add(token)

    def guess(self, most: int, unlikely: Collection[int] = (), n_sharing: int = 1) -> list[int]:
        """The guesses for the next pass, at most `most`; often none.

        unlikely   a guess among these ends the guesses
        n_sharing  how many texts the pass reads: all of them wait for the guesses of one
        """
        self._n_sharing = n_sharing
        if most < 1 or self._credit < n_sharing * self.price(self._size):
            return []
        for guesser in self._guessers:
            if found := guesser.guess(min(self._size, most)):
                n = next((i for i, token in enumerate(found) if token in unlikely), len(found))
                return found[: next((size for size in SIZES if size <= n), 0)]
        return []

    def price(self, n: int) -> float:
        """How much longer a pass with n guesses takes than one without, in tokens."""
        alone, together = self._seconds.get(0), self._seconds.get(n)
        return max(0.0, together / alone - 1) if alone and together else EXPECTED[n]

    def took(self, n: int, seconds: float) -> None:
        """A pass with n guesses took so long."""
        self._n, self.n_passes = n, self.n_passes + 1
        known = self._seconds.get(n, seconds)
        # A slow pass among fast ones is caused by another program: it has a low weight.
        self._seconds[n] = known + (0.5 if seconds < known else 0.1) * (min(seconds, 2 * known) - known)

    def were_right(self, n_right: int) -> None:
        """Of the guesses of the last pass, the first n_right were right."""
        if not self._n:
            self._credit = min(MOST, self._credit + ALLOWANCE)
            return
        self._credit = min(MOST, self._credit + n_right - self._n_sharing * self.price(self._n))
        self._size = LONG if n_right >= min(SHORT, self._n) else SHORT

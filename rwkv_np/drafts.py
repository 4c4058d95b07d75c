"""How many tokens to guess, so that guessing pays and never costs much.

A pass over a few tokens takes little longer than over one, since both read every weight. How much longer depends on
the model and the machine, so it is measured. Guesses are bought on credit: a right one earns a token, a pass costs what
it takes longer than a plain one, and each plain token earns a small allowance. Without credit nothing is guessed. So a
text that does not repeat loses at most that allowance, and one that begins to repeat is noticed soon. How many tokens
are guessed at once depends on how many of the latest guesses were right.

The guesses change no token of the text: they may depend on the clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

# Guesses of a pass: with the token itself 2, 4 or 8, which the kernels process together. 3 and 5 cost more than 4.
SIZES = (1, 3, 7)
# Tokens of credit: at the beginning, the most, and for each plain token.
AT_FIRST, MOST, ALLOWANCE = 1.0, 8.0, 0.015
# How much longer a pass with so many guesses takes than one without, until it is measured.
EXPECTED = {1: 0.15, 3: 0.25, 7: 0.45}
# The chance that a guess is right if those before it were: at the beginning, its weight of a new guess, and the most.
CHANCE, WEIGHT, SURE = 0.6, 0.1, 0.98
# Passes after which times are measured again: another program may have disturbed them. A pass without guesses is
# measured more often, since all prices depend on it; the first pass is one.
FORGET, PLAIN_EVERY = 512, 128


class Guesser(Protocol):
    """Guesses how a text continues. It gets all tokens of the text."""

    def extend(self, tokens: Sequence[int]) -> None:
        """The text continues with these tokens."""

    def add(self, token: int) -> None:
        """The text continues with this token."""

    def prepare(self) -> None:
        """The prompt ends here: do what takes long now."""

    def guess(self, n: int) -> list[int]:
        """At most n tokens that may come next."""


class Account:
    """What one guesser has earned and cost."""

    def __init__(self, guesser: Guesser) -> None:
        self.guesser = guesser
        self.chance, self.credit = CHANCE, AT_FIRST
        self.seconds: dict[int, float] = {}  # of a pass, by its number of guesses; smoothed
        self.alone: float | None = None  # of a pass without guesses

    def price(self, n: int) -> float:
        """How much longer a pass with n guesses takes than one without, in tokens."""
        together = self.seconds.get(n)
        return max(0.0, together / self.alone - 1) if self.alone and together else EXPECTED[n]

    def size(self) -> int:
        """The number of guesses with the most tokens for the time of a pass."""
        p = min(self.chance, SURE)
        return max(SIZES, key=lambda n: (1 - p ** (n + 1)) / (1 - p) / (1 + self.price(n)))

    def settle(self, n: int, n_right: int, n_sharing: int) -> None:
        """Of n guesses the first n_right were right, and n_sharing texts waited for them."""
        self.credit = min(MOST, self.credit + n_right - n_sharing * self.price(n))
        for is_right in [True] * n_right + [False] * (n_right < n):
            self.chance += WEIGHT * (is_right - self.chance)


def _smoothed(known: float | None, seconds: float) -> float:
    """A slow pass among fast ones is caused by another program: it has a low weight."""
    if known is None:
        return seconds
    return known + (0.5 if seconds < known else 0.1) * (min(seconds, 2 * known) - known)


class Drafts:
    """Decides what is guessed in each pass of one text.

    guessers  asked in turn, until one has a guess
    n_passes  passes of the model after the prompt, with guesses or without
    """

    def __init__(self, guessers: Sequence[Guesser]) -> None:
        self._accounts = [Account(guesser) for guesser in guessers]
        # The last pass: who guessed, how many tokens, and the texts that it read.
        self._last, self._n, self._n_sharing = None if not guessers else self._accounts[0], 0, 1
        self.n_passes = 0

    def extend(self, tokens: Sequence[int]) -> None:
        """The text continues with these tokens."""
        for account in self._accounts:
            account.guesser.extend(tokens)

    def add(self, token: int) -> None:
        """The text continues with this token."""
        for account in self._accounts:
            account.guesser.add(token)

    def prepare(self) -> None:
        """The prompt ends here."""
        for account in self._accounts:
            account.guesser.prepare()

    def guess(self, most: int, unlikely: Collection[int] = (), n_sharing: int = 1) -> list[int]:
        """The guesses for the next pass, at most `most`; often none.

        unlikely   a guess among these ends the guesses
        n_sharing  how many texts the pass reads: all of them wait for the guesses of one
        """
        self._n_sharing = n_sharing
        if most < 1 or self.n_passes % PLAIN_EVERY == 0:
            return []
        for account in self._accounts:
            size = account.size()
            if account.credit < n_sharing * account.price(size):
                continue
            if found := account.guesser.guess(min(size, most)):
                self._last = account
                n = next((i for i, token in enumerate(found) if token in unlikely), len(found))
                return found[: max((size for size in SIZES if size <= n), default=0)]
        return []

    def took(self, n: int, seconds: float) -> None:
        """A pass with n guesses took so long, the guessing included."""
        self._n, self.n_passes = n, self.n_passes + 1
        for account in self._accounts:
            if self.n_passes % FORGET == 0:
                account.seconds.clear()
            if not n:
                account.alone = _smoothed(account.alone, seconds)
            elif account is self._last:
                account.seconds[n] = _smoothed(account.seconds.get(n), seconds)

    def were_right(self, n_right: int) -> None:
        """Of the guesses of the last pass, the first n_right were right."""
        if self._n and self._last:
            self._last.settle(self._n, n_right, self._n_sharing)
            return
        for account in self._accounts:
            account.credit = min(MOST, account.credit + ALLOWANCE / len(self._accounts))

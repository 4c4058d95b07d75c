"""A small model guesses what a large one will say next.

Both have the same vocabulary. The small model continues the text greedily; the large one reads the guesses in one pass,
and what its sampler chooses is kept, as with any guess (generation.py). So the small model changes the speed only.

It keeps its state after each guess: if the text continues with some of them, it goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rwkv_np import arguments
from rwkv_np.drafts import SIZES
from rwkv_np.errors import InputError
from rwkv_np.models.base import Model, Run

# Tokens of a text that the small model reads: it needs less to guess the next few, and a long text takes time.
MOST_READ = 1024


class DraftModel:
    """A `drafts.Guesser` that asks a model. It may be used for one text after another, but not for two at once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pool = model.new_pool(max(SIZES))
        self._slots = [self._pool.take() for _ in range(max(SIZES))]  # [i]: the state after i guesses
        self._tokens: list[int] = []
        self._n_read = 0  # tokens of the text that the first state has read
        self._guesses: list[int] = []  # those that further states have read

    def begin(self, tokens: Sequence[int]) -> None:
        """Begin with this text. If it continues what was read, that is not read again."""
        if list(tokens[: self._n_read]) != self._tokens[: self._n_read]:
            self._pool.put(self._slots[0], None)
            self._n_read = 0
        self._tokens, self._guesses = list(tokens), []

    def extend(self, tokens: Sequence[int]) -> None:
        """The text continues with these tokens."""
        self._tokens += tokens

    def add(self, token: int) -> None:
        """The text continues with this token."""
        self._tokens.append(token)

    def prepare(self) -> None:
        """Read all of the text except its last token: of a prompt, that takes a while."""
        if coming := self._tokens[self._n_read : -1]:
            self._read(coming)

    def guess(self, n: int) -> list[int]:
        """The n tokens, at most seven, that the small model finds most likely."""
        self._go_on()
        if self._n_read == len(self._tokens):
            return []
        found = [self._most_likely(self._read(self._tokens[self._n_read :]), 0)]
        for i in range(min(n, len(self._slots)) - 1):
            run = Run(found[-1], self._slots[i], "last", self._slots[i + 1])
            self._guesses.append(found[-1])
            found.append(self._most_likely(self._model.read([run], self._pool)[0], i + 1))
        return found

    def _most_likely(self, logits: np.ndarray, i: int) -> int:
        """The guess i, from its logits (V,)."""
        return int(logits.argmax())

    def _go_on(self) -> None:
        """Let the first state be the one after the guesses with which the text continued."""
        n, coming = 0, self._tokens[self._n_read :]
        while n < min(len(self._guesses), len(coming) - 1) and self._guesses[n] == coming[n]:
            n += 1
        self._slots = self._slots[n:] + self._slots[:n]
        self._n_read, self._guesses = self._n_read + n, []

    def _read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read the next tokens of the text; returns the logits (V,) after them."""
        self._n_read += len(tokens)
        return self._model.read([Run(tokens[-MOST_READ:], self._slots[0])], self._pool)[0]


def check_draft(small: Model, large: Model, name: str = "the draft model") -> Model:
    """The small model. Raises InputError: its vocabulary is not that of the large one."""
    arguments.one_of("draft", small, Model, "a model from rwkv_np.load")
    found, expected = small.config.vocab_size, large.config.vocab_size
    if found != expected:
        raise InputError(
            f"{name} has a vocabulary of {found} tokens, and the model has {expected}: choose a small model "
            "of the same family, such as RWKV-7 0.1B for RWKV-7 2.9B"
        )
    return small

"""A model's place in a text that is being generated, with tokens read ahead that may turn out wrong.

One state is changed in place. A state can have 13 to 66 MB (v7), and a copy for each token would then take longer than
the token itself. Guesses are read from one state into another, and if some were wrong, the model cuts the run
(`Model.cut`). The second state is made when the first guesses are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rwkv_np.models.base import Model, Run
from rwkv_np.models.pool import StatePool
from rwkv_np.models.state import State
from rwkv_np.position import Position


class _Slots(NamedTuple):
    """Two states: the current one, and the one that the next run with guesses goes to."""

    pool: StatePool
    current: int
    spare: int


class Ahead:
    """A place in a text, and the logits for the next token.

    logits  (V,)
    """

    def __init__(self, model: Model, first: Position) -> None:
        assert first.logits is not None
        self._model = model
        self._state: State | None = first.state  # None once there are slots
        self._at: Position | None = first  # the position here, once it was asked for; it may share the state
        self._slots: _Slots | None = None
        self._third: int | None = None  # a slot for a state in the middle of a run, once there was one
        self._tokens: Sequence[int] = (-1,)  # those of the last pass, of which [0] .. [self._i] are in the text
        self._rows, self._i = first.logits[None], 0

    @property
    def logits(self) -> np.ndarray:
        return self._rows[self._i]

    @property
    def n_right(self) -> int:
        """How many guesses of the last pass are in the text."""
        return self._i

    def has_read(self, token: int) -> bool:
        """Go on to the next token, if it was guessed; otherwise nothing changes."""
        if self._i + 1 == len(self._tokens) or self._tokens[self._i + 1] != token:
            return False
        self._i, self._at = self._i + 1, None
        return True

    def read(self, token: int, guesses: Sequence[int] = ()) -> None:
        """Go on with `token`, and read guesses along with it."""
        if guesses or self._slots:
            self._read_in_slots([token, *guesses])
        else:
            assert self._state is not None
            if self._at is not None:  # the position shares the state: continue with a copy
                self._state = self._state.copy()
            self._rows = self._model.advance(token, self._state)[None]
        self._tokens, self._i, self._at = (token, *guesses), 0, None

    def _read_in_slots(self, tokens: Sequence[int]) -> None:
        pool, current, spare = self._slots = self._settled()
        if len(tokens) == 1:
            self._rows = self._model.read([Run(tokens, current)], pool)
        else:
            self._rows = self._model.read([Run(tokens, current, "all", spare)], pool)

    def _settled(self) -> _Slots:
        """The slots, the current one with the state here: wrong guesses of the last pass are cut off."""
        if self._slots is None:
            pool, state, self._state = self._model.new_pool(3), self._state, None
            return _Slots(pool, pool.take(state), pool.take())
        pool, current, spare = self._slots
        if len(self._tokens) == 1:
            return self._slots
        if self._i + 1 < len(self._tokens):
            self._model.cut([self._run(spare)], [self._i + 1], pool)
        return _Slots(pool, spare, current)

    def _run(self, after: int) -> Run:
        assert self._slots is not None
        return Run(self._tokens, self._slots.current, "all", after)

    def position(self) -> Position:
        """The position here. It is not changed when more is read."""
        if self._at is None:
            self._at = Position(self.logits.copy() if len(self._rows) > 1 else self.logits, self._state_here())
        return self._at

    def _state_here(self) -> State:
        if self._slots is None:
            assert self._state is not None
            return self._state
        pool, current, spare = self._slots
        if len(self._tokens) == 1:
            return pool.state(current)
        if self._i + 1 == len(self._tokens):
            return pool.state(spare)
        # The run's own end stays where it is: more of its guesses may be right.
        if self._third is None:
            self._third = pool.take()
        self._model.cut([self._run(self._third)], [self._i + 1], pool)
        return pool.state(self._third)

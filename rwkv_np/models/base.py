"""What every architecture offers: `forward` from token ids to logits, and a state.

Arguments are checked here, once; an architecture sees valid ids and a state of its own to
change. Text, sampling and files are the business of others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Union

import numpy as np

from rwkv_np.errors import InputError
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.state import State, initial_state

Progress = Callable[[str, int, int], None]
"""Called with what is being done (compiling, loading), how much of it is done, and how much there is."""

Tokens = Union[int, Sequence[int], np.ndarray]


class Model:
    """A model that can read tokens; `config` tells its sizes and types."""

    config: ModelConfig

    def __init__(self, config: ModelConfig, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; expected at least 1")
        self.config = config

    def initial_state(self) -> State:
        """The state of this model before it has read anything."""
        return initial_state(self.config)

    def forward(
        self, tokens: Tokens, state: State | None = None, full_output: bool = False
    ) -> tuple[np.ndarray, State]:
        """Read one token id or a sequence of them, after whatever `state` has read.

        Returns  logits for what follows the last token, (V,) float32, or with `full_output`
                 for what follows each token, (T, V); and the state after the last token.
                 The state given is not changed.
        Raises   InputError: no tokens, an id out of range, a state of another model
        """
        ids = self._check_tokens(tokens)
        if state is not None:
            state.check(self.config)
        after = self.initial_state() if state is None else state.copy()
        return self._read(ids, after, full_output), after

    def _read(self, tokens: np.ndarray, state: State, full_output: bool) -> np.ndarray:
        """The architecture's own part: tokens (T,), `state` changed in place."""
        raise NotImplementedError(f"{type(self).__name__} cannot read tokens")

    def _check_tokens(self, tokens: Tokens) -> np.ndarray:
        ids = np.atleast_1d(np.asarray(tokens))
        if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
            raise InputError(
                f"tokens have the shape {ids.shape} and the type {ids.dtype}; "
                "expected one id or a sequence of at least one, as integers"
            )
        outside = np.flatnonzero((ids < 0) | (ids >= self.config.vocab_size))
        if outside.size:
            raise InputError(
                f"token id {ids[outside[0]]} at position {outside[0]}; this model's ids are 0 to "
                f"{self.config.vocab_size - 1}: the tokenizer may be one of another model"
            )
        return ids

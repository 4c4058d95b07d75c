"""A position in a text: what a model knows there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwkv_np.models.state import State


@dataclass(frozen=True)
class Position:
    """A position in a text: the state after all tokens read so far, and the logits for the next token.

    The state of a position is never changed: copy it to continue from it.

    logits  (V,); None before anything has been read
    """

    logits: np.ndarray | None
    state: State

    @property
    def n_bytes(self) -> int:
        """Its size in memory, in bytes."""
        return self.state.n_bytes + (0 if self.logits is None else self.logits.nbytes)

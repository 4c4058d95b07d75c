"""Run all models through one text in step: each reads one chunk of tokens, then the next, so no logits are stored.

RWKV does not need a text to be cut into windows: it is read as one stream, each token is predicted from
all before it, and the state is carried from chunk to chunk. `skip` leaves the first positions, where
little has been read yet, out of the results; `window` resets the state after that many tokens, for a
text far longer than those in training. (llama.cpp uses windows of 512 and counts the second half of
each; rwkv.cpp reads one stream and skips the first 1024 tokens.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rwkv_np.errors import InputError
from rwkv_np.evaluation.divergence import score
from rwkv_np.evaluation.record import Record
from rwkv_np.generation import CHUNK
from rwkv_np.models.base import Model


class Reader(Protocol):
    """A source of predictions: a model, or a file of saved predictions."""

    name: str

    def restart(self) -> None:
        """Reset the state."""

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Read the next tokens (n,); returns logits (n, V) for what follows each of them."""


class ModelReader:
    """A model and its state."""

    def __init__(self, name: str, model: Model) -> None:
        self.name, self._model = name, model
        self._state = model.initial_state()

    def restart(self) -> None:
        self._state = self._model.initial_state()

    def read(self, ids: np.ndarray) -> np.ndarray:
        return self._model.advance(ids, self._state, full_output=True)


@dataclass(frozen=True)
class Passage:
    """Token ids (N,), each predicted except the first, and how they are read."""

    tokens: np.ndarray
    skip: int = 0
    window: int | None = None

    @property
    def n_positions(self) -> int:
        """How many predictions count."""
        return len(self.tokens) - 1 - self.skip

    def chunks(self) -> Iterator[slice]:
        """The tokens to read, cut where a window ends, where counting begins, and otherwise every CHUNK tokens."""
        last = len(self.tokens) - 1
        cuts = {*range(0, last, self.window or last), self.skip, last}
        for start, end in zip(sorted(cuts)[:-1], sorted(cuts)[1:]):
            yield from (slice(at, min(at + CHUNK, end)) for at in range(start, end, CHUNK))


def walk(
    readers: Sequence[Reader], passage: Passage, record: Record, progress: Callable[[int], None] | None = None
) -> None:
    """Fill `record` with the scores of all readers, the base first; `progress` is called with the tokens read.

    Raises InputError: a model gives logits that are not finite.
    """
    for part in passage.chunks():
        if part.start % (passage.window or len(passage.tokens)) == 0:
            for reader in readers:
                reader.restart()
        rows = [reader.read(passage.tokens[part]) for reader in readers]
        if part.start >= passage.skip:
            _check(readers, rows, part)
            record.append(score(rows, passage.tokens[part.start + 1 : part.stop + 1]))
        if progress:
            progress(part.stop)


def _check(readers: Sequence[Reader], rows: Sequence[np.ndarray], part: slice) -> None:
    for reader, logits in zip(readers, rows):
        # The sum of a row is not finite if one of its numbers is not; this needs no large array of booleans.
        bad = np.flatnonzero(~np.isfinite(logits.sum(axis=1, dtype=np.float64)))
        if bad.size:
            raise InputError(
                f"{reader.name} gives logits that are not finite after token {part.start + bad[0]} of "
                "the text: the model is damaged, or its values are too large for its type"
            )

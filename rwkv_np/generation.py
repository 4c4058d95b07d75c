"""From token ids to token ids: read the prompt, then choose and read one token at a time.

This module knows token ids only, not text. A prompt is read in chunks, so that progress can be shown and reading can be
interrupted; the chunk size does not change the result.

One state is changed in place. A state can have 13 to 66 MB (v7), and a copy for each token would then take longer than
the token itself. The caller says, by token id, where a copy is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rwkv_np.errors import InputError
from rwkv_np.models.base import Model
from rwkv_np.models.state import State
from rwkv_np.sampler import Sampler
from rwkv_np.sampling import SamplingParams

CHUNK = 128  # tokens of a prompt read at once: seconds for a large model, so Ctrl-C takes effect soon

Progress = Callable[[int, int], None]
"""Called with the number of prompt tokens read so far, and the total."""


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


class Step(NamedTuple):
    """A token that was chosen.

    at  the position when it was chosen; None if there is no need to go back to it
    """

    token: int
    at: Position | None


@dataclass(frozen=True)
class End:
    """Why generation ended ("stop_id", "length", "interrupted"), and the final position."""

    reason: str
    at: Position


class Interrupted(Exception):
    """Reading the prompt was interrupted."""


def prefill(
    model: Model,
    tokens: Sequence[int],
    state: State | None = None,
    *,
    is_interrupted: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> tuple[np.ndarray, State]:
    """Read `tokens` after `state`, which is not changed. Returns (logits for the next token, a new state).

    Raises Interrupted, InputError
    """
    if len(tokens) == 0:
        raise InputError("the prompt is empty; expected at least one token")
    after = model.initial_state() if state is None else state.copy()
    for start in range(0, len(tokens), CHUNK):
        if is_interrupted():
            raise Interrupted
        logits = model.advance(tokens[start : start + CHUNK], after)
        if progress:
            progress(min(start + CHUNK, len(tokens)), len(tokens))
    return logits, after


def generate_tokens(
    model: Model,
    prompt: Sequence[int],
    params: SamplingParams,
    start: Position,
    *,
    said: Sequence[int] = (),
    needs_position: Callable[[int], bool] = lambda token: False,
    is_interrupted: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Generator[Step, None, End]:
    """Yield a Step for each token chosen after `prompt`; the generator's value is the End.

    A stop id is neither yielded nor read. `is_interrupted` is called before each token. The prompt may be empty if
    `start` has logits; `said` is then the text being continued, for the penalties. The first step has its position, and
    so has each token for which `needs_position` is true.
    """
    at = start
    if len(prompt) or at.logits is None:
        try:
            at = Position(*prefill(model, prompt, at.state, is_interrupted=is_interrupted, progress=progress))
        except Interrupted:
            return End("interrupted", start)
    return (yield from _choose(model, params, Sampler(params, said), at, needs_position, is_interrupted))


def _choose(
    model: Model,
    params: SamplingParams,
    sampler: Sampler,
    first: Position,
    needs_position: Callable[[int], bool],
    is_interrupted: Callable[[], bool],
) -> Generator[Step, None, End]:
    """The part of `generate_tokens` after the prompt."""
    at: Position | None = first
    logits, state = first.logits, first.state
    for _ in range(params.max_tokens):
        if is_interrupted():
            return End("interrupted", at or Position(logits, state))
        assert logits is not None
        token = sampler.choose(logits)
        if token in params.stop_ids:
            return End("stop_id", at or Position(logits, state))
        if at is None and needs_position(token):
            at = Position(logits, state)
        yield Step(token, at)
        if at is not None:  # the position shares its state: continue with a copy
            state, at = state.copy(), None
        logits = model.advance(token, state)
    return End("length", at or Position(logits, state))

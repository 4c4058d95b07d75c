"""From token ids to token ids: read the prompt, then choose and read one token after another.

Text is not known here. A prompt is read in chunks, so that it can be watched and stopped;
how it is cut into chunks does not change what comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from rwkv_np.errors import InputError
from rwkv_np.models.base import Model
from rwkv_np.models.state import State
from rwkv_np.sampling import Sampler, SamplingParams

CHUNK = 128  # tokens of a prompt read at once: seconds for a large model, so Ctrl-C is soon heard

Progress = Callable[[int, int], None]
"""Called with the prompt's tokens read so far and in all."""


@dataclass(frozen=True)
class Position:
    """Where a reader stands: the state after all it has read, and logits for what comes next.

    logits  (V,); None before anything has been read in which they would stand
    """

    logits: np.ndarray | None
    state: State


@dataclass(frozen=True)
class Step:
    """A token that was chosen, and where the model stood when it was."""

    token: int
    at: Position


@dataclass(frozen=True)
class End:
    """Why no more tokens come ("stop_id", "length", "interrupted"), and where the model stands after all."""

    reason: str
    at: Position


class Interrupted(Exception):
    """The prompt was given up half-way."""


def prefill(
    model: Model,
    tokens: Sequence[int],
    state: State | None = None,
    *,
    is_interrupted: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> tuple[np.ndarray, State]:
    """Read `tokens` after `state`: (logits for the next token, state). Raises Interrupted, InputError."""
    if len(tokens) == 0:
        raise InputError("the prompt is empty; expected at least one token")
    for start in range(0, len(tokens), CHUNK):
        if is_interrupted():
            raise Interrupted
        logits, state = model.forward(tokens[start : start + CHUNK], state)
        if progress:
            progress(min(start + CHUNK, len(tokens)), len(tokens))
    assert state is not None
    return logits, state


def generate_tokens(
    model: Model,
    prompt: Sequence[int],
    params: SamplingParams,
    start: Position,
    *,
    said: Sequence[int] = (),
    is_interrupted: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Generator[Step, None, End]:
    """Yield a Step for each token chosen after `prompt`; the generator's value is the End.

    A stop id is neither yielded nor read. `is_interrupted` is asked before each token. The prompt
    may be empty where `start` has logits; `said` is then the text that goes on, for the penalties.
    """
    at = start
    if len(prompt) or at.logits is None:
        try:
            at = Position(*prefill(model, prompt, at.state, is_interrupted=is_interrupted, progress=progress))
        except Interrupted:
            return End("interrupted", start)
    sampler = Sampler(params, said)
    for _ in range(params.max_tokens):
        if is_interrupted():
            return End("interrupted", at)
        assert at.logits is not None
        token = sampler.choose(at.logits)
        if token in params.stop_ids:
            return End("stop_id", at)
        yield Step(token, at)
        at = Position(*model.forward(token, at.state))
    return End("length", at)

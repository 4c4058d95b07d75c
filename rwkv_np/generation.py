"""From token ids to token ids: read the prompt, then choose and read one token at a time.

This module knows token ids only, not text. A prompt is read in chunks, so that progress can be shown and reading can be
interrupted; the chunk size does not change the result.

The caller says, by token id, where a copy of the state is needed. Of tokens that are guessed (drafts.py), those are
kept that the sampler chooses: for each token of the text it gets the same logits and the same random number as without,
so the text is the same to the last byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rwkv_np.ahead import Ahead
from rwkv_np.drafts import Drafts
from rwkv_np.errors import InputError
from rwkv_np.models.base import Model
from rwkv_np.models.state import State
from rwkv_np.position import Position
from rwkv_np.sampler import Sampler
from rwkv_np.sampling import SamplingParams

CHUNK = 128  # tokens of a prompt read at once: seconds for a large model, so Ctrl-C takes effect soon

Progress = Callable[[int, int], None]
"""Called with the number of prompt tokens read so far, and the total."""


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
    drafts: Drafts | None = None,
) -> Generator[Step, None, End]:
    """Yield a Step for each token chosen after `prompt`; the generator's value is the End.

    A stop id is neither yielded nor read. `is_interrupted` is called before each token. The prompt may be empty if
    `start` has logits; `said` is then the text being continued, for the penalties. The first step has its position, and
    so has each token for which `needs_position` is true. `drafts` knows what stands before `prompt`; None: no guesses.
    """
    drafts = Drafts(()) if drafts is None else drafts
    at = start
    if len(prompt) or at.logits is None:
        try:
            at = Position(*prefill(model, prompt, at.state, is_interrupted=is_interrupted, progress=progress))
        except Interrupted:
            return End("interrupted", start)
    drafts.extend(prompt)
    drafts.prepare()
    sampler, ahead = Sampler(params, said), Ahead(model, at)
    return (yield from _choose(params, sampler, ahead, drafts, needs_position, is_interrupted))


def _choose(
    params: SamplingParams,
    sampler: Sampler,
    ahead: Ahead,
    drafts: Drafts,
    needs_position: Callable[[int], bool],
    is_interrupted: Callable[[], bool],
) -> Generator[Step, None, End]:
    """The part of `generate_tokens` after the prompt."""
    for n_done in range(params.max_tokens):
        if is_interrupted():
            return End("interrupted", ahead.position())
        token = sampler.choose(ahead.logits)
        if token in params.stop_ids:
            return End("stop_id", ahead.position())
        yield Step(token, ahead.position() if not n_done or needs_position(token) else None)
        drafts.add(token)
        if not ahead.has_read(token):
            drafts.were_right(ahead.n_right)
            begin = time.perf_counter()
            guesses = drafts.guess(params.max_tokens - n_done - 1, params.stop_ids)
            ahead.read(token, guesses)
            drafts.took(len(guesses), time.perf_counter() - begin)
    return End("length", ahead.position())

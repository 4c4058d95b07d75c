"""The input of one pass, as a table of int64: the tokens of several sequences, and which need logits.

Every op of a pass gets this table (program.py). The tokens of one sequence are adjacent. A prompt
is cut into passes of at most MOST tokens, since the activations of more would not fit in the
caches. Sections are at fixed positions, so an op finds its numbers without a lookup.

    0, 1, 2   number of tokens, of sequences, and of rows of logits
    MODE      PLAIN; KEPT, if the pass may be cut; or REPLAY, to cut it
    SEQUENCE  the sequence of each token
    FIRST     the first token of each sequence, then the total number of tokens
    STATE     where the state of each sequence begins, in bytes
    AFTER     where its state after its tokens goes, in bytes: the same place, unless the pass may be cut
    WANTED    the token of each row of logits
    LENGTH    REPLAY only: how many tokens of each sequence count; 0: leave this sequence as it is

Tokens that were only guessed are read in a KEPT pass. The old states stay, and the ops leave what their recurrences
got, and every normed vector, in places that the next such pass overwrites. If some guesses turn out wrong, REPLAY runs
the recurrences again over the tokens that count: the same instructions as in the pass, so the same bits, without the
matrices. A copy of a state for each token would take longer than the token: a state can have 66 MB.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.pointers import beyond, copy_bytes, number

MOST = 128
MOST_KEPT = 16  # tokens of a pass that may be cut

N_TOKENS, N_SEQUENCES, N_WANTED, MODE = range(4)
PLAIN, KEPT, REPLAY = range(3)  # what MODE can be
SEQUENCE = 8
FIRST = SEQUENCE + MOST
STATE = FIRST + MOST + 8
AFTER = STATE + MOST
WANTED = AFTER + MOST
LENGTH = WANTED + MOST
SIZE = LENGTH + MOST


class WorkAreas(NamedTuple):
    """Work areas in the scratch of the engine: start and stride in bytes of the threads', and of the items'."""

    start: int
    stride: int
    kept_start: int
    kept_stride: int


def new_batch() -> np.ndarray:
    """A table for a pass over no tokens."""
    return np.zeros(SIZE, np.int64)


@jit(error_model="numpy")
def fill(batch, runs):
    """Describe a plain pass in `batch`; returns the number of tokens, which must not exceed MOST.

    runs  (n, 4) int64: for each sequence the number of its tokens, where its state begins in bytes,
          for how many of its last tokens logits are computed, and where its state goes in bytes
    """
    token = row = 0
    for i in range(len(runs)):
        n_tokens, state, n_wanted, after = runs[i]
        batch[FIRST + i], batch[STATE + i], batch[AFTER + i] = token, state, after
        batch[SEQUENCE + token : SEQUENCE + token + n_tokens] = i
        token += n_tokens
        for wanted in range(token - n_wanted, token):
            batch[WANTED + row] = wanted
            row += 1
    batch[FIRST + len(runs)] = token
    batch[N_TOKENS], batch[N_SEQUENCES], batch[N_WANTED], batch[MODE] = token, len(runs), row, PLAIN
    return token


@jit(error_model="numpy")
def n_counting(batch, sequence):
    """How many tokens of a sequence the recurrences run through: all, or in a REPLAY those that count."""
    if number(batch, MODE) == REPLAY:
        return number(batch, LENGTH + sequence)
    return number(batch, FIRST + sequence + 1) - number(batch, FIRST + sequence)


@jit(error_model="numpy")
def memory_after(batch, states, sequence, offset, n_bytes):
    """Where n_bytes of a sequence's state, `offset` bytes from its start, are changed; they begin as they were."""
    before = beyond(states, number(batch, STATE + sequence) + offset)
    after = beyond(states, number(batch, AFTER + sequence) + offset)
    if number(batch, STATE + sequence) != number(batch, AFTER + sequence):
        copy_bytes(before, n_bytes, after)
    return after


@jit(error_model="numpy")
def work_area(args, at, batch, scratch, item, rank):
    """An item's work area: the thread's own, or in a pass that may be cut the item's own.

    args[at]  start and stride of the areas of the threads, then of those of the items (`WorkAreas`)
    """
    if number(batch, MODE) == PLAIN:
        return beyond(scratch, number(args, at) + rank * number(args, at + 1))
    return beyond(scratch, number(args, at + 2) + item * number(args, at + 3))

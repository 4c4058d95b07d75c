"""The input of one pass, as a table of int64: the tokens of several sequences, and which need logits.

Every op of a pass gets this table (program.py). The tokens of one sequence are adjacent. A prompt
is cut into passes of at most MOST tokens, since the activations of more would not fit in the
caches. Sections are at fixed positions, so an op finds its numbers without a lookup.

    0, 1, 2   number of tokens, of sequences, and of rows of logits
    SEQUENCE  the sequence of each token
    FIRST     the first token of each sequence, then the total number of tokens
    STATE     where the state of each sequence begins, in bytes
    WANTED    the token of each row of logits
"""

from __future__ import annotations

import numpy as np
from rwkv_np.kernels.cache import jit

MOST = 128

N_TOKENS, N_SEQUENCES, N_WANTED = range(3)
SEQUENCE = 8
FIRST = SEQUENCE + MOST
STATE = FIRST + MOST + 8
WANTED = STATE + MOST
SIZE = WANTED + MOST


def new_batch() -> np.ndarray:
    """A table for a pass over no tokens."""
    return np.zeros(SIZE, np.int64)


@jit(error_model="numpy")
def fill(batch, runs):
    """Describe a pass in `batch`; returns the number of tokens, which must not exceed MOST.

    runs  (n, 3) int64: for each sequence the number of its tokens, where its state begins in bytes,
          and for how many of its last tokens logits are computed
    """
    token = row = 0
    for i in range(len(runs)):
        n_tokens, state, n_wanted = runs[i]
        batch[FIRST + i], batch[STATE + i] = token, state
        batch[SEQUENCE + token : SEQUENCE + token + n_tokens] = i
        token += n_tokens
        for wanted in range(token - n_wanted, token):
            batch[WANTED + row] = wanted
            row += 1
    batch[FIRST + len(runs)] = token
    batch[N_TOKENS], batch[N_SEQUENCES], batch[N_WANTED] = token, len(runs), row
    return token

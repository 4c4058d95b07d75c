"""What one pass reads, as a table of int64: the tokens of several sequences, and who wants logits.

Every op of a pass gets it (program.py). The tokens of a sequence stand beside each other; a
prompt is cut into passes of at most MOST tokens, since the activations of more would not stay
in the caches. Sections have fixed places, so that an op finds its numbers without looking up.

    0, 1, 2   how many tokens, sequences, and rows of logits
    SEQUENCE  the sequence of each token
    FIRST     the first token of each sequence, and the number of tokens behind the last
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
    """A table that reads nothing."""
    return np.zeros(SIZE, np.int64)


@jit(error_model="numpy")
def fill(batch, runs):
    """Describe a pass in `batch`; returns the number of tokens, which must not exceed MOST.

    runs  (n, 3) int64: of each sequence how many tokens it has, where its state begins in bytes, and
          for how many of its last tokens logits are computed
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

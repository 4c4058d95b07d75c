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

from collections.abc import Sequence

import numpy as np

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


def fill(batch: np.ndarray, n_tokens: Sequence[int], states: Sequence[int], n_wanted: Sequence[int]) -> None:
    """Describe a pass.

    n_tokens  of each sequence, together at most MOST
    states    where the state of each begins, in bytes
    n_wanted  for how many of the last tokens of each logits are computed
    """
    ends = np.cumsum(n_tokens)
    total, n_sequences = int(ends[-1]), len(n_tokens)
    if total > MOST:
        raise ValueError(f"{total} tokens in a pass; there is room for {MOST}")
    wanted = [np.arange(end - n, end) for end, n in zip(ends, n_wanted)]
    batch[:3] = total, n_sequences, sum(n_wanted)
    batch[SEQUENCE : SEQUENCE + total] = np.repeat(np.arange(n_sequences), n_tokens)
    batch[FIRST] = 0
    batch[FIRST + 1 : FIRST + 1 + n_sequences] = ends
    batch[STATE : STATE + n_sequences] = states
    batch[WANTED : WANTED + sum(n_wanted)] = np.concatenate(wanted)

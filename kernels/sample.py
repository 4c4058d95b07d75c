"""Choose the next token from its logits: of one row, or of many rows in parallel.

`rwkv_np/sampling.py` defines the choice, and gives the same token for the same random number: weights
are whole numbers (weights.py), so the order of addition does not matter. Settings and random numbers
also come from there. choice.py chooses from one row.

One thread works on a row, so a single row starts no parallel region and does not wait for other threads;
several rows are shared out among threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numba
import numpy as np
from numba import prange
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.choice import SETTINGS, Scratch, Sparse, choose_row
from rwkv_np.kernels.edge import BUCKETS
from rwkv_np.kernels.emit import LANES
from rwkv_np.kernels.logits import CHUNK
from rwkv_np.kernels.region import one_at_a_time, region
from rwkv_np.kernels.threads import new_team, next_items
from rwkv_np.kernels.weights import scale_of

# With fewer logits in total, one thread does the work: two would save less than a tenth of a millisecond, and
# if another program uses a core, they would wait ten milliseconds for the thread that lost it.
SMALL = 2**17

Arrays = tuple[np.ndarray, np.ndarray]  # (ids, numbers for these): the fields of a Sparse


@jit(nogil=True, error_model="numpy")
def _choose_one(logits, bias, said, settings, scratch):
    return choose_row(logits, bias, said, settings[0], scratch, np.int64(0))  # as in _choose_rows


@region(error_model="numpy")
def _choose_rows(
    team, n_threads, logits, row_size, n_vocab, bias, bias_ends, said, said_ends, settings, scratch, tokens
):
    for i in prange(n_threads):
        rank = np.int64(i)  # Numba's loop index is unsigned, and everything would be compiled twice
        first, behind = next_items(team, 0, rank, tokens.size)
        while first >= 0:
            for row in range(first, behind):
                b, e = bias_ends[row], bias_ends[row + 1]
                c, f = said_ends[row], said_ends[row + 1]
                tokens[row] = choose_row(
                    logits[row * row_size : row * row_size + n_vocab],
                    Sparse(bias.ids[b:e], bias.values[b:e]), Sparse(said.ids[c:f], said.values[c:f]),
                    settings[row], scratch, rank,
                )  # fmt: skip
            first, behind = next_items(team, 0, rank, tokens.size)


_kept = threading.local()  # each Python thread's scratch


def _scratch(n_threads: int, n_vocab: int) -> Scratch:
    """Buffers for that many rows at once; buffers of earlier calls are reused."""
    n_chunks, found = -(-n_vocab // CHUNK), getattr(_kept, "scratch", None)
    if found is None or len(found.sums) < n_threads or found.sums.shape[1] < n_chunks:
        sizes = (
            (n_chunks * CHUNK, np.float32), (n_chunks * LANES, np.float32), (n_chunks, np.int64),
            (n_chunks * CHUNK, np.int32), (n_chunks * CHUNK, np.float32), (n_chunks * CHUNK, np.float32),
            (n_chunks * CHUNK, np.int64), (BUCKETS, np.int64),
        )  # fmt: skip
        found = _kept.scratch = Scratch(*(np.empty((n_threads, size), kind) for size, kind in sizes))
    return found


def settings_row(
    temperature: float, top_p: float, top_k: int, min_p: float, presence: float, frequency: float
) -> np.ndarray:
    """The settings of a row, (1,) SETTINGS; its `number` is filled in for each token."""
    scale = scale_of(temperature) if temperature else 0.0
    min_log = math.log(min_p) if min_p else -math.inf
    return np.array([(0.0, scale, top_p, min_log, top_k, presence, frequency)], SETTINGS)


def choose(logits: np.ndarray, settings: np.ndarray, bias: Arrays, said: Arrays) -> int:
    """The token chosen from one row.

    logits    (V,)
    settings  (1,) SETTINGS
    bias      (ids, values), (n,) int64 and float32: added to the logits of these ids
    said      (ids, counts), (n,) int64 and float64: how often each id has been chosen
    Returns   a token's id, or choice.NOT_FINITE or OUTSIDE, which are negative
    """
    logits = np.ascontiguousarray(logits, np.float32).view()
    logits.flags.writeable = False  # one type for all inputs: Numba compiles for each type
    return int(_choose_one(logits, Sparse(*bias), Sparse(*said), settings, _scratch(1, logits.size)))


def choose_rows(
    logits: np.ndarray, settings: np.ndarray, biases: Sequence[Arrays], said: Sequence[Arrays], n_threads: int
) -> np.ndarray:
    """As `choose` for each of n > 0 rows, logits (n, V), with settings (n,); returns (n,) int64."""
    n_threads = min(n_threads, len(logits))
    if n_threads == 1 or logits.size < SMALL:
        rows = (settings[row : row + 1] for row in range(len(logits)))
        return np.array([choose(*row) for row in zip(logits, rows, biases, said)])
    flat, row_size = _flat(logits)
    tokens, scratch = np.empty(len(logits), np.int64), _scratch(n_threads, logits.shape[1])
    with one_at_a_time:
        numba.set_num_threads(n_threads)
        _choose_rows.enter(
            new_team(1, n_threads), n_threads, flat, row_size, logits.shape[1], *_together(biases),
            *_together(said), settings, scratch, tokens,
        )  # fmt: skip
    return tokens


def _flat(logits: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows (n, V) as one read-only float32 array, and the floats from row to row; copied only if needed."""
    if logits.dtype != np.float32 or logits.strides[1] != 4 or logits.strides[0] % 4 or logits.strides[0] < 0:
        logits = np.ascontiguousarray(logits, np.float32)
    row_size = logits.strides[0] // 4
    size = (len(logits) - 1) * row_size + logits.shape[1]
    return np.lib.stride_tricks.as_strided(logits, (size,), (4,), writeable=False), row_size


def _together(rows: Sequence[Arrays]) -> tuple[Sparse, np.ndarray]:
    """The arrays of all rows, concatenated, and where those of each row begin and end."""
    ends = np.cumsum([0, *(ids.size for ids, _ in rows)])
    return Sparse(*(np.concatenate(parts) for parts in zip(*rows))), ends

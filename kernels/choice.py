"""One row of logits: which tokens may be chosen, and the draw.

Nothing is sorted. First a lower bound is found, below which no token can be kept: for top-k from the
largest of each 64 logits, for top-p from the sum of all weights. Few tokens are left, and among them the
exact edge is found (edge.py). The draw goes through the ids in ascending order, the order they were found in.

This runs inside parallel regions: all buffers are arguments, and an error is a negative return value.
"""

import math
from typing import NamedTuple

import numpy as np
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.edge import edge_of_mass, nth_largest
from rwkv_np.kernels.emit import LANES
from rwkv_np.kernels.logits import CHUNK, find_largest, first, gather, weigh, weigh_chunks
from rwkv_np.kernels.weights import LARGEST_BITS, LOG2_E

FINITE = np.float32(np.finfo(np.float32).min)

NOT_FINITE = -1  # returned instead of a token: a logit is NaN or inf, or all are -inf
OUTSIDE = -2  # an id of a bias or of a penalty is outside the vocabulary

# The settings of one row of logits. `number` is the random number in [0, 1), `scale` 0 for temperature 0.
SETTINGS = np.dtype([
    ("number", np.float64), ("scale", np.float64), ("top_p", np.float64), ("min_log", np.float64),
    ("top_k", np.int64), ("presence", np.float32), ("frequency", np.float32),
])  # fmt: skip

_jit = jit(nogil=True, error_model="numpy")


class Scratch(NamedTuple):
    """Work buffers: one row of each array for each thread."""

    logits: np.ndarray  # (n_threads, n_padded) float32, padded with -inf after the vocabulary
    maxima: np.ndarray  # (n_threads, n_chunks * LANES) float32: the largest of each 64 logits of a chunk
    sums: np.ndarray  # (n_threads, n_chunks) int64: the weights of each chunk
    ids: np.ndarray  # (n_threads, n_padded) int32: candidates in ascending order, ...
    kept: np.ndarray  # float32: ... and their logits
    left: np.ndarray  # float32: the logits in which an edge is searched, ...
    masses: np.ndarray  # int64: ... and the weight of each
    buckets: np.ndarray  # (n_threads, BUCKETS) int64


class Sparse(NamedTuple):
    """Numbers for a few tokens; each id occurs once."""

    ids: np.ndarray  # (n,) int64
    values: np.ndarray  # (n,) float32 or float64


# === The adjusted logits: a copy of the row with biases and penalties === #


@_jit
def _are_within(ids, n_vocab):
    for token in ids:
        if not 0 <= token < n_vocab:
            return False
    return True


@_jit
def _adjust(logits, bias, said, setting, n_vocab, n_padded, x):
    """x = logits + bias - penalties, each step rounded to float32, then -inf as padding."""
    for i in range(n_vocab):
        x[i] = logits[i]
    for i in range(n_vocab, n_padded):
        x[i] = -np.inf
    for i in range(bias.ids.size):
        x[bias.ids[i]] += bias.values[i]
    for i in range(said.ids.size):
        x[said.ids[i]] -= setting.presence + setting.frequency * np.float32(said.values[i])


# === Bounds below which nothing can be kept === #


@_jit
def _bound_of_top_k(maxima, top_k, kept, left, masses, buckets):
    """A logit that at least top_k tokens reach: the maxima of top_k groups reach it."""
    n = 0
    for value in maxima:
        if value >= FINITE:
            kept[n] = value
            n += 1
    return nth_largest(kept[:n], top_k, left, masses, buckets)[0] if n >= top_k else FINITE


@_jit
def _bound_of_top_p(total, needed, n_vocab, largest):
    """A logit below which no token is needed: all tokens below it together weigh less than top-p cuts off."""
    spare = (total - needed) // n_vocab - 1
    return _just_below(largest + math.log(spare) - LARGEST_BITS * math.log(2.0)) if spare > 0 else FINITE


@_jit
def _just_below(value):
    """A float32 safely below a float64: a bound may be too low but not too high."""
    return max(np.float32(value - abs(value) * 1e-6 - 1e-3), FINITE)


# === The tokens that are kept, in ascending order of ids === #


@_jit
def _keep_likely(ids, kept, n, edge, largest, min_log):
    """Keep the tokens that top-p's edge and min-p allow."""
    n_left = 0
    for i in range(n):
        # Do not read a value back just after writing it: waiting for the store made this ten times slower.
        token, x = ids[i], kept[i]
        ids[n_left], kept[n_left] = token, x
        n_left += (x >= edge) & (np.float64(x) - largest >= min_log)
    return n_left


@_jit
def _keep_first(ids, kept, n, edge, n_equal):
    """Keep the tokens above the edge, and the first n_equal of those equal to it."""
    n_left = 0
    for i in range(n):
        token, x = ids[i], kept[i]
        ids[n_left], kept[n_left] = token, x
        is_equal = (x == edge) & (n_equal > 0)
        n_equal -= is_equal
        n_left += (x > edge) | is_equal
    return n_left


@_jit
def _cut(x, n_vocab, n_chunks, largest, setting, scratch, rank):
    """Put the tokens that may be chosen into scratch.ids and scratch.kept; returns how many."""
    ids, kept, masses = scratch.ids[rank], scratch.kept[rank], scratch.masses[rank]
    left, buckets, bound, needed = scratch.left[rank], scratch.buckets[rank], FINITE, 0
    # === A lower bound, which may be too low === #
    if setting.top_p < 1:
        total = weigh_chunks(x, n_chunks, largest, LOG2_E, scratch.sums[rank])
        needed = np.int64(math.ceil(setting.top_p * np.float64(total)))
        bound = max(bound, _bound_of_top_p(total, needed, n_vocab, largest))
    if setting.top_k > 0:
        maxima = scratch.maxima[rank, : n_chunks * LANES]
        bound = max(bound, _bound_of_top_k(maxima, setting.top_k, kept, left, masses, buckets))
    bound = max(bound, _just_below(largest + setting.min_log))
    n = gather(x, n_chunks * CHUNK, bound, ids, kept)
    # === top-p, including all tokens as likely as the last one, and min-p === #
    edge = FINITE
    if setting.top_p < 1 and weigh(kept[:n], largest, LOG2_E, masses) >= needed:
        edge, _ = edge_of_mass(kept[:n], masses[:n], needed, left, buckets)
    n = _keep_likely(ids, kept, n, edge, largest, setting.min_log)
    # === top-k, with the first of the tokens as likely as the last one === #
    if 0 < setting.top_k < n:
        edge, above = nth_largest(kept[:n], setting.top_k, left, masses, buckets)
        n = _keep_first(ids, kept, n, edge, setting.top_k - above)
    return n


# === The draw === #


@_jit
def _place(number, total):
    """The unit of weight that a random number in [0, 1) selects, counted over all weights."""
    return min(np.int64(number * np.float64(total)), total - 1)


@_jit
def _walk(masses, place):
    """(index of the mass that contains the unit, the unit's position in that mass)."""
    i = 0
    while place >= masses[i]:
        place -= masses[i]
        i += 1
    return i, place


@_jit
def _draw_any(x, n_chunks, largest, setting, scratch, rank):
    """Draw a token when no limit (top-k, top-p, min-p) applies."""
    sums, masses = scratch.sums[rank], scratch.masses[rank]
    total = weigh_chunks(x, n_chunks, largest, setting.scale, sums)
    chunk, place = _walk(sums, _place(setting.number, total))
    weigh(x[chunk * CHUNK : (chunk + 1) * CHUNK], largest, setting.scale, masses)
    return chunk * CHUNK + _walk(masses, place)[0]


@_jit
def _draw_kept(n, largest, setting, scratch, rank):
    """Draw one of the n tokens that were kept."""
    masses = scratch.masses[rank]
    total = weigh(scratch.kept[rank, :n], largest, setting.scale, masses)
    return np.int64(scratch.ids[rank, _walk(masses, _place(setting.number, total))[0]])


# === The whole choice === #


@_jit
def choose_row(logits, bias, said, setting, scratch, rank):
    """The token of one row, logits (V,), or NOT_FINITE or OUTSIDE."""
    n_vocab, x = logits.size, scratch.logits[rank]
    n_chunks = (n_vocab + CHUNK - 1) // CHUNK
    if not (_are_within(bias.ids, n_vocab) and _are_within(said.ids, n_vocab)):
        return OUTSIDE
    _adjust(logits, bias, said, setting, n_vocab, n_chunks * CHUNK, x)
    found = find_largest(x, n_chunks, scratch.maxima[rank])
    if not abs(found) < np.inf:
        return NOT_FINITE
    largest = np.float64(found)
    if setting.scale == 0:
        return first(x, found)
    if setting.top_p >= 1 and not 0 < setting.top_k < n_vocab and setting.min_log == -np.inf:
        return _draw_any(x, n_chunks, largest, setting, scratch, rank)
    n = _cut(x, n_vocab, n_chunks, largest, setting, scratch, rank)
    return _draw_kept(n, largest, setting, scratch, rank)

"""Better scales for blocks of 32 weights, in the layout of the file formats: a search instead of the block's range.

The encoders of `blocks.py` stretch the steps from the smallest weight of a block to the largest. Other ends often
have a smaller squared error: a few outliers are clipped, and the many weights between are rounded more finely. Here a
grid of ends is tried; each is improved by least squares (best scale for the integers, best integers for the scale),
and the best of all is kept. Scales are rounded to float16 BEFORE an error is judged: the file has nothing better.

Arrays are transposed, (weights, n_blocks), as `encode.py` explains: the long loops over blocks are vectorized. Every
weight counts in proportion to `share` (32,), which is the same for all blocks of a call.
`feedback.py` rounds with the scales found here.
"""

from __future__ import annotations

import numpy as np
from rwkv_np.kernels.blocks import pack
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.encode import BLOCK_SIZE, LANES
from rwkv_np.kernels.floats import count_not_finite, narrow, sum_of_squares, widen
from rwkv_np.kernels.formats import Format

N_ENDS = 7  # per end of the range; 49 pairs, and the range itself
N_SCALES = 26  # of a symmetric format, per sign
LEAST_SCALE, SCALE_STEP = 0.7, 0.02  # times the largest magnitude
N_SQUARES = 3  # rounds of least squares from each start

# "contract" allows a fused multiply-add, and nothing that would remove the rounding to float16.
_jit = jit(nogil=True, error_model="numpy", fastmath={"contract"})


def step_of(bits: int) -> float:
    """How far the ends of the grid are apart, as a share of the range."""
    return 0.02 if bits == 5 else 0.04


def half(x: np.ndarray) -> np.ndarray:
    """x rounded to float16, as float32."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


# === The references: x (32, n) float32, share (32,) -> d, m (n,) float32 with values of float16 === #


def search_affine_reference(x, share, bits):
    """Q4_1 and Q5_1: the scale d and the minimum m of x ~ q d + m, q in 0 .. 2^bits - 1."""
    low, high, top = x.min(axis=0), x.max(axis=0), np.float32(2**bits - 1)
    starts = [(low, high)] + [
        (low + np.float32(step_of(bits) * (i - 0.5)) * (high - low),
         high - np.float32(step_of(bits) * (j - 0.5)) * (high - low))
        for i in range(N_ENDS) for j in range(N_ENDS)
    ]  # fmt: skip
    best = tuple(np.full((3, x.shape[1]), np.inf, np.float32))
    w, sw = share[:, None], share.sum()
    for start, end in starts:
        d, m = half((end - start) / top), half(start)
        for _ in range(N_SQUARES + 1):
            q = _nearest(x - m, d, top)
            best = _keep_better(best, (w * np.square(x - q * d - m)).sum(axis=0), d, m)
            sq, sqq, sxq, sx = ((w * a).sum(axis=0) for a in (q, q * q, q * x, x))
            det = sw * sqq - sq * sq
            d = half(np.where(det > 0, (sw * sxq - sx * sq) / np.where(det > 0, det, 1), d))
            m = half((sx - d * sq) / sw)
    return best[1], best[2]


def search_symmetric_reference(x, share, bits):
    """Q4_0 and Q5_0: the scale d of x ~ (q - 2^(bits - 1)) d, of either sign; m is -2^(bits - 1) d."""
    zero, top = np.float32(2 ** (bits - 1)), np.float32(2**bits - 1)
    largest, w = np.abs(x).max(axis=0), share[:, None]
    best = tuple(np.full((3, x.shape[1]), np.inf, np.float32))
    for sign in (-1, 1):
        for i in range(N_SCALES):
            d = half(largest * np.float32(sign * (LEAST_SCALE + SCALE_STEP * i)) / zero)
            for _ in range(N_SQUARES + 1):
                q = _nearest(x + zero * d, d, top) - zero
                best = _keep_better(best, (w * np.square(x - q * d)).sum(axis=0), d, d)
                sqq, sxq = (w * q * q).sum(axis=0), (w * q * x).sum(axis=0)
                d = half(np.where(sqq > 0, sxq / np.where(sqq > 0, sqq, 1), d))
    return best[1], -zero * best[1]


def _nearest(x, d, top):
    """The integers from 0 to `top` nearest to x / d; 0 where d is 0."""
    steps = x * np.divide(1, d, out=np.zeros_like(d), where=d != 0)
    return np.floor(np.clip(np.nan_to_num(steps), 0, top) + np.float32(0.5))


def _keep_better(best, error, d, m):
    is_better = error < best[0]
    return tuple(np.where(is_better, new, old) for new, old in zip((error, d, m), best))


# === The kernels: a tile is (32, LANES); the last tile leaves some lanes unused === #


@_jit
def _to_half(x, halves):
    """x becomes what float16 has of it; `halves` is a place to work."""
    narrow(x, halves)
    widen(halves, x)


@_jit
def _load(x, first, n, tile):
    for i in range(BLOCK_SIZE):
        tile[i, :n] = x[i, first : first + n]


@_jit
def _affine_round(tile, share, d, m, inverse, top, sums, best, best_d, best_m):
    """Round with (d, m); keep them where the error is the smallest so far; sums of q, q q, q x."""
    error, sq, sqq, sxq = sums[0], sums[1], sums[2], sums[3]
    sums[:] = np.float32(0)
    for lane in range(LANES):
        inverse[lane] = np.float32(1) / d[lane] if d[lane] != np.float32(0) else np.float32(0)
    for i in range(BLOCK_SIZE):
        x, w = tile[i], share[i]
        for lane in range(LANES):
            steps = (x[lane] - m[lane]) * inverse[lane]
            steps = steps if steps >= np.float32(0) else np.float32(0)
            steps = steps if steps < top else top
            q = np.float32(np.int32(steps + np.float32(0.5)))
            rest = x[lane] - (q * d[lane] + m[lane])
            error[lane] += w * rest * rest
            sq[lane] += w * q
            sqq[lane] += w * q * q
            sxq[lane] += w * q * x[lane]
    for lane in range(LANES):
        is_better = error[lane] < best[lane]
        best[lane] = error[lane] if is_better else best[lane]
        best_d[lane] = d[lane] if is_better else best_d[lane]
        best_m[lane] = m[lane] if is_better else best_m[lane]


@_jit
def _affine_squares(sums, sw, sx, d, m, halves):
    """The best d and m for the integers; m is fitted to the d that float16 has."""
    sq, sqq, sxq = sums[1], sums[2], sums[3]
    for lane in range(LANES):
        det = sw * sqq[lane] - sq[lane] * sq[lane]
        d[lane] = (sw * sxq[lane] - sx[lane] * sq[lane]) / det if det > np.float32(0) else d[lane]
    _to_half(d, halves)
    for lane in range(LANES):
        m[lane] = (sx[lane] - d[lane] * sq[lane]) / sw
    _to_half(m, halves)


@_jit
def search_affine(x, share, bits, d_out, m_out):
    """As `search_affine_reference`, into d_out and m_out (n,)."""
    tile, top, step = np.zeros((BLOCK_SIZE, LANES), np.float32), np.float32((1 << bits) - 1), 0.04
    if bits == 5:
        step = 0.02
    low, high, sx = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    d, m, inverse = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    best, best_d, best_m = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    sums, halves, sw = np.empty((4, LANES), np.float32), np.empty(LANES, np.uint16), np.float32(0)
    for i in range(BLOCK_SIZE):
        sw += share[i]
    for first in range(0, x.shape[1], LANES):
        n = min(LANES, x.shape[1] - first)
        _load(x, first, n, tile)
        low[:], high[:], sx[:] = np.float32(np.inf), np.float32(-np.inf), np.float32(0)
        for i in range(BLOCK_SIZE):
            for lane in range(LANES):
                value = tile[i, lane]
                low[lane] = value if value < low[lane] else low[lane]
                high[lane] = value if value > high[lane] else high[lane]
                sx[lane] += share[i] * value
        # They stay infinite where every error is: the weights are too large for float16.
        best[:], best_d[:], best_m[:] = np.float32(np.inf), np.float32(np.inf), np.float32(np.inf)
        for start in range(N_ENDS * N_ENDS + 1):
            cut_low, cut_high = np.float32(0), np.float32(0)
            if start:
                cut_low = np.float32(step * ((start - 1) // N_ENDS - 0.5))
                cut_high = np.float32(step * ((start - 1) % N_ENDS - 0.5))
            for lane in range(LANES):
                width = high[lane] - low[lane]
                m[lane] = low[lane] + cut_low * width
                d[lane] = (high[lane] - cut_high * width - m[lane]) / top
            _to_half(d, halves)
            _to_half(m, halves)
            _affine_round(tile, share, d, m, inverse, top, sums, best, best_d, best_m)
            for _ in range(N_SQUARES):
                _affine_squares(sums, sw, sx, d, m, halves)
                _affine_round(tile, share, d, m, inverse, top, sums, best, best_d, best_m)
        d_out[first : first + n] = best_d[:n]
        m_out[first : first + n] = best_m[:n]


@_jit
def _symmetric_round(tile, share, d, inverse, zero, top, sums, best, best_d):
    """As `_affine_round`, with m = -zero d and sums of signed integers."""
    error, sqq, sxq = sums[0], sums[2], sums[3]
    sums[:] = np.float32(0)
    for lane in range(LANES):
        inverse[lane] = np.float32(1) / d[lane] if d[lane] != np.float32(0) else np.float32(0)
    for i in range(BLOCK_SIZE):
        x, w = tile[i], share[i]
        for lane in range(LANES):
            steps = x[lane] * inverse[lane] + zero
            steps = steps if steps >= np.float32(0) else np.float32(0)
            steps = steps if steps < top else top
            q = np.float32(np.int32(steps + np.float32(0.5))) - zero
            rest = x[lane] - q * d[lane]
            error[lane] += w * rest * rest
            sqq[lane] += w * q * q
            sxq[lane] += w * q * x[lane]
    for lane in range(LANES):
        is_better = error[lane] < best[lane]
        best[lane] = error[lane] if is_better else best[lane]
        best_d[lane] = d[lane] if is_better else best_d[lane]


@_jit
def search_symmetric(x, share, bits, d_out, m_out):
    """As `search_symmetric_reference`, into d_out and m_out (n,)."""
    tile, top, zero = (
        np.zeros((BLOCK_SIZE, LANES), np.float32),
        np.float32((1 << bits) - 1),
        np.float32(1 << (bits - 1)),
    )
    largest, d, inverse = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    best, best_d = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    sums, halves = np.empty((4, LANES), np.float32), np.empty(LANES, np.uint16)
    for first in range(0, x.shape[1], LANES):
        n = min(LANES, x.shape[1] - first)
        _load(x, first, n, tile)
        largest[:] = np.float32(0)
        for i in range(BLOCK_SIZE):
            for lane in range(LANES):
                size = np.abs(tile[i, lane])
                largest[lane] = size if size > largest[lane] else largest[lane]
        best[:], best_d[:] = np.float32(np.inf), np.float32(np.inf)
        for start in range(2 * N_SCALES):
            scale = np.float32((LEAST_SCALE + SCALE_STEP * (start % N_SCALES)) * (1 if start >= N_SCALES else -1))
            for lane in range(LANES):
                d[lane] = largest[lane] * scale / zero
            _to_half(d, halves)
            _symmetric_round(tile, share, d, inverse, zero, top, sums, best, best_d)
            for _ in range(N_SQUARES):
                for lane in range(LANES):
                    d[lane] = sums[3, lane] / sums[2, lane] if sums[2, lane] > np.float32(0) else d[lane]
                _to_half(d, halves)
                _symmetric_round(tile, share, d, inverse, zero, top, sums, best, best_d)
        for lane in range(n):
            d_out[first + lane] = best_d[lane]
            m_out[first + lane] = -zero * best_d[lane]


def search(format: Format, x: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scales d and minima m, each (n,) float32 with values of float16, of blocks x (32, n) float32.

    share  (32,) float32, how much the squared error of each weight counts
    """
    d, m = np.empty(x.shape[1], np.float32), np.empty(x.shape[1], np.float32)
    kernel = search_affine if format.layout.has_min else search_symmetric
    kernel(x, share, format.layout.bits, d, m)
    return d, m


def encode_searched(format: Format, x: np.ndarray) -> tuple[np.ndarray, float, int]:
    """As `encode.encode`, with scales that are searched: x (n_blocks, 32) float32, every weight counts the same."""
    turned = np.ascontiguousarray(x.T)
    d, m = search(format, turned, np.ones(BLOCK_SIZE, np.float32))
    with np.errstate(all="ignore"):  # too large numbers are counted below
        q = _nearest(turned - m, d, np.float32(2**format.layout.bits - 1)).astype(np.uint8)
        found = pack(format.block, np.ascontiguousarray(q.T), d, m)
        difference = (format.decode(found) - x).reshape(-1)
    return found, sum_of_squares(difference), count_not_finite(difference)

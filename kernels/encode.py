"""Quantize float32 weights to the blocks of a file, and measure the error.

The references are the encoders of `blocks.py`; these give the same bytes 20 to 50 times faster. A
loop over the 32 weights of a block is too short for LLVM: it unrolls the loop and then does not
vectorize it (0.3 G weights/s per core). So a tile of blocks is transposed first: lane L of row i is
weight i of block L, and the long loops over lanes are vectorized (1.2 to 1.5 G).
`rwkv_np/conversion/quantize.py` decides which parameters are encoded, and handles files.

One call uses one thread and releases the GIL; to use two cores, call it from two threads.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import blocks
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.floats import count_not_finite, narrow, sum_of_squares, widen
from rwkv_np.kernels.formats import Format

BLOCK_SIZE = blocks.BLOCK_SIZE
NO_OUTLIER = blocks.NO_OUTLIER
LANES = 128  # blocks transposed at once: a tile of 16 KB, which stays in the L1 cache

# 0.5 itself would round 0.49999997 up, because the sum is rounded before it is truncated.
BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits of a float32 except the sign

_jit = jit(nogil=True, error_model="numpy")


@intrinsic
def _fma(typingctx, a, b, c):
    """a b + c rounded once, which the format's bytes depend on."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), codegen


# === A tile: (32, LANES); the loops run over all lanes; the last tile leaves some of them unused === #


@_jit
def _turn(x, first, n, tile):
    """Transpose n blocks of x (n_blocks, 32), from `first` on, into the lanes of the tile."""
    for lane in range(n):
        for i in range(BLOCK_SIZE):
            tile[i, lane] = x[first + lane, i]


@_jit
def _largest_magnitude(tile, largest, index):
    """The first element of largest magnitude of each lane, and its index; for a lane of zeros +0 and no index."""
    bits = tile.view(np.int32)
    for lane in range(LANES):
        size, found, where = np.int32(0), np.float32(0), np.int32(NO_OUTLIER)
        for i in range(BLOCK_SIZE):
            magnitude = bits[i, lane] & MAGNITUDE
            found = tile[i, lane] if magnitude > size else found
            where = np.int32(i) if magnitude > size else where
            size = magnitude if magnitude > size else size
        largest[lane], index[lane] = found, where


@_jit
def _range(tile, n_steps, d, m):
    """m: the first smallest element of each lane; d: a step from it to the largest in `n_steps`. NaN is ignored."""
    for lane in range(LANES):
        low, high = np.float32(np.inf), np.float32(-np.inf)
        for i in range(BLOCK_SIZE):
            value = tile[i, lane]
            low = value if value < low else low
            high = value if value > high else high
        m[lane], d[lane] = low, high
    for lane in range(LANES):
        d[lane] = (d[lane] - m[lane]) / np.float32(n_steps)


@_jit
def _invert(d, inverse):
    """1 / d, and 0 where d is 0. Where 1 / d overflows it is NaN, so that every comparison is false."""
    for lane in range(LANES):
        quotient = np.float32(1) / d[lane]
        quotient = quotient if np.abs(quotient) < np.float32(np.inf) else np.float32(np.nan)
        inverse[lane] = quotient if d[lane] != np.float32(0) else np.float32(0)


@_jit
def _multiply_add(tile, minus, inverse, offset, top, q):
    """q = trunc((x - minus) inverse + offset), at most `top`, and 0 where that is NaN."""
    for i in range(BLOCK_SIZE):
        row, q_row = tile[i], q[i]
        for lane in range(LANES):
            steps = _fma(row[lane] - minus[lane], inverse[lane], offset)
            steps = steps if steps >= np.float32(0) else np.float32(0)
            q_row[lane] = np.int32(steps if steps < top else top)


@_jit
def _multiply_round(tile, minus, inverse, q):
    """q = (x - minus) inverse, rounded half away from zero, and 0 where that is NaN or out of range."""
    for i in range(BLOCK_SIZE):
        row, q_row = tile[i], q[i]
        for lane in range(LANES):
            steps = (row[lane] - minus[lane]) * inverse[lane]
            steps = steps + np.copysign(BELOW_HALF, steps)
            q_row[lane] = np.int32(steps if np.abs(steps) < np.float32(128) else np.float32(0))


@_jit
def _squared_error(tile, n, q, zero, d, m):
    """The sum of the squares of (q - zero) d + m - x over n lanes; a NaN in x is skipped."""
    squares, total = np.zeros(LANES, np.float32), 0.0
    for i in range(BLOCK_SIZE):
        row, q_row = tile[i], q[i]
        for lane in range(LANES):
            error = np.float32(q_row[lane] - zero) * d[lane] + m[lane] - row[lane]
            squares[lane] += error * error if error == error else np.float32(0)
    for lane in range(n):
        total += squares[lane]
    return total


# === From a tile to the blocks: `out` (n_blocks, words of a block) uint16, from word `at` on === #


@_jit
def _store_halves(x, n, out, first, at):
    """Write x as float16, one word; x becomes what was stored. Returns how many became infinite."""
    halves = np.empty(LANES, np.uint16)
    narrow(x, halves)
    for lane in range(n):
        out[first + lane, at] = halves[lane]
    widen(halves, x)
    n_infinite = 0
    for lane in range(LANES):
        is_infinite = np.abs(x[lane]) >= np.float32(65536)
        x[lane] = np.copysign(np.float32(np.inf), x[lane]) if is_infinite else x[lane]
        n_infinite += is_infinite & (lane < n)
    return n_infinite


@_jit
def _store_words(words, n, out, first, at):
    """Write words (n_words, LANES) uint16, transposed back."""
    for lane in range(n):
        for j in range(words.shape[0]):
            out[first + lane, at + j] = words[j, lane]


@_jit
def _store_nibbles(q, n, out, first, at, stride, second):
    """Write 8 words. Byte j holds elements `stride` j (low) and `stride` j + `second` (high)."""
    words = np.empty((BLOCK_SIZE // 4, LANES), np.uint16)
    for j in range(BLOCK_SIZE // 4):
        a, b = q[2 * stride * j], q[2 * stride * j + second]
        c, d = q[2 * stride * j + stride], q[2 * stride * j + stride + second]
        for lane in range(LANES):
            low = (a[lane] & np.int32(15)) | ((b[lane] & np.int32(15)) << np.int32(4))
            high = (c[lane] & np.int32(15)) | ((d[lane] & np.int32(15)) << np.int32(4))
            words[j, lane] = np.uint16(low | (high << np.int32(8)))
    _store_words(words, n, out, first, at)


@_jit
def _store_fifth_bits(q, n, out, first, at):
    """Write 2 words: bit i of the 32 is the fifth bit of element i."""
    words = np.empty((2, LANES), np.uint16)
    for half in range(2):
        rows = q[16 * half : 16 * half + 16]
        for lane in range(LANES):
            word = np.int32(0)
            for i in range(16):
                word |= ((rows[i, lane] >> np.int32(4)) & np.int32(1)) << np.int32(i)
            words[half, lane] = np.uint16(word)
    _store_words(words, n, out, first, at)


@_jit
def _store_bytes(q, n, out, first, at):
    """Write 16 words, one byte per element."""
    words = np.empty((BLOCK_SIZE // 2, LANES), np.uint16)
    for j in range(BLOCK_SIZE // 2):
        low, high = q[2 * j], q[2 * j + 1]
        for lane in range(LANES):
            words[j, lane] = np.uint16((low[lane] & np.int32(0xFF)) | ((high[lane] & np.int32(0xFF)) << np.int32(8)))
    _store_words(words, n, out, first, at)


# === The formats: x (n_blocks, 32) and bits of a quant -> out (n_blocks, words of a block) uint16 === #
#
# Each returns (squared error, number of scales, minima and outliers that overflowed float16).


@_jit
def _symmetric(x, out, bits):
    """Q4_0 and Q5_0: the element of largest magnitude becomes -n_levels / 2 steps."""
    tile, q = np.zeros((BLOCK_SIZE, LANES), np.float32), np.empty((BLOCK_SIZE, LANES), np.int32)
    d, inverse, zeros = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.zeros(LANES, np.float32)
    index, error, n_infinite = np.empty(LANES, np.int32), 0.0, 0
    n_levels, zero, has_fifth = 1 << bits, 1 << (bits - 1), bits == 5
    for first in range(0, x.shape[0], LANES):
        n = min(LANES, x.shape[0] - first)
        _turn(x, first, n, tile)
        _largest_magnitude(tile, d, index)
        for lane in range(LANES):
            d[lane] /= np.float32(-zero)
        _invert(d, inverse)
        _multiply_add(tile, zeros, inverse, np.float32(zero + 0.5), np.float32(n_levels - 1), q)
        n_infinite += _store_halves(d, n, out, first, 0)
        if has_fifth:
            _store_fifth_bits(q, n, out, first, 1)
        _store_nibbles(q, n, out, first, 3 if has_fifth else 1, 1, 16)
        error += _squared_error(tile, n, q, np.int32(zero), d, zeros)
    return error, n_infinite


@_jit
def _affine(x, out, bits):
    """Q4_1 and Q5_1: steps from the smallest element to the largest."""
    tile, q = np.zeros((BLOCK_SIZE, LANES), np.float32), np.empty((BLOCK_SIZE, LANES), np.int32)
    d, m, inverse = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    n_levels, has_fifth, error, n_infinite = 1 << bits, bits == 5, 0.0, 0
    for first in range(0, x.shape[0], LANES):
        n = min(LANES, x.shape[0] - first)
        _turn(x, first, n, tile)
        _range(tile, n_levels - 1, d, m)
        _invert(d, inverse)
        _multiply_add(tile, m, inverse, np.float32(0.5), np.float32(n_levels - 1), q)
        n_infinite += _store_halves(d, n, out, first, 0) + _store_halves(m, n, out, first, 1)
        if has_fifth:
            _store_fifth_bits(q, n, out, first, 2)
        _store_nibbles(q, n, out, first, 4 if has_fifth else 2, 1, 16)
        error += _squared_error(tile, n, q, np.int32(0), d, m)
    return error, n_infinite


@_jit
def _q8_0(x, out, bits):
    """Q8_0: the largest magnitude becomes 127 steps."""
    tile, q = np.zeros((BLOCK_SIZE, LANES), np.float32), np.empty((BLOCK_SIZE, LANES), np.int32)
    d, inverse, zeros = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.zeros(LANES, np.float32)
    index, error, n_infinite = np.empty(LANES, np.int32), 0.0, 0
    for first in range(0, x.shape[0], LANES):
        n = min(LANES, x.shape[0] - first)
        _turn(x, first, n, tile)
        _largest_magnitude(tile, d, index)
        for lane in range(LANES):
            d[lane] = np.abs(d[lane]) / np.float32((1 << (bits - 1)) - 1)
        _invert(d, inverse)
        _multiply_round(tile, zeros, inverse, q)
        n_infinite += _store_halves(d, n, out, first, 0)
        _store_bytes(q, n, out, first, 1)
        error += _squared_error(tile, n, q, np.int32(0), d, zeros)
    return error, n_infinite


@_jit
def _q4_1_o(x, out, bits):
    """Q4_1_O of April 2023: steps over 31 elements; the one of largest magnitude is stored separately."""
    tile, q = np.zeros((BLOCK_SIZE, LANES), np.float32), np.empty((BLOCK_SIZE, LANES), np.int32)
    d, m, inverse = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    outlier, index, error, n_infinite = np.empty(LANES, np.float32), np.empty(LANES, np.int32), 0.0, 0
    for first in range(0, x.shape[0], LANES):
        n = min(LANES, x.shape[0] - first)
        _turn(x, first, n, tile)
        _largest_magnitude(tile, outlier, index)
        for lane in range(n):
            if index[lane] != NO_OUTLIER:
                tile[index[lane], lane] = np.nan  # NaN is ignored from here on
        _range(tile, (1 << bits) - 1, d, m)
        _invert(d, inverse)
        _multiply_round(tile, m, inverse, q)
        n_infinite += _store_halves(d, n, out, first, 0) + _store_halves(m, n, out, first, 1)
        before = outlier.copy()
        n_infinite += _store_halves(outlier, n, out, first, 3)
        for lane in range(n):
            out[first + lane, 2] = index[lane]
            error += np.float64(outlier[lane] - before[lane]) ** 2
        _store_nibbles(q, n, out, first, 4, 2, 1)
        error += _squared_error(tile, n, q, np.int32(0), d, m)
    return error, n_infinite


# `formats.FORMATS` names the kernel of a format. Arguments: (float32 blocks, words of the blocks, bits of a quant).
KERNELS = {"symmetric": _symmetric, "affine": _affine, "q8_0": _q8_0, "q4_1_o": _q4_1_o}


def encode(format: Format, x: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Quantize x (n_blocks, block_size) float32 with the format's kernel, or with its reference if it has no kernel.

    Returns  (blocks, sum of squared errors, number of values in the blocks' heads that overflowed float16)
    Raises   ValueError: the format has no encoder
    """
    if format.encode is None:
        raise ValueError(f"{format.name} has no encoder")
    if format.kernel is None:
        found = format.encode(x)
        difference = (format.decode(found) - x).reshape(-1)
        return found, sum_of_squares(difference), count_not_finite(difference)
    found = np.empty(len(x), format.block)
    words = found.view(np.uint16).reshape(len(x), -1)
    return found, *KERNELS[format.kernel](x, words, format.layout.bits)

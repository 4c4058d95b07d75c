"""Round weights to the integers of a block so that the OUTPUT of a matrix changes little, not each weight.

The error of a weight can be compensated by the weights that are not rounded yet, because the inputs of a matrix are
correlated: GPTQ (arXiv 2210.17323). `round_block` does it inside a block of 32 columns. `refine_block` improves a
finished block: scale and minimum by least squares, then every integer in turn, given all other weights.

What counts is f = tr(E H E^T), where E (rows, columns) is the error of the weights and H the second moments of the
inputs. Arrays are transposed, (columns, rows): rows are independent, so the long loops over them are vectorized.
`rwkv_np/calibration/gptq.py` goes through the blocks and does the large products with BLAS.
"""

from __future__ import annotations

import numpy as np
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.encode import BLOCK_SIZE, LANES
from rwkv_np.kernels.floats import narrow, widen
from rwkv_np.kernels.search import half

# "contract" allows a fused multiply-add, and nothing that would remove the rounding to float16.
_jit = jit(nogil=True, error_model="numpy", fastmath={"contract"})


def round_block_reference(w, d, m, u, top, q, error):
    """Round w (32, n) to q (32, n) uint8, q d + m, column after column; w is changed.

    u      (32, 32) float32, upper triangular: the inverse of the factor F of H = F F^T, of these columns
    error  (32, n): what the columns after this block are compensated with: w[k] -= u[j, k] error[j]
    """
    inverse = np.divide(1, d, out=np.zeros_like(d), where=d != 0)
    for j in range(len(w)):
        steps = np.clip(np.nan_to_num((w[j] - m) * inverse), 0, np.float32(top))
        q[j] = np.floor(steps + np.float32(0.5))
        error[j] = (w[j] - (q[j] * d + m)) / u[j, j]
        w[j + 1 :] -= u[j, j + 1 :, None] * error[j]


@_jit
def round_block(w, d, m, u, top, q, error):
    """As `round_block_reference`."""
    n, inverse = w.shape[1], np.empty(w.shape[1], np.float32)
    last = np.float32(top)
    for lane in range(n):
        inverse[lane] = np.float32(1) / d[lane] if d[lane] != np.float32(0) else np.float32(0)
    for j in range(BLOCK_SIZE):
        row, errors, integers = w[j], error[j], q[j]
        share = np.float32(1) / u[j, j]
        for lane in range(n):
            steps = (row[lane] - m[lane]) * inverse[lane]
            steps = steps if steps >= np.float32(0) else np.float32(0)
            steps = steps if steps < last else last
            found = np.int32(steps + np.float32(0.5))
            integers[lane] = np.uint8(found)
            errors[lane] = (row[lane] - (np.float32(found) * d[lane] + m[lane])) * share
        for k in range(j + 1, BLOCK_SIZE):
            other, factor = w[k], u[j, k]
            for lane in range(n):
                other[lane] -= factor * errors[lane]


def refine_block_reference(g, h, zero, top, q, d, m, change):
    """Improve a block in place: d and m where that makes f smaller, then each integer in turn.

    g       (32, n) float32: the gradient H E of these columns, changed with them
    h       (32, 32) float32: H of these columns
    zero    the integer that means 0, if m is -zero d; otherwise -1
    change  (32, n): what was added to the weights
    """
    signed = q.astype(np.float32) - np.float32(max(zero, 0))
    hq, h1 = h @ signed, h.sum(axis=1)
    a, b, c = (signed * hq).sum(axis=0), hq.sum(axis=0), h1.sum()
    p, s = (signed * g).sum(axis=0), g.sum(axis=0)
    det = np.where(zero < 0, a * c - b * b, a)
    is_solvable = det > np.float32(1e-6) * a * (c if zero < 0 else 1)
    step = np.where(zero < 0, s * b - p * c, -p) / np.where(is_solvable, det, 1)
    by_d = half(d + step) - d
    by_m = half(m - (s + by_d * b) / c) - m if zero < 0 else np.zeros_like(d)
    gain = 2 * (by_d * p + by_m * s) + by_d * by_d * a + 2 * by_d * by_m * b + by_m * by_m * c
    is_better = is_solvable & (gain < 0)
    by_d, by_m = np.where(is_better, by_d, 0), np.where(is_better, by_m, 0)
    change[:] = by_d * signed + by_m
    g += by_d * hq + by_m * h1[:, None]
    d += by_d
    m[:] = -zero * d if zero >= 0 else m + by_m
    for j in range(len(q)):
        scale = d * h[j, j]
        steps = np.divide(-g[j], scale, out=np.zeros_like(d), where=scale != 0)
        new = np.floor(np.clip(q[j] + steps, 0, np.float32(top)) + np.float32(0.5))
        delta = (new - q[j]) * d
        q[j] = new
        change[j] += delta
        g += h[:, j, None] * delta


@_jit
def _refit(g, q, h, h1, c, zero, d, m, n, signed, hq, change, halves):
    """Scale and minimum of a tile by least squares, kept where f becomes smaller after rounding to float16."""
    a, b = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    p, s = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    new_d, new_m, is_solvable = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.zeros(LANES, np.bool_)
    offset = np.float32(max(zero, 0))
    for i in range(BLOCK_SIZE):
        for lane in range(n):
            signed[i, lane] = np.float32(q[i, lane]) - offset
    for i in range(BLOCK_SIZE):
        out = hq[i]
        out[:] = np.float32(0)
        for j in range(BLOCK_SIZE):
            x, factor = signed[j], h[i, j]
            for lane in range(LANES):
                out[lane] += factor * x[lane]
        x, gradient = signed[i], g[i]
        for lane in range(LANES):
            a[lane] += x[lane] * out[lane]
            b[lane] += out[lane]
            p[lane] += x[lane] * gradient[lane]
            s[lane] += gradient[lane]
    for lane in range(LANES):
        if zero < 0:
            det, least, by = (
                a[lane] * c - b[lane] * b[lane],
                np.float32(1e-6) * a[lane] * c,
                s[lane] * b[lane] - p[lane] * c,
            )
        else:
            det, least, by = a[lane], np.float32(0), -p[lane]
        is_solvable[lane] = det > least
        new_d[lane] = d[lane] + by / det if det > least else d[lane]
    narrow(new_d, halves)
    widen(halves, new_d)
    for lane in range(LANES):
        new_m[lane] = m[lane] - (s[lane] + (new_d[lane] - d[lane]) * b[lane]) / c
    narrow(new_m, halves)
    widen(halves, new_m)
    for lane in range(LANES):
        by_d = new_d[lane] - d[lane]
        by_m = new_m[lane] - m[lane] if zero < 0 else np.float32(0)
        gain = np.float32(2) * (by_d * p[lane] + by_m * s[lane]) + by_d * by_d * a[lane]
        gain += np.float32(2) * by_d * by_m * b[lane] + by_m * by_m * c
        is_better = is_solvable[lane] and gain < np.float32(0)
        new_d[lane] = by_d if is_better else np.float32(0)
        new_m[lane] = by_m if is_better else np.float32(0)
    for i in range(BLOCK_SIZE):
        for lane in range(LANES):
            change[i, lane] = new_d[lane] * signed[i, lane] + new_m[lane]
            g[i, lane] += new_d[lane] * hq[i, lane] + new_m[lane] * h1[i]
    for lane in range(LANES):
        d[lane] += new_d[lane]
        m[lane] = m[lane] + new_m[lane] if zero < 0 else -np.float32(zero) * d[lane]


@_jit
def _descend(g, q, h, top, d, n, change):
    """Every integer of a tile in turn: the best one, given all others."""
    delta, last = np.zeros(LANES, np.float32), np.float32(top)
    for j in range(BLOCK_SIZE):
        diagonal = h[j, j]
        for lane in range(n):
            scale, old = d[lane] * diagonal, np.float32(q[j, lane])
            steps = old - (g[j, lane] / scale if scale != np.float32(0) else np.float32(0))
            steps = steps if steps >= np.float32(0) else np.float32(0)
            steps = steps if steps < last else last
            found = np.int32(steps + np.float32(0.5))
            q[j, lane] = np.uint8(found)
            delta[lane] = (np.float32(found) - old) * d[lane]
            change[j, lane] += delta[lane]
        for k in range(BLOCK_SIZE):
            gradient, factor = g[k], h[k, j]
            for lane in range(LANES):
                gradient[lane] += factor * delta[lane]


@_jit
def refine_block(g, h, zero, top, q, d, m, change):
    """As `refine_block_reference`, except that g stays unchanged."""
    tile, moved = np.zeros((BLOCK_SIZE, LANES), np.float32), np.zeros((BLOCK_SIZE, LANES), np.float32)
    signed, hq = np.zeros((BLOCK_SIZE, LANES), np.float32), np.zeros((BLOCK_SIZE, LANES), np.float32)
    scale, low, halves = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.empty(LANES, np.uint16)
    h1, c = np.zeros(BLOCK_SIZE, np.float32), np.float32(0)
    for i in range(BLOCK_SIZE):
        for j in range(BLOCK_SIZE):
            h1[i] += h[i, j]
        c += h1[i]
    for first in range(0, g.shape[1], LANES):
        n = min(LANES, g.shape[1] - first)
        tile[:, :n] = g[:, first : first + n]
        scale[:n], low[:n] = d[first : first + n], m[first : first + n]
        _refit(tile, q[:, first : first + n], h, h1, c, zero, scale, low, n, signed, hq, moved, halves)
        _descend(tile, q[:, first : first + n], h, top, scale, n, moved)
        d[first : first + n], m[first : first + n] = scale[:n], low[:n]
        change[:, first : first + n] = moved[:, :n]

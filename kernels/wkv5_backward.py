"""RWKV-5's and RWKV-6's recurrence with its gradient, from an empty state: for calibration.

The memory S of a head before each token is needed on the way back, and takes 16 KB. Therefore the forward direction
keeps only that of every CHUNK-th token, and the way back computes those between them again, for one chunk of one head:
they fit the L2 cache.

A call works on one sequence in one thread without Python's lock: sequences are shared out among threads. As in
`wkv5.py`, S is stored as [key][value], so that inner loops run along the values.

Reference: `equations.wkv5`, `gradients.wkv5_gradient`.
"""

from __future__ import annotations

import numpy as np
from rwkv_np.kernels.cache import jit

CHUNK = 16
# Sums may be reordered, so that they use vectors.
FAST = {"reassoc", "contract", "nsz", "arcp"}

_jit = jit(nogil=True, error_model="numpy", fastmath=FAST)


def forward(r: np.ndarray, k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The output (T, H, N), and what `backward` needs: S before every CHUNK-th token.

    Shapes   r, k, v (T, H, N), contiguous; w and u are broadcast to (T, H, N) and (H, N); all of one float type
    """
    n_tokens, n_head, n = k.shape
    out, kept = np.empty_like(k), np.empty((-(-n_tokens // CHUNK), n_head, n, n), k.dtype)
    _forward(r, k, v, np.broadcast_to(w, k.shape), np.broadcast_to(u, k.shape[1:]), out, kept)
    return out, kept


def backward(
    r: np.ndarray, k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray, kept: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The gradients with respect to r, k, v, w, from `g`, that with respect to the output; all (T, H, N)."""
    gradients = gr, gk, gv, gw = tuple(np.empty_like(k) for _ in range(4))
    w, u = np.broadcast_to(w, k.shape), np.broadcast_to(u, k.shape[1:])
    _backward(r, k, v, w, u, kept, np.ascontiguousarray(g), gr, gk, gv, gw)
    return gradients


@_jit
def _write(S, k, v, w):
    """The memory of a head after a token."""
    for i in range(k.size):
        for j in range(k.size):
            S[i, j] = w[i] * S[i, j] + k[i] * v[j]


@_jit
def _forward(r, k, v, w, u, out, kept):
    n_tokens, n_head, n = k.shape
    for h in range(n_head):
        S = np.zeros((n, n), k.dtype)
        for t in range(n_tokens):
            if t % CHUNK == 0:
                kept[t // CHUNK, h] = S
            # === Read: the past, and the present with its bonus u === #
            bonus = S[0, 0] * 0
            for i in range(n):
                bonus += r[t, h, i] * u[h, i] * k[t, h, i]
            for j in range(n):
                out[t, h, j] = bonus * v[t, h, j]
            for i in range(n):
                for j in range(n):
                    out[t, h, j] += r[t, h, i] * S[i, j]
            # === Decay and write === #
            _write(S, k[t, h], v[t, h], w[t, h])


@_jit
def _backward(r, k, v, w, u, kept, g, gr, gk, gv, gw):
    n_tokens, n_head, n = k.shape
    memories = np.empty((CHUNK, n, n), k.dtype)
    for h in range(n_head):
        G = np.zeros((n, n), k.dtype)
        for chunk in range(kept.shape[0] - 1, -1, -1):
            start, end = chunk * CHUNK, min((chunk + 1) * CHUNK, n_tokens)
            memories[0] = kept[chunk, h]
            for t in range(start, end - 1):
                memories[t + 1 - start] = memories[t - start]
                _write(memories[t + 1 - start], k[t, h], v[t, h], w[t, h])
            for t in range(end - 1, start - 1, -1):
                _back(memories[t - start], G, r[t, h], k[t, h], v[t, h], w[t, h], u[h], g[t, h],
                      gr[t, h], gk[t, h], gv[t, h], gw[t, h])  # fmt: skip


@_jit
def _back(S, G, r, k, v, w, u, g, gr, gk, gv, gw):
    """One token of one head, where S is the memory before it and G the gradient with respect to that after it."""
    n = k.size
    # === This token's own pair, which r reads with the bonus u === #
    bonus, along = S[0, 0] * 0, S[0, 0] * 0
    for i in range(n):
        bonus += r[i] * u[i] * k[i]
        along += v[i] * g[i]
    for j in range(n):
        gv[j] = bonus * g[j]
    # === The memory, row by row === #
    for i in range(n):
        to_r, to_k, to_w = S[0, 0] * 0, S[0, 0] * 0, S[0, 0] * 0
        for j in range(n):
            to_r += S[i, j] * g[j]
            to_k += G[i, j] * v[j]
            to_w += G[i, j] * S[i, j]
            gv[j] += k[i] * G[i, j]
            G[i, j] = w[i] * G[i, j] + r[i] * g[j]
        gr[i] = to_r + u[i] * k[i] * along
        gk[i] = to_k + u[i] * r[i] * along
        gw[i] = to_w

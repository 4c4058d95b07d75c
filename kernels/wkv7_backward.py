"""RWKV-7's memory with its gradient, from an empty state: for calibration.

As in `wkv5_backward.py`, the memory S of a head is kept before every CHUNK-th token, and those between them are
computed again on the way back; S is stored as [key][value]; a call works on one sequence in one thread.

Reference: `equations.wkv7`, `gradients.wkv7_gradient`.
"""

from __future__ import annotations

import numpy as np
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.wkv5_backward import CHUNK, FAST

_jit = jit(nogil=True, error_model="numpy", fastmath=FAST)


def forward(
    r: np.ndarray, w: np.ndarray, k: np.ndarray, v: np.ndarray, kk: np.ndarray, a: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The output (T, H, N), and what `backward` needs: S before every CHUNK-th token.

    Shapes   all (T, H, N), contiguous, of one float type
    """
    n_tokens, n_head, n = k.shape
    out, kept = np.empty_like(k), np.empty((-(-n_tokens // CHUNK), n_head, n, n), k.dtype)
    _forward(r, w, k, v, kk, a, out, kept)
    return out, kept


def backward(
    r: np.ndarray, w: np.ndarray, k: np.ndarray, v: np.ndarray, kk: np.ndarray, a: np.ndarray, kept: np.ndarray,
    g: np.ndarray,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """The gradients with respect to r, w, k, v, kk, a, from `g`, that with respect to the output; all (T, H, N)."""
    gradients = tuple(np.empty_like(k) for _ in range(6))
    _backward(r, w, k, v, kk, a, kept, np.ascontiguousarray(g), *gradients)
    return gradients


@_jit
def _find(S, kk, found):
    """found = the memory's value for the key kk."""
    found[:] = 0
    for i in range(kk.size):
        for j in range(kk.size):
            found[j] += kk[i] * S[i, j]


@_jit
def _write(S, w, k, v, kk, a, found):
    """The memory of a head after a token, in place: from one array to another took 2.5 times as long."""
    for i in range(k.size):
        erased = kk[i] * a[i]
        for j in range(k.size):
            S[i, j] = w[i] * S[i, j] - erased * found[j] + k[i] * v[j]


@_jit
def _forward(r, w, k, v, kk, a, out, kept):
    n_tokens, n_head, n = k.shape
    found = np.empty(n, k.dtype)
    for h in range(n_head):
        S = np.zeros((n, n), k.dtype)
        for t in range(n_tokens):
            if t % CHUNK == 0:
                kept[t // CHUNK, h] = S
            # === Decay, replace, write === #
            _find(S, kk[t, h], found)
            _write(S, w[t, h], k[t, h], v[t, h], kk[t, h], a[t, h], found)
            # === Read === #
            _find(S, r[t, h], out[t, h])


@_jit
def _backward(r, w, k, v, kk, a, kept, g, gr, gw, gk, gv, gkk, ga):
    n_tokens, n_head, n = k.shape
    memories, found = np.empty((CHUNK + 1, n, n), k.dtype), np.empty((CHUNK, n), k.dtype)
    g_found = np.empty(n, k.dtype)
    for h in range(n_head):
        G = np.zeros((n, n), k.dtype)
        for chunk in range(kept.shape[0] - 1, -1, -1):
            start, end = chunk * CHUNK, min((chunk + 1) * CHUNK, n_tokens)
            memories[0] = kept[chunk, h]
            for t in range(start, end):
                i = t - start
                _find(memories[i], kk[t, h], found[i])
                memories[i + 1] = memories[i]
                _write(memories[i + 1], w[t, h], k[t, h], v[t, h], kk[t, h], a[t, h], found[i])
            for t in range(end - 1, start - 1, -1):
                i = t - start
                _back_from_memory(memories[i], memories[i + 1], found[i], G, r[t, h], k[t, h], v[t, h], kk[t, h],
                                  a[t, h], g[t, h], gr[t, h], gw[t, h], gk[t, h], gv[t, h], ga[t, h],
                                  g_found)  # fmt: skip
                _back_from_found(memories[i], G, w[t, h], kk[t, h], a[t, h], g_found, ga[t, h], gkk[t, h])


@_jit
def _back_from_memory(S, after, found, G, r, k, v, kk, a, g, gr, gw, gk, gv, g_erased, g_found):
    """One token of one head, where S and `after` are the memory before and after it, and G belongs to `after`.

    g_erased is the gradient with respect to kk a; g_found that with respect to `found`.
    """
    gv[:], g_found[:] = 0, 0
    for i in range(k.size):
        erased = kk[i] * a[i]
        to_r, to_w, to_k, to_erased = S[0, 0] * 0, S[0, 0] * 0, S[0, 0] * 0, S[0, 0] * 0
        for j in range(k.size):
            G[i, j] += r[i] * g[j]
            to_r += after[i, j] * g[j]
            to_w += G[i, j] * S[i, j]
            to_k += G[i, j] * v[j]
            to_erased -= G[i, j] * found[j]
            gv[j] += k[i] * G[i, j]
            g_found[j] -= erased * G[i, j]
        gr[i], gw[i], gk[i], g_erased[i] = to_r, to_w, to_k, to_erased


@_jit
def _back_from_found(S, G, w, kk, a, g_found, ga, gkk):
    """The way through `found` to kk and to the memory before the token. `ga` comes in as g_erased."""
    for i in range(kk.size):
        to_kk = a[i] * ga[i]
        ga[i] *= kk[i]
        for j in range(kk.size):
            to_kk += S[i, j] * g_found[j]
            G[i, j] = w[i] * G[i, j] + kk[i] * g_found[j]
        gkk[i] = to_kk

"""The gradients of RWKV's recurrences in plain NumPy: what the backward kernels are tested against.

Each belongs to the function of that name in `equations.py`, for a sequence that starts from an empty state. It takes
the inputs and `g`, the gradient of a loss with respect to the output, and returns the gradients with respect to the
inputs that depend on tokens. These are the textbook forms: call them with float64 arrays and moderate numbers.

Shapes: as in `equations.py`; T tokens, C channels, H heads of N channels. S is the memory before a token, and G the
gradient with respect to the memory after it.
"""

from __future__ import annotations

import numpy as np


def wkv4_gradient(
    k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `wkv4`: (k, v)."""
    a, b = (np.zeros_like(k) for _ in range(2))  # the sums before each token, not divided by anything
    for t in range(len(k) - 1):
        a[t + 1] = np.exp(w) * a[t] + np.exp(k[t]) * v[t]
        b[t + 1] = np.exp(w) * b[t] + np.exp(k[t])
    gk, gv = np.empty_like(k), np.empty_like(k)
    ga, gb = (np.zeros_like(w) for _ in range(2))
    for t in reversed(range(len(k))):
        past, present = np.exp(k[t]), np.exp(u + k[t])
        out, scaled = (a[t] + present * v[t]) / (b[t] + present), g[t] / (b[t] + present)
        gv[t] = scaled * present + ga * past
        gk[t] = scaled * present * (v[t] - out) + past * (ga * v[t] + gb)
        ga, gb = np.exp(w) * ga + scaled, np.exp(w) * gb - scaled * out
    return gk, gv


def wkv5_gradient(
    r: np.ndarray, k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The gradients of `wkv5`: (r, k, v, w), each (T, H, N), also where w is the same for all tokens."""
    w, u = np.broadcast_to(w, k.shape), np.broadcast_to(u, k.shape[1:])
    pairs = np.einsum("thi,thj->thij", k, v)
    memories = [np.zeros_like(pairs[0])]
    for t in range(len(k) - 1):
        memories.append(w[t, :, :, None] * memories[t] + pairs[t])
    gr, gk, gv, gw = (np.empty_like(k) for _ in range(4))
    G = np.zeros_like(pairs[0])
    for t in reversed(range(len(k))):
        S, outer = memories[t], np.einsum("hi,hj->hij", r[t], g[t])  # outer: with respect to what r reads
        gr[t] = np.einsum("hij,hj->hi", S + u[:, :, None] * pairs[t], g[t])
        gk[t] = np.einsum("hij,hj->hi", G + u[:, :, None] * outer, v[t])
        gv[t] = np.einsum("hij,hi->hj", G + u[:, :, None] * outer, k[t])
        gw[t] = (G * S).sum(-1)
        G = w[t, :, :, None] * G + outer
    return gr, gk, gv, gw


def wkv7_gradient(
    r: np.ndarray, w: np.ndarray, k: np.ndarray, v: np.ndarray, kk: np.ndarray, a: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The gradients of `wkv7`: (r, w, k, v, kk, a)."""
    memories = [np.zeros((*k.shape[1:], k.shape[2]), k.dtype)]
    for t in range(len(k)):
        memories.append(_after7(memories[t], *(x[t] for x in (w, k, v, kk, a))))
    gr, gw, gk, gv, gkk, ga = gradients = tuple(np.empty_like(k) for _ in range(6))
    G = np.zeros_like(memories[0])
    for t in reversed(range(len(k))):
        S, G = memories[t], G + np.einsum("hi,hj->hij", r[t], g[t])
        found = np.einsum("hi,hij->hj", kk[t], S)
        gr[t] = np.einsum("hij,hj->hi", memories[t + 1], g[t])
        gk[t], gv[t] = np.einsum("hij,hj->hi", G, v[t]), np.einsum("hij,hi->hj", G, k[t])
        gw[t] = (G * S).sum(-1)
        g_erased, g_found = -np.einsum("hij,hj->hi", G, found), -np.einsum("hij,hi->hj", G, kk[t] * a[t])
        gkk[t] = a[t] * g_erased + np.einsum("hij,hj->hi", S, g_found)
        ga[t] = kk[t] * g_erased
        G = w[t][:, :, None] * G + np.einsum("hi,hj->hij", kk[t], g_found)
    return gradients


def _after7(S: np.ndarray, w: np.ndarray, k: np.ndarray, v: np.ndarray, kk: np.ndarray, a: np.ndarray) -> np.ndarray:
    """RWKV-7's memory after a token."""
    found = np.einsum("hi,hij->hj", kk, S)
    return w[:, :, None] * S - np.einsum("hi,hj->hij", kk * a, found) + np.einsum("hi,hj->hij", k, v)

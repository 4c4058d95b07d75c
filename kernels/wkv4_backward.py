"""RWKV-4's recurrence with its gradient, from an empty state: for calibration, which looks back from the loss.

The forward direction keeps the state before each token. As in `equations.wkv4`, a and b are stored divided by e^p,
where p is the largest exponent so far. In the same way the gradients ga and gb, which flow backwards through a and b,
are stored multiplied by e^s, where s is the largest -p of the later tokens. So no exponential in either direction
exceeds 1.

A call works on one sequence in one thread without Python's lock: sequences are shared out among threads.

Reference: `equations.wkv4`, `gradients.wkv4_gradient`.
"""

from __future__ import annotations

import math

import numpy as np
from rwkv_np.kernels.cache import jit

NEVER = np.float32(-1e30)  # the exponent of an empty sum

_jit = jit(nogil=True, error_model="numpy")


def forward(k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The output (T, C), and what `backward` needs: a, b, p before each token, (T, 3, C).

    Shapes   k, v (T, C), contiguous; w, u (C,); all of one float type
    """
    out, states = np.empty_like(k), np.empty((len(k), 3, k.shape[1]), k.dtype)
    _forward(k, v, w, u, out, states)
    return out, states


def backward(
    k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray, out: np.ndarray, states: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients with respect to k and v, from `g`, that with respect to the output; all (T, C)."""
    gk, gv = np.empty_like(k), np.empty_like(k)
    _backward(k, v, w, u, out, states, np.ascontiguousarray(g), gk, gv)
    return gk, gv


@_jit
def _weigh(past, present):
    """(e^(past - q), e^(present - q), q) where q is the larger: one of them is 1."""
    fading = math.exp(-abs(past - present))
    if past >= present:
        return past * 0 + 1, fading, past
    return fading, past * 0 + 1, present


@_jit
def _forward(k, v, w, u, out, states):
    n_tokens, n_channels = k.shape
    states[0, :2], states[0, 2] = 0, NEVER
    for t in range(n_tokens):
        for c in range(n_channels):
            a, b, p = states[t, 0, c], states[t, 1, c], states[t, 2, c]
            past, present, _ = _weigh(p, u[c] + k[t, c])
            out[t, c] = (past * a + present * v[t, c]) / (past * b + present)
            if t + 1 < n_tokens:
                past, present, q = _weigh(p + w[c], k[t, c])
                states[t + 1, 0, c] = past * a + present * v[t, c]
                states[t + 1, 1, c] = past * b + present
                states[t + 1, 2, c] = q


@_jit
def _backward(k, v, w, u, out, states, g, gk, gv):
    n_tokens, n_channels = k.shape
    later = np.zeros((3, n_channels), k.dtype)  # ga, gb, s
    later[2] = NEVER
    for t in range(n_tokens - 1, -1, -1):
        for c in range(n_channels):
            ga, gb, s = later[0, c], later[1, c], later[2, c]
            # === Write: the effect of this token's k and v on later tokens === #
            written = math.exp(k[t, c] + s)
            # === Read: this token's own output === #
            past, present, q = _weigh(states[t, 2, c], u[c] + k[t, c])
            scaled = g[t, c] / (past * states[t, 1, c] + present)
            gk[t, c] = written * (ga * v[t, c] + gb) + scaled * present * (v[t, c] - out[t, c])
            gv[t, c] = written * ga + scaled * present
            # === Step back === #
            fade, fresh, s = _weigh(w[c] + s, -q)
            later[0, c] = fade * ga + fresh * scaled
            later[1, c] = fade * gb - fresh * scaled * out[t, c]
            later[2, c] = s

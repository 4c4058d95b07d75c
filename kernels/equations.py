"""The equations of RWKV in plain NumPy: what every kernel is tested against.

Each is written once. Tests call it with float64 arrays, and a kernel must be as close as float32
allows. The NumPy graphs (`rwkv_np/models/`) call it with float32 arrays; read them beside the
papers. It does not import Numba, so converting a file does not wait for that import.

Shapes: x is (T, C), T tokens of C channels. Letters are those of the papers.
"""

from __future__ import annotations

import numpy as np

EPSILON = 1e-5  # torch's default for a layer norm, which RWKV was trained with
HEAD_EPSILON = 64e-5  # of the norm of a head, whatever its size


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x (..., C) with mean 0 and variance 1 over the channels, then scaled and shifted."""
    x = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(x).mean(axis=-1, keepdims=True)
    return x / np.sqrt(variance + x.dtype.type(EPSILON)) * weight + bias


def token_shift(x: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The token before each: `last` (C,), then all rows of x (T, C) except the last."""
    return np.concatenate([last[None], x[:-1]])


def mix(x: np.ndarray, before: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`share` of x plus the rest of the token before, channel by channel."""
    return x * share + before * (1 - share)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), computed from tanh, which cannot overflow."""
    half = x.dtype.type(0.5)
    return half * (1 + np.tanh(half * x))


def squared_relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)²"""
    return np.square(np.maximum(x, 0))


def wkv4(k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray, state: np.ndarray) -> np.ndarray:
    """RWKV-4's weighted average of past values v, by keys k that decay by e^w per token.

    a and b are stored divided by e^p, where p is the largest exponent so far, so that no exponential
    here exceeds 1, however large the keys are.

    Shapes   k, v (T, C); w, u (C,); state (3, C) = a, b, p, changed in place; returns (T, C)
    Source   "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048, appendix D
    """
    a, b, p = state
    out = np.empty_like(k)
    for t in range(len(k)):
        # === Read: the past, and the present with its bonus u === #
        q = np.maximum(p, u + k[t])
        past, present = np.exp(p - q), np.exp(u + k[t] - q)
        out[t] = (past * a + present * v[t]) / (past * b + present)
        # === Decay and write === #
        q = np.maximum(p + w, k[t])
        past, present = np.exp(p + w - q), np.exp(k[t] - q)
        a, b, p = past * a + present * v[t], past * b + present, q
    state[:] = a, b, p
    return out


def lerp(x: np.ndarray, before: np.ndarray, share: np.ndarray) -> np.ndarray:
    """x, moved by `share` towards the token before: the mix of RWKV-6 and 7. (In `mix`, `share` is that of x.)"""
    return x + (before - x) * share


def group_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float = HEAD_EPSILON) -> np.ndarray:
    """x (T, H, N), each head with mean 0 and variance 1; weight and bias (H, N)."""
    x = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(x).mean(axis=-1, keepdims=True)
    return x / np.sqrt(variance + x.dtype.type(epsilon)) * weight + bias


def unit_length(x: np.ndarray) -> np.ndarray:
    """x (..., N) divided by its length; a vector of zeros stays zero."""
    length = np.sqrt(np.square(x).sum(axis=-1, keepdims=True))
    return x / np.maximum(length, x.dtype.type(1e-12))


def decay7(w: np.ndarray) -> np.ndarray:
    """RWKV-7's decay of a token, e^(-0.606531 sigmoid(w)), where 0.606531 is e^-0.5: between 0.545 and 1."""
    return np.exp(w.dtype.type(-0.606531) * sigmoid(w))


def wkv7(
    r: np.ndarray, w: np.ndarray, k: np.ndarray, v: np.ndarray, kk: np.ndarray, a: np.ndarray, state: np.ndarray
) -> np.ndarray:
    """RWKV-7's memory S, a matrix from keys to values: decay it, partly replace its value for kk, read it with r.

    Shapes   all (T, H, N), kk of length 1; state (H, N, N), [key][value], changed in place; returns (T, H, N)
    Source   RWKV-7 "Goose", arXiv 2503.14456; BlinkDL/RWKV-LM RWKV-v7/rwkv_v7_numpy.py, whose S is transposed
    """
    out = np.empty_like(v)
    for t in range(len(r)):
        # === Decay, replace, write === #
        found = kk[t][:, None] @ state  # (H, 1, N), the old S's value for kk
        fading, erased = w[t][:, :, None] * state, (kk[t] * a[t])[:, :, None] * found
        state[:] = fading - erased + k[t][:, :, None] * v[t][:, None]
        # === Read === #
        out[t] = (r[t][:, None] @ state)[:, 0]
    return out


def silu(x: np.ndarray) -> np.ndarray:
    """x sigmoid(x)"""
    return x * sigmoid(x)


def wkv5(r: np.ndarray, k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray, state: np.ndarray) -> np.ndarray:
    """RWKV-5's and RWKV-6's memory: S, a matrix per head, decays by w and gets k vT; r reads it.

    The output for a token reads S before its own pair k vT is added, plus that pair with the bonus u.

    Shapes   r, k, v (T, H, N); w (H, N) or, in RWKV-6, (T, H, N); u (H, N); w or u may be (H, 1);
             state (H, N keys, N values), changed in place; returns (T, H, N)
    Source   "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence", arXiv 2404.05892
    """
    w, u = np.broadcast_to(w, k.shape)[..., None], np.broadcast_to(u, k.shape[1:])[..., None]
    out = np.empty_like(v)
    for t in range(len(k)):
        kv = k[t][:, :, None] * v[t][:, None, :]  # (H, N, N)
        # === Read: the past, and the present with its bonus u === #
        out[t] = np.matmul(r[t][:, None, :], state + u * kv)[:, 0]
        # === Decay and write === #
        state[:] = w[t] * state + kv
    return out

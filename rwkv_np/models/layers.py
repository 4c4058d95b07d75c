"""The layers that every RWKV shares, in NumPy: x is (T, C) float32, T tokens of C channels.

`Linear` keeps its weights as they lie in the mapped file and decodes a few thousand rows at
a time, so a matrix of any type costs a few MB of memory, whatever its size.
"""

from __future__ import annotations

import numpy as np

from rwkv_np.files.parameter import Parameter


class Linear:
    """y = x Wᵀ for a parameter W (n_out, n_in) of any data type: (..., n_in) -> (..., n_out)."""

    def __init__(self, weight: Parameter) -> None:
        self.weight = weight

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = np.empty((*x.shape[:-1], self.weight.shape[0]), np.float32)
        for rows, w in self.weight.chunks():
            np.matmul(x, w.T, out=y[..., rows])
        return y


class Embedding:
    """Rows of a parameter (vocab_size, C); only the rows asked for are ever read from the file."""

    def __init__(self, weight: Parameter) -> None:
        self.weight = weight

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        return self.weight.rows(tokens)


class LayerNorm:
    """Mean 0 and variance 1 over the channels, then scale and shift."""

    def __init__(self, weight: Parameter, bias: Parameter) -> None:
        self.weight = weight.array()
        self.bias = bias.array()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(x).mean(axis=-1, keepdims=True)
        return x / np.sqrt(variance + np.float32(1e-5)) * self.weight + self.bias


def token_shift(x: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Each token's predecessor: `last` (C,), then all rows of x (T, C) but the final one."""
    return np.concatenate([last[None], x[:-1]])


def mix(x: np.ndarray, before: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`share` of x and the rest of its predecessor, channel by channel."""
    return x * share + before * (1 - share)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), by way of tanh, which cannot overflow."""
    return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))


def squared_relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)²"""
    return np.square(np.maximum(x, 0))

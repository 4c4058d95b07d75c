"""The layers that all RWKV versions share, on parameters of a file: x is (T, C) float32.

`Linear` leaves its weights in the file, and reads and decodes a few thousand rows at a time, so a
matrix of any type takes a few MB of memory, whatever its size. The equations are those of
`kernels/equations.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rwkv_np.files.parameter import Parameter
from rwkv_np.kernels.equations import layer_norm, sigmoid, squared_relu, token_shift


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
    """Rows of a parameter (vocab_size, C); only the requested rows are read from the file."""

    def __init__(self, weight: Parameter) -> None:
        self.weight = weight

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        return self.weight.chosen(tokens)


class LayerNorm:
    """Mean 0 and variance 1 over the channels, then scale and shift."""

    def __init__(self, weight: Parameter, bias: Parameter) -> None:
        self.weight = weight.array()
        self.bias = bias.array()

    @classmethod
    def of(cls, get: Mapping[str, Parameter], name: str) -> LayerNorm:
        """The layer norm called `name`, such as "blocks.0.ln1"."""
        return cls(get[f"{name}.weight"], get[f"{name}.bias"])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return layer_norm(x, self.weight, self.bias)


class GatedChannelMix:
    """The feed-forward layer of RWKV-4 to 6, with a squared ReLU and a gate.

    share    the prefix of the names of the shares: "time_mix", "time_maa"
    mixed    how they are applied: `equations.mix` or `equations.lerp`
    """

    def __init__(
        self,
        get: Mapping[str, Parameter],
        prefix: str,
        share: str,
        mixed: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    ) -> None:
        self.share_k, self.share_r = (get[f"{prefix}.{share}_{c}"].array() for c in "kr")
        self.mixed = mixed
        self.key, self.value, self.receptance = (
            Linear(get[f"{prefix}.{name}.weight"]) for name in ("key", "value", "receptance")
        )

    def __call__(self, x: np.ndarray, last: np.ndarray) -> np.ndarray:
        """x (T, C) -> (T, C); `last` (C,) is changed in place."""
        before = token_shift(x, last)
        r = sigmoid(self.receptance(self.mixed(x, before, self.share_r)))
        k = squared_relu(self.key(self.mixed(x, before, self.share_k)))  # (T, F)
        last[:] = x[-1]
        return r * self.value(k)

"""Choose a token as the original programs do on a CPU, with this project's kernel.

The original samplers sort all probabilities and pass them to `numpy.random.choice`: 5 ms for the World vocabulary,
while a small model takes 3 ms per token. The kernel takes 0.1 ms. It lays the probabilities end to end in the order of
ids and uses one random number, as `numpy.random.choice` does. That number also comes from `numpy.random`, so
`numpy.random.seed` gives the same tokens as with the originals, except where rounding decides.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from rwkv_np import arguments
from rwkv_np.compat.array import plain
from rwkv_np.sampling import choices

_NO_BIAS = np.empty(0, np.int64), np.empty(0, np.float32)
_NONE_SAID = np.empty(0, np.int64), np.empty(0)


@functools.lru_cache(64)
def _settings(temperature: float, top_p: float, top_k: int) -> np.ndarray:
    from rwkv_np.kernels.sample import settings_row  # imports numba

    arguments.number("temperature", temperature, 0, math.inf)
    arguments.number("top_p", top_p, -math.inf, math.inf)
    return settings_row(temperature, min(max(top_p, 0.0), 1.0), max(top_k, 0), 0.0, 0.0, 0.0)


def choose(logits: object, temperature: float, top_p: float, top_k: int = 0) -> int:
    """A token, chosen with top-p and top-k; temperature 0 takes the most likely.

    logits  (V,), an array or a tensor; not changed
    Raises  InputError: no logit is finite, one is NaN, or temperature is negative
    """
    from rwkv_np.kernels import sample

    x = plain(logits).astype(np.float32, copy=False)
    settings = _settings(float(temperature), float(top_p), int(top_k)).copy()
    settings["number"] = np.random.random_sample()
    token = sample.choose(x, settings, _NO_BIAS, _NONE_SAID)
    if token < 0:
        choices(x)  # raises the reason
        raise AssertionError("the kernel found no token, but the reference does")
    return token

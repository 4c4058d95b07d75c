"""`sampling` of rwkv.cpp's scripts: a token from logits or from probabilities.

As in rwkv.cpp, top-p 0 keeps every token. Random numbers come from `numpy.random`.

Source: rwkv.cpp, python/sampling.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rwkv_np.compat import choosing
from rwkv_np.compat.array import plain
from rwkv_np.errors import InputError
from rwkv_np.sampling import add_bias


def sample_logits(
    out: object, temperature: float = 1.0, top_p: float = 0.8, logit_bias: Mapping[int, float] | None = None
) -> int:
    """A token from logits (V,), which are not changed. Temperature 0 takes the most likely.

    Raises InputError (a ValueError): a number is out of range, or no logit is finite
    """
    if not temperature >= 0:
        raise InputError(f"temperature is {temperature}; expected 0 or more")
    if not 0 <= top_p <= 1:
        raise InputError(f"top_p is {top_p}; expected 0 to 1")
    logits = add_bias(plain(out), logit_bias or {})
    return choosing.choose(logits, temperature, top_p or 1.0)


def sample_probs(
    probs: object, temperature: float = 1.0, top_p: float = 0.8, logit_bias: Mapping[int, float] | None = None
) -> int:
    """The same from probabilities (V,)."""
    with np.errstate(divide="ignore"):
        return sample_logits(np.log(plain(probs)), temperature, top_p, logit_bias)

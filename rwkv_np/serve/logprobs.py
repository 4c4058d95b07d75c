"""Log probabilities of tokens, from the model's own logits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rwkv_np.serve.request import Logprob


def logprob_of(logits: np.ndarray, token: int, top: int) -> Logprob:
    """The log probability of `token` from logits (V,), and the `top` most likely tokens; among equals, the lower id
    first."""
    shifted = logits - logits.max()
    values = shifted - np.log(np.exp(shifted).sum(dtype=np.float64)).astype(np.float32)
    return Logprob(token, float(values[token]), tuple((i, float(values[i])) for i in _largest(values, top)))


def of_prompt(logits: np.ndarray, tokens: Iterable[int], top: int) -> list[Logprob]:
    """The log probabilities of `tokens`, each from its row of logits (T, V)."""
    return [logprob_of(row, token, top) for row, token in zip(logits, tokens)]


def _largest(values: np.ndarray, n: int) -> list[int]:
    if not n:
        return []
    edge = np.partition(values, values.size - n)[values.size - n] if n < values.size else -np.inf
    found = np.flatnonzero(values >= edge)
    order = np.lexsort((found, -values[found]))[:n]
    return [int(i) for i in found[order]]

"""The scores of a prediction, and the divergence of two: pure functions on arrays of logits.

For each position a model gives a distribution over V tokens; p is that of the base, q that of the
model compared with it, and y the token that followed in the text:

    negative log-likelihood   -ln q(y)
    KL divergence             sum over v of p(v) (ln p(v) - ln q(v)), >= 0, and 0 where both agree
    change of probability     q(y) - p(y)
    same top                  whether p and q have their maximum at the same token (of equal values, the first)

Everything is computed in float64. The KL divergence of FP16 from FP32 is about 1e-7, a sum of terms of
1e-4 that cancel: in float32 it would be lost. It takes 0.25 ms per position at V = 50277, less than
any model needs to read a token, so it has no kernel. Rows are processed a few at a time, so that the
intermediate arrays fit into the cache, and by several threads.

Source: the definitions of llama.cpp's `llama-perplexity --kl-divergence`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

BLOCK = 2**20  # logits that a thread processes at once: 8 MB in float64


class Scores(NamedTuple):
    """One model over N positions; `kl` and `same_top` compare with the base.

    nll  (N,) float64        p_right  (N,) float64, the probability of the token that followed
    kl   (N,) float64        same_top (N,) bool
    """

    nll: np.ndarray
    p_right: np.ndarray
    kl: np.ndarray
    same_top: np.ndarray


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities: (N, V) of any float type -> (N, V) float64."""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def negative_log_likelihood(log_probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-ln q(y): log-probabilities (N, V) and the tokens that followed (N,) -> (N,)."""
    return -log_probs[np.arange(len(targets)), targets]


def kl_divergence(base: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """KL(p || q) in nats, from log-probabilities (N, V) of the base p and of q -> (N,).

    Where both agree, rounding may give a sum of about -1e-16, which becomes 0.
    """
    return np.maximum(np.einsum("nv,nv->n", np.exp(base), base - log_probs), 0)


def score(rows: Sequence[np.ndarray], targets: np.ndarray) -> list[Scores]:
    """Logits (N, V) of several models, the base first, and the tokens that followed (N,): a Scores for each model."""
    n_rows = max(1, BLOCK // rows[0].shape[1])
    parts = [slice(start, start + n_rows) for start in range(0, len(targets), n_rows)]
    # NumPy releases the GIL in all slow operations here.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        blocks = list(pool.map(lambda part: _score_block([row[part] for row in rows], targets[part]), parts))
    return [Scores(*map(np.concatenate, zip(*of_one))) for of_one in zip(*blocks)]


def _score_block(rows: list[np.ndarray], targets: np.ndarray) -> list[Scores]:
    base, base_top = log_softmax(rows[0]), rows[0].argmax(axis=1)
    found = []
    for i, logits in enumerate(rows):
        log_probs = log_softmax(logits) if i else base
        nll = negative_log_likelihood(log_probs, targets)
        kl = kl_divergence(base, log_probs) if i else np.zeros(len(targets))
        found.append(Scores(nll, np.exp(-nll), kl, logits.argmax(axis=1) == base_top))
    return found

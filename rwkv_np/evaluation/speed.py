"""How fast a model reads token by token (decoding), and a prompt; with the memory bandwidth for comparison.

Decoding reads every weight once per token, except those of inactive channels (`models/activity.py`), so its limit is
bandwidth / bytes. Right before each timing the bandwidth is measured on the same bytes that the model reads, and the
reported share is the median of these pairs, because the memory speed of a shared machine changes all the time. A model
that fits into the processor's cache is compared with the cache's speed, and its share is low.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rwkv_np.kernels.bandwidth import read_rate
from rwkv_np.models.engine import Engine

PAGE = 4096


@dataclass(frozen=True)
class Decoding:
    """Pairs of measurements: seconds per token, and the memory bandwidth in bytes per second measured right before.

    n_bytes_per_token  bytes of weights that a token really reads
    """

    seconds: list[float]
    rates: list[float]
    n_bytes_per_token: int

    @property
    def tokens_per_s(self) -> float:
        return 1 / float(np.median(self.seconds))

    @property
    def bandwidth(self) -> float:
        """Median bytes per second."""
        return float(np.median(self.rates))

    @property
    def share(self) -> float:
        """Share of the bandwidth that decoding uses: 1 is the limit."""
        pairs = zip(self.seconds, self.rates)
        return float(np.median([self.n_bytes_per_token / s / rate for s, rate in pairs]))


def seconds(call: Callable[[], object]) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_seconds(call: Callable[[], object], repeat: int = 7) -> float:
    """The median of several calls, after one to warm up."""
    call()
    return float(np.median([seconds(call) for _ in range(repeat)]))


def decode(model: Engine, pairs: int = 15, tokens: int = 4) -> Decoding:
    """Read `tokens` one by one after each measurement of the bandwidth."""
    weights = model.weights[: max(1, model.weights.size // PAGE) * PAGE]
    n_vocab = model.config.vocab_size
    taken, rates = [], []
    state = model.initial_state()
    model.advance([token % n_vocab for token in (1, 2, 3)], state)
    for i in range(pairs):
        rates.append(read_rate(weights, model.n_threads))
        steps = []
        for token in range(tokens):
            start = time.perf_counter()
            model.advance((tokens * i + token) % n_vocab, state)
            steps.append(time.perf_counter() - start)
        taken.append(float(np.median(steps)))
    activity = model.activity()
    return Decoding(taken, rates, round(activity.bytes_read) if activity else model.n_bytes_per_token)


def prefill(model: Engine, n_tokens: int, repeat: int = 5) -> float:
    """Tokens per second of a prompt of random ids."""
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, n_tokens)
    return n_tokens / median_seconds(lambda: model.forward(tokens), repeat)

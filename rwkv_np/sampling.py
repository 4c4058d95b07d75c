"""Choose the next token: pure functions on logits, and the one object that keeps count.

The order is that of RWKV programs: bias and penalties change the logits; top-p, top-k and
min-p cut the probabilities; the temperature comes last. (Elsewhere it comes first, so the
same settings cut more here.) Text is not known here: stop strings are `completion.py`'s.

Source: the sampler of the official `rwkv` package, with which the tests compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rwkv_np.errors import InputError


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens, and when to stop.

    temperature        1 takes the model's probabilities, less is more certain, 0 takes the best token
    top_p              keep the most likely tokens that together have this probability; 1 keeps all
    top_k              keep this many; 0 keeps all
    min_p              keep those at least this likely, as a share of the most likely; 0 keeps all
    presence_penalty   taken off the logit of every token that has been chosen
    frequency_penalty  taken off once more for each time it has been
    penalty_decay      what is left of those times after each further token
    seed               makes the choice repeatable; None does not
    logit_bias         token id -> what is added to its logit (-inf bans it)
    not_first          token ids that a text may not begin with: an answer should not begin by ending
    stop               strings that end the text; never part of it
    stop_ids           token ids that end it (0 is RWKV's end of text)
    max_tokens         how many tokens to choose at most
    """

    temperature: float = 1.0
    top_p: float = 0.5
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.2
    frequency_penalty: float = 0.2
    penalty_decay: float = 0.996
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    not_first: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = (0,)
    max_tokens: int = 512

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; expected {low:g} to {high:g}")
        if isinstance(self.stop, str) or "" in self.stop:
            raise InputError(f"stop is {self.stop!r}; expected a sequence of strings, none of them empty")


# Those that a person sets; the others belong to a model or to a program.
SETTINGS = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "penalty_decay", "seed",
    "max_tokens",
)  # fmt: skip

_RANGES = (
    ("temperature", 0, 100),
    ("top_p", 0, 1),
    ("top_k", 0, 2**31),
    ("min_p", 0, 1),
    ("presence_penalty", -100, 100),
    ("frequency_penalty", -100, 100),
    ("penalty_decay", 0, 1),
    ("max_tokens", 0, 2**31),
)


def add_bias(logits: np.ndarray, bias: Mapping[int, float]) -> np.ndarray:
    """logits (V,) with `bias` added to the ids that it names. InputError where one is out of range."""
    if not bias:
        return logits
    if outside := [token for token in bias if not 0 <= token < logits.size]:
        raise InputError(f"logit_bias names token id {outside[0]}; this model's ids are 0 to {logits.size - 1}")
    logits = logits.copy()
    logits[list(bias)] += np.array(list(bias.values()), logits.dtype)
    return logits


def penalize(
    logits: np.ndarray, counts: Mapping[int, float], presence: float, frequency: float
) -> np.ndarray:
    """logits (V,) less `presence` and `frequency` x count for each token in `counts`."""
    if not counts:
        return logits
    logits = logits.copy()
    logits[list(counts)] -= presence + frequency * np.array(list(counts.values()), logits.dtype)
    return logits


def probabilities(
    logits: np.ndarray, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be chosen, most likely first, and the probability of each.

    Returns (ids, probabilities), float64 that sum to 1. InputError where no logit is finite or one is NaN.
    """
    largest = logits.max()
    if not np.isfinite(largest):
        raise InputError(f"the largest logit is {largest}: the model file is damaged, or every token is banned")
    if temperature == 0:
        return np.array([logits.argmax()]), np.ones(1)
    p = np.exp(logits.astype(np.float64) - largest)
    p /= p.sum()
    ids = _most_likely(p, top_p, top_k)
    p = p[ids]
    # Tokens as likely as the last one in stay too, as in the official sampler.
    kept = p >= max(_nucleus_edge(p, top_p), min_p * p[0])
    if top_k:
        kept[top_k:] = False
    ids, p = ids[kept], p[kept]
    p = (p / p[0]) ** (1 / temperature)
    return ids, p / p.sum()


def _most_likely(p: np.ndarray, top_p: float, top_k: int) -> np.ndarray:
    """Ids of all tokens that top-p could keep, most likely first.

    Sorting 50,000 numbers takes longer than a small model takes for a token. Those below
    (1 - top_p) / V add up to less than 1 - top_p, so that the nucleus is full before them.
    """
    candidates = np.flatnonzero(p >= (1 - top_p) / p.size * 0.999)
    if 0 < top_k < candidates.size:
        edge = np.partition(p[candidates], -top_k)[-top_k]
        candidates = candidates[p[candidates] >= edge]
    return candidates[np.argsort(-p[candidates], kind="stable")]


def _nucleus_edge(p: np.ndarray, top_p: float) -> float:
    """The probability of the last token that is needed to reach `top_p`; p is in falling order."""
    reached = np.cumsum(p) >= top_p
    return float(p[reached.argmax()]) if reached.any() else 0.0


class Sampler:
    """Chooses tokens one after another, keeping the counts of the penalties and the random state.

    said  tokens of the text that is being continued: they count as chosen
    """

    def __init__(self, params: SamplingParams, said: Iterable[int] = ()) -> None:
        self.params = params
        self._bias = {**params.logit_bias, **dict.fromkeys(params.not_first, -np.inf)}
        self._counts: dict[int, float] = {}
        self._random = np.random.default_rng(params.seed)
        for token in said:
            self._count(token)

    def choose(self, logits: np.ndarray) -> int:
        """The next token id, given the logits (V,) for it."""
        p = self.params
        logits, self._bias = add_bias(logits, self._bias), dict(p.logit_bias)  # the first is behind us
        logits = penalize(logits, self._counts, p.presence_penalty, p.frequency_penalty)
        ids, weights = probabilities(logits, p.temperature, p.top_p, p.top_k, p.min_p)
        token = int(ids[np.searchsorted(np.cumsum(weights), self._random.random(), "right").clip(0, ids.size - 1)])
        self._count(token)
        return token

    def _count(self, token: int) -> None:
        self._counts = {t: n * self.params.penalty_decay for t, n in self._counts.items()}
        self._counts[token] = self._counts.get(token, 0.0) + 1

"""How the next token is chosen: the settings, and pure functions of logits.

The functions are the reference, in NumPy, and sort all logits. `sampler.py` chooses the same tokens with a kernel.

The order is that of RWKV programs: bias and penalties change the logits; top-p, top-k and min-p cut the probabilities;
the temperature is applied last. (Other programs apply it first, so the same settings cut more here.) Stop strings are
handled in `completion.py`.

Source: the sampler of the official `rwkv` package; the tests compare with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from rwkv_np import arguments
from rwkv_np.errors import InputError
from rwkv_np.kernels.weights import LOG2_E, scale_of, weights


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens, and when to stop.

    temperature        1 uses the model's probabilities, less is more certain, 0 takes the most likely token
    top_p              keep the most likely tokens that together have this probability; 1 keeps all
    top_k              keep this many; 0 keeps all
    min_p              keep those at least this likely, as a share of the most likely; 0 keeps all
    presence_penalty   subtracted from the logit of every token that has been chosen
    frequency_penalty  subtracted once for each time that the token has been chosen
    penalty_decay      factor applied to these counts after each further token
    seed               makes the choice reproducible; None does not
    logit_bias         token id -> number added to its logit (-inf bans it)
    not_first          token ids that may not be the first of a text: an answer should not end at its start
    stop               strings that end the text; not part of it
    stop_ids           token ids that end it (0 is RWKV's end of text)
    max_tokens         the most tokens to choose
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
            arguments.number(name, getattr(self, name), low, high)
        for name, low in _WHOLE:
            arguments.whole_number(name, getattr(self, name), low, 2**31)
        if self.seed is not None:
            arguments.whole_number("seed", self.seed, 0)
        for name in ("not_first", "stop_ids"):
            for token in _members(name, getattr(self, name)):
                arguments.whole_number(f"a token id in {name}", token, 0, 2**31)
        for text in _members("stop", self.stop):
            if not isinstance(text, str) or not text:
                raise InputError(f"stop is {arguments.shown(self.stop)}; expected strings, none of them empty")
        for token, value in arguments.one_of("logit_bias", self.logit_bias, Mapping, "a mapping").items():
            arguments.logit_change(token, value)


# The settings of a user; the others belong to a model or to a program.
SETTINGS = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "penalty_decay", "seed",
    "max_tokens",
)  # fmt: skip

_RANGES = (
    ("temperature", 0, 100),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("presence_penalty", -100, 100),
    ("frequency_penalty", -100, 100),
    ("penalty_decay", 0, 1),
)
_WHOLE = (("top_k", 0), ("max_tokens", 1))


def _members(name: str, values: object) -> Collection[object]:
    """The items of a collection. Raises InputError if it is not one, or is a string."""
    if not isinstance(values, Collection) or isinstance(values, (str, bytes, Mapping)):
        raise InputError(f"{name} is {arguments.shown(values)}; expected a tuple")
    return values


def add_bias(logits: np.ndarray, bias: Mapping[int, float]) -> np.ndarray:
    """logits (V,) with `bias` added to its token ids. Raises InputError if an id is out of range."""
    if not bias:
        return logits
    if outside := [token for token in bias if not 0 <= token < logits.size]:
        raise InputError(f"logit_bias names token id {outside[0]}; this model's ids are 0 to {logits.size - 1}")
    logits = logits.copy()
    logits[list(bias)] += np.array(list(bias.values()), logits.dtype)
    return logits


def penalize(logits: np.ndarray, counts: Mapping[int, float], presence: float, frequency: float) -> np.ndarray:
    """logits (V,) minus `presence` and `frequency` x count for each token in `counts`.

    Raises InputError: a token is not in the vocabulary
    """
    if not counts:
        return logits
    if outside := [token for token in counts if not 0 <= token < logits.size]:
        raise InputError(f"token id {outside[0]} was used; this model's ids are 0 to {logits.size - 1}")
    logits, kind = logits.copy(), logits.dtype.type
    logits[list(counts)] -= kind(presence) + kind(frequency) * np.array(list(counts.values()), logits.dtype)
    return logits


def choices(
    logits: np.ndarray, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be chosen, most likely first, and their weights (kernels/weights.py): int64 both.

    Tokens are ordered by logit, the largest first; equal logits are ordered by id, the lowest first. top-p keeps the
    most likely tokens until their weights at temperature 1 are at least ceil(top_p x all weights), and also all that
    are as likely as the last of these. min-p keeps the tokens whose logit is at most log(1 / min_p) below the largest.
    top-k cuts the rest after the first top_k, even among equals. A banned token (-inf) is never kept. Temperature 0
    keeps only the most likely.

    Raises InputError: no logit is finite, or one is NaN or inf
    """
    largest = float(logits.max())
    if not math.isfinite(largest):
        raise InputError(
            f"the largest logit is {largest}: the model file is damaged, or the state from which it continues "
            "(--state, a saved chat), or every token is banned"
        )
    if temperature == 0:
        return np.array([logits.argmax()]), np.ones(1, np.int64)
    ids = np.argsort(-logits, kind="stable")
    x = logits[ids].astype(np.float64)
    kept = x > -np.inf
    if top_p < 1:
        kept &= x >= _nucleus_edge(x, weights(x, largest, LOG2_E), top_p)
    if min_p:
        kept &= x - largest >= math.log(min_p)
    n = min(np.count_nonzero(kept), top_k or x.size)
    return ids[:n], weights(x[:n], largest, scale_of(temperature))


def _nucleus_edge(x: np.ndarray, w: np.ndarray, top_p: float) -> float:
    """The logit of the last token that is needed to reach `top_p`; x is in descending order."""
    reached = np.cumsum(w)
    return float(x[np.searchsorted(reached, math.ceil(top_p * float(reached[-1])))])


def probabilities(
    logits: np.ndarray, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be chosen, most likely first (`choices`), and the probability of each.

    Returns (ids, probabilities); these are float64 and sum to 1. Raises InputError if no logit is finite or one is NaN.
    """
    ids, w = choices(logits, temperature, top_p, top_k, min_p)
    return ids, w / w.sum()


def draw(ids: np.ndarray, w: np.ndarray, number: float) -> int:
    """The token that a random number in [0, 1) chooses.

    All weights, laid end to end in ascending order of ids, are a row of units, and the number selects unit floor(number
    x all weights). (Ascending ids need no sort, so kernels/sample.py does not sort.)
    """
    order = np.argsort(ids)
    reached = np.cumsum(w[order])
    unit = min(int(number * float(reached[-1])), int(reached[-1]) - 1)
    return int(ids[order[np.searchsorted(reached, unit, "right")]])

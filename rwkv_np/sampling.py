"""Choose the next token: pure functions of logits, and one object that keeps counts.

The functions are the reference, in NumPy, and sort all logits. The object uses a kernel (kernels/sample.py), which
picks the same token for the same random number; the tests compare the two.

The order is that of RWKV programs: bias and penalties change the logits; top-p, top-k and min-p cut the probabilities;
the temperature is applied last. (Other programs apply it first, so the same settings cut more here.) Stop strings are
handled in `completion.py`.

Source: the sampler of the official `rwkv` package; the tests compare with it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

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


def _checked_logits(logits: object, n_dimensions: int) -> np.ndarray:
    """Logits as an array of float32. Raises InputError: not real numbers, or the wrong number of dimensions."""
    try:
        found = np.asarray(logits)
    except Exception as error:  # rows of several lengths, and whatever a foreign object's __array__ raises
        raise InputError(f"logits are {arguments.shown(logits)}; expected an array of float32") from error
    if found.dtype.kind not in "fiu" or found.ndim != n_dimensions or not found.shape[-1]:
        expected = ("(V,)", "(n, V), a row for each sampler")[n_dimensions - 1]
        raise InputError(f"logits have shape {found.shape} and type {found.dtype}; expected {expected}, of float32")
    if found.dtype == np.float32:  # errstate takes a microsecond
        return found
    with np.errstate(over="ignore"):  # an overflow to inf is rejected later
        return np.asarray(found, np.float32)


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


class _Said:
    """How often each token was chosen; the counts decay with each further token.

    They are in arrays, since all of them decay at once: with a dictionary of thousands that took longer than choosing.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._places: dict[int, int] = {}
        self._ids, self._counts = np.empty(64, np.int64), np.empty(64)

    def add(self, token: int) -> None:
        n = len(self._places)
        self._counts[:n] *= self._decay
        place = self._places.setdefault(token, n)
        if place == n:
            if n == self._ids.size:
                self._ids, self._counts = (np.concatenate([a, np.empty_like(a)]) for a in (self._ids, self._counts))
            self._ids[n], self._counts[n] = token, 0
        self._counts[place] += 1

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids, counts), (n,) int64 and float64, valid until the next `add`."""
        n = len(self._places)
        return self._ids[:n], self._counts[:n]

    def copy(self) -> _Said:
        other = _Said(self._decay)
        other._places = self._places.copy()
        other._ids, other._counts = self._ids.copy(), self._counts.copy()
        return other


class Sampler:
    """Chooses one token at a time, and keeps the counts of the penalties and the random state.

    It gives the same token as `choices` and `draw`; kernels/sample.py finds it a hundred times faster.
    said  tokens of the text that is being continued: they count as chosen
    """

    def __init__(self, params: SamplingParams, said: Iterable[int] = ()) -> None:
        from rwkv_np.kernels.sample import settings_row  # imports numba

        self.params = arguments.one_of("params", params, SamplingParams, "SamplingParams")
        self._settings = settings_row(
            params.temperature, params.top_p, params.top_k, params.min_p, params.presence_penalty,
            params.frequency_penalty,
        )  # fmt: skip
        self._bias = _arrays({**params.logit_bias, **dict.fromkeys(params.not_first, -np.inf)})
        self._later_bias = _arrays(params.logit_bias)
        self._random = np.random.default_rng(params.seed)
        self._said = _Said(params.penalty_decay)
        for token in said:
            self._said.add(arguments.whole_number("a token id that was said", token, -(2**62), 2**62))

    def choose(self, logits: np.ndarray) -> int:
        """The next token id, given the logits (V,) for it.

        Raises InputError: no logit is finite, or one is NaN or inf, or a token is not in the vocabulary
        """
        from rwkv_np.kernels import sample

        logits = _checked_logits(logits, 1)
        self._draw()
        return self._take(sample.choose(logits, self._settings, self._bias, self._said.arrays()), logits)

    def reseed(self, seed: Sequence[int]) -> None:
        """Use another seed from now on: one number or several."""
        self._random = np.random.default_rng(seed)

    def copy(self) -> Sampler:
        """A copy that continues as this one would."""
        other = copy.copy(self)
        other._settings, other._said = self._settings.copy(), self._said.copy()
        other._random = copy.deepcopy(self._random)
        return other

    def _draw(self) -> None:
        self._settings["number"] = self._random.random()

    def _take(self, token: int, logits: np.ndarray) -> int:
        """Count a token that the kernel chose; raise the reason if it found none."""
        if token < 0:
            self._refuse(logits)
        self._said.add(token)
        self._bias = self._later_bias  # the first token has been chosen
        return token

    def _refuse(self, logits: np.ndarray) -> NoReturn:
        p = self.params
        logits = add_bias(np.asarray(logits, np.float32), dict(zip(*(a.tolist() for a in self._bias))))
        counts = dict(zip(*(a.tolist() for a in self._said.arrays())))
        probabilities(penalize(logits, counts, p.presence_penalty, p.frequency_penalty))
        raise AssertionError("the kernel found no token, but the reference does")


def prepare() -> None:
    """Compile the sampling kernel, or load it from the cache, so that no answer waits for it."""
    Sampler(SamplingParams()).choose(np.zeros(1, np.float32))


def choose_many(samplers: Sequence[Sampler], logits: np.ndarray, threads: int | None = None) -> list[int]:
    """The next token of several texts at once: for each, the token that its sampler alone would choose.
    samplers  one for each text, without repeats
    logits    (n, V): a row for each
    threads   the number of threads; None: the physical cores that the process may use
    Raises    InputError: as `choose`; then no text has a new token, but the random numbers are used up
    """
    tokens, logits = _choose_rows(samplers, logits, threads)
    for row, token in enumerate(tokens):
        if token < 0:
            samplers[row]._refuse(logits[row])
    return [sampler._take(token, row) for sampler, token, row in zip(samplers, tokens, logits)]


def choose_each(samplers: Sequence[Sampler], logits: np.ndarray, threads: int | None = None) -> list[int | InputError]:
    """The same for unrelated texts: if one of them has no next token, its error takes the token's place."""
    tokens, logits = _choose_rows(samplers, logits, threads)
    return [_taken(sampler, token, row) for sampler, token, row in zip(samplers, tokens, logits)]


def _taken(sampler: Sampler, token: int, logits: np.ndarray) -> int | InputError:
    try:
        return sampler._take(token, logits)
    except InputError as error:
        return error


def _choose_rows(samplers: Sequence[Sampler], logits: np.ndarray, threads: int | None) -> tuple[list[int], np.ndarray]:
    """The kernel's choice for each row, negative if no token can be chosen; and the checked logits."""
    from rwkv_np.kernels import sample
    from rwkv_np.kernels.threads import default_threads, most_threads

    logits = _checked_logits(logits, 2)
    if threads is not None:
        arguments.whole_number("threads", threads, 1, most_threads())
    if len(logits) != len(samplers):
        raise InputError(f"logits have shape {logits.shape}; expected ({len(samplers)}, V), a row for each sampler")
    if not samplers:
        return [], logits
    for sampler in samplers:
        sampler._draw()
    tokens = sample.choose_rows(
        logits, _together([sampler._settings for sampler in samplers]),
        [sampler._bias for sampler in samplers], [sampler._said.arrays() for sampler in samplers],
        threads or default_threads(),
    ).tolist()  # fmt: skip
    return tokens, logits


def _together(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of settings as one array. (np.concatenate would compare the fields of each row: 0.1 ms for eight.)"""
    joined = np.frombuffer(b"".join(row.tobytes() for row in rows), rows[0].dtype)
    return joined.copy()  # writable, as one row is: Numba would compile for the other type too


def _arrays(bias: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(bias), np.int64), np.array(list(bias.values()), np.float32)

"""Chooses the tokens of texts one after another, and keeps what that needs: counts of penalties, random numbers.

A kernel does it (kernels/sample.py). `sampling.py` has the settings and the definition; for the same random
number both pick the same token, which the tests compare.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import numpy as np

from rwkv_np import arguments
from rwkv_np.errors import InputError
from rwkv_np.sampling import SamplingParams, add_bias, penalize, probabilities


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

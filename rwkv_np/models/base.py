"""The interface of every model: token ids in, logits out, and a state.

There are three ways to read. `forward` is pure: it returns a new state. `advance` changes the given state
and copies nothing. `read` takes several sequences in one pass, each with its own state; it may read tokens that
were only guessed, and `cut` takes the wrong ones back. Arguments are checked here, once; an engine gets valid
ids and states that it may change. Text, sampling and files are handled elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional, Union

import numpy as np

from rwkv_np import arguments
from rwkv_np.errors import InputError
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.pool import StatePool
from rwkv_np.models.state import State, StateLayout

Progress = Callable[[str, int, int], None]
"""Called with what is being done (compiling, loading), how much is done, and the total."""

Tokens = Union[int, Sequence[int], np.ndarray]

WANTS = ("none", "last", "all")


class Run(NamedTuple):
    """The next tokens of one sequence.

    tokens  one id or several
    slot    where its state is in the pool
    wants   which of its tokens get logits: "none", "last" or "all"
    after   another slot, which gets the state after the tokens, while `slot` keeps the one before: then the run can be
            cut. None: the state is changed in place
    """

    tokens: Tokens
    slot: int
    wants: str = "last"
    after: Optional[int] = None


class CheckedRun(NamedTuple):
    """A checked run, as engines get it: ids (T,), and for how many of the last ones logits are computed.

    The state in `slot` is read, that in `after` is written; they may be the same.
    """

    tokens: np.ndarray
    slot: int
    n_wanted: int
    after: int


class Model:
    """A model that can read tokens; `config` has its sizes and types."""

    config: ModelConfig
    _load_again: Callable[[], Model] | None = None

    def __init__(self, config: ModelConfig, threads: int | None = None) -> None:
        if threads is not None:
            arguments.whole_number("threads", threads, 1)
        self.config = config
        self.state_layout = StateLayout(config)

    def initial_state(self) -> State:
        """The empty state of this model."""
        return State(self.state_layout)

    def new_pool(self, n_slots: int) -> StatePool:
        """A pool for the states of `n_slots` sequences of this model."""
        return StatePool(self.state_layout, n_slots)

    def forward(
        self, tokens: Tokens, state: State | None = None, full_output: bool = False
    ) -> tuple[np.ndarray, State]:
        """Read one token id or a sequence of them, continuing from `state`.

        Returns  logits for the token after the last one, (V,) float32, or with `full_output`
                 after each token, (T, V); and the state after the last token.
                 The given state is not changed.
        Raises   InputError: no tokens, an id out of range, a state of another model
        """
        ids = self._check_tokens(tokens)
        if state is not None:
            self.check_state(state, changes=False)
        after = self.initial_state() if state is None else state.copy()
        return self._read_one(ids, after, full_output), after

    def advance(self, tokens: Tokens, state: State, full_output: bool = False) -> np.ndarray:
        """The same, but `state` itself is updated, and nothing is copied.

        Returns  logits, like `forward`
        Raises   InputError; `state` is then unchanged
        """
        ids = self._check_tokens(tokens)
        self.check_state(state)
        return self._read_one(ids, state, full_output)

    def read(self, runs: Sequence[Run], pool: StatePool) -> np.ndarray:
        """Read the next tokens of several sequences; their states in `pool` are changed in place.

        The logits and the state of a sequence are the same to the last bit, whether it is read alone or with
        others, and however its tokens are divided into runs.

        Returns  logits (rows, V) float32: first those that the first run wants, then the second's, ...
        Raises   InputError; no state has then changed: no runs, a slot that is not taken or
                 that two runs share, an unknown `wants`, tokens as in `forward`
        """
        return self._read(self._check_runs(runs, pool), pool.data)

    def cut(self, runs: Sequence[Run], lengths: Sequence[int], pool: StatePool) -> None:
        """Let runs of the last `read` end earlier: `after` gets the state after the first tokens of the run.

        This is cheap if the last `read` of this model had these runs and at most 16 tokens in all; otherwise the
        tokens are read again. Both give the same bits. The state in `slot` must still be the one before the run;
        `after` may be another slot than in `read`.

        lengths  for each run how many of its tokens count; 0: leave its states as they are (its slots may be free)
        Raises   InputError; no state has then changed
        """
        arguments.one_of("runs", runs, (list, tuple), "a list of Run")
        arguments.one_of("lengths", lengths, (list, tuple), "a list of numbers")
        if len(lengths) != len(runs):
            raise InputError(f"there are {len(lengths)} lengths for {len(runs)} runs; expected one for each")
        if not any(lengths):
            return
        self._check_runs([run for run, length in zip(runs, lengths) if length], pool)
        checked = [self._check_run(run, pool if length else None) for run, length in zip(runs, lengths)]
        for run, length in zip(checked, lengths):
            arguments.whole_number("a length", length, 0, len(run.tokens))
            if length and run.after == run.slot:
                raise InputError("a run that changed its state in place cannot be cut; expected a slot in `after`")
        self._cut(checked, lengths, pool.data)

    def check_state(self, state: State, *, changes: bool = True) -> None:
        """Raise InputError unless this model can continue from `state`, and write to it if `changes` is true."""
        expected = "a State: initial_state() makes one, and load_state reads one"
        arguments.one_of("the state", state, State, expected).check(self.state_layout, changes=changes)

    # A model does not change, and its program contains addresses of this process. So copies share it.

    def __copy__(self) -> Model:
        return self

    def __deepcopy__(self, memo: object) -> Model:
        return self

    def __reduce__(self) -> tuple[Callable[[], Model], tuple[()]]:
        """A pickle contains only the path and the options: unpickling maps the file again."""
        if self._load_again is None:
            raise InputError("a model not made by rwkv_np.load cannot be pickled; load it where it is used")
        return self._load_again, ()

    def _read_one(self, ids: np.ndarray, state: State, full_output: bool) -> np.ndarray:
        logits = self._read([CheckedRun(ids, 0, len(ids) if full_output else 1, 0)], state.data[None])
        return logits if full_output else logits[0]

    def _read(self, runs: Sequence[CheckedRun], states: np.ndarray) -> np.ndarray:
        """Implemented by each engine: runs of arrays of ids, states (n_slots, size), changed in place or in `after`."""
        raise NotImplementedError(f"{type(self).__name__} cannot read tokens")

    def _cut(self, runs: Sequence[CheckedRun], lengths: Sequence[int], states: np.ndarray) -> None:
        """What `cut` means. An engine may know a faster way."""
        again = [CheckedRun(run.tokens[:n], run.slot, 0, run.after) for run, n in zip(runs, lengths) if n]
        self._read(again, states)

    def _check_runs(self, runs: Sequence[Run], pool: StatePool) -> list[CheckedRun]:
        arguments.one_of("the pool", pool, StatePool, "one of this model's new_pool").check_memory(self.state_layout)
        arguments.one_of("runs", runs, (list, tuple), "a list of Run")
        checked = [self._check_run(run, pool) for run in runs]
        if not checked:
            raise InputError("runs is empty; expected at least one run")
        slots = [run.slot for run in checked] + [run.after for run in checked if run.after != run.slot]
        if len(set(slots)) < len(slots):
            raise InputError("two runs have the same slot; a sequence can occur only once per pass")
        return checked

    def _check_run(self, run: Run, pool: StatePool | None) -> CheckedRun:
        arguments.one_of("a run", run, Run, "a Run(tokens, slot, wants)")
        if not isinstance(run.wants, str) or run.wants not in WANTS:
            raise InputError(f"a run wants {arguments.shown(run.wants)}; expected one of {', '.join(WANTS)}")
        slot = pool.check(run.slot) if pool else run.slot
        after = slot if run.after is None else pool.check(run.after) if pool else run.after
        ids = self._check_tokens(run.tokens)
        return CheckedRun(ids, slot, {"none": 0, "last": 1, "all": len(ids)}[run.wants], after)

    def _check_tokens(self, tokens: Tokens) -> np.ndarray:
        ids = arguments.token_ids("tokens", tokens)
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            at = int(((ids < 0) | (ids >= self.config.vocab_size)).argmax())
            raise InputError(
                f"token id {ids[at]} at position {at}; this model's ids are 0 to "
                f"{self.config.vocab_size - 1}: the tokenizer may belong to another model"
            )
        return ids

"""The engine: any architecture on packed weights, any number of sequences in a pass.

Loading reads each matrix once, a few rows at a time, and packs them into their place in one buffer; the
embedding stays in the file, since a token needs one row of it. A pass is described by a table
(`kernels/program.py`) that the architecture's program wrote (`build.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rwkv_np.environment import check_environment
from rwkv_np.errors import InputError
from rwkv_np.files.parameter import Parameter
from rwkv_np.kernels import batch as b
from rwkv_np.kernels import dispatch
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.notes import say_once
from rwkv_np.kernels.program import Team
from rwkv_np.kernels.threads import check_team, default_threads, most_threads, what_stops_threads
from rwkv_np.kernels.tiles import kernel_addresses
from rwkv_np.models import head
from rwkv_np.models.activity import Activity, measured
from rwkv_np.models.base import CheckedRun, Model, Progress
from rwkv_np.models.build import Builder
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.layers import Embedding
from rwkv_np.models.packing import aligned, packed
from rwkv_np.models.places import Places

# A model of fewer bytes is read by one thread, unless more are asked for. A token takes less time than
# another program may occupy a core, and two threads then wait for the one that lost its core:
# 200 short answers of a 9 MB model took 20 s next to another load, and 0.6 s with one thread. On an
# otherwise idle machine two are 1.5 times as fast, at ten thousand tokens a second.
ONE_THREAD_BELOW = 2**24

CHUNK = b.MOST  # tokens that go through the layers together


class Kept(NamedTuple):
    """The runs of the last pass, whose inputs of the recurrences are still in the scratch."""

    runs: Sequence[CheckedRun]
    states: np.ndarray

    def is_of(self, runs: Sequence[CheckedRun], states: np.ndarray) -> bool:
        """Whether these are the same runs; their states may go to other slots."""
        return (
            states is self.states
            and [run.slot for run in runs] == [run.slot for run in self.runs]
            and all(np.array_equal(run.tokens, kept.tokens) for run, kept in zip(runs, self.runs))
        )


def _may_be_cut(runs: Sequence[CheckedRun]) -> bool:
    """Whether to keep what it takes to cut the runs: there is room, and a run leaves the state before it."""
    return any(run.after != run.slot for run in runs) and sum(len(run.tokens) for run in runs) <= b.MOST_KEPT


def _no_progress(what: str, done: int, total: int) -> None:
    """No progress display."""


class Engine(Model):
    """A model over packed weights.

    threads    how many work on a token; None: the physical cores that the process may use, or one
               if the model is smaller than ONE_THREAD_BELOW
    head_q8_0  whether to keep a float head as Q8_0
    progress   called with (what is being done, done, total) while loading
    """

    def __init__(
        self,
        config: ModelConfig,
        parameters: Mapping[str, Parameter],
        threads: int | None = None,
        *,
        head_q8_0: bool = False,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(config, threads)
        progress = progress or _no_progress
        self.kernels = _checked_kernels()
        self._n_threads = _check_threads(_threads_for(parameters) if threads is None else threads)
        self._embedding = Embedding(parameters["emb.weight"])
        others = {name: p for name, p in parameters.items() if name != "emb.weight"}
        others[head.NAME] = head.loaded(parameters, head_q8_0)
        _compile_kernels(others, self.kernels.path, progress)
        places = Places(others, self.kernels.path, config.n_embd, self._n_threads)
        self._team, self._replay_team = self._build(places, progress)
        self._kept: Kept | None = None
        others.clear()  # `places.matrices` lets each go once it is packed: of a 7.2B model that is 285 MB less
        self._weights = packed(places, self._n_threads, progress)
        # Zeros: of those that no pass touches, the pages cost no memory.
        self._records = places.records
        self._scratch, self._batch = aligned(np.zeros, places.n_scratch), b.new_batch()
        self._x = self._scratch[: b.MOST * places.x.stride].view(np.float32).reshape(b.MOST, -1)
        self._compile(progress)

    @property
    def n_threads(self) -> int:
        """How many threads work on a token."""
        return self._n_threads

    @property
    def weights(self) -> np.ndarray:
        """All that is read for a token and its logits, in the order in which it is read, uint8."""
        return self._weights

    @property
    def n_bytes_per_token(self) -> int:
        """Bytes of weights that are read for a token and its logits: what bounds the speed."""
        return int(self._weights.size)

    def activity(self) -> Activity | None:
        """What single tokens have read of the feed-forward layers since loading, or None if all of it."""
        return measured(self._scratch, self._records, self.n_bytes_per_token)

    def _build(self, places: Places, progress: Progress) -> tuple[Team, Team]:
        progress("compiling the graph", 0, 1)
        builder = Builder(self.config, places, self.state_layout)
        self.config.record.program(builder)
        return Team(builder.program(), self._n_threads), Team(builder.replay(), self._n_threads)

    def _compile(self, progress: Progress) -> None:
        """Compile the loop, or fetch it from the cache, by a pass over no tokens."""
        with self._team as team:
            nothing = np.empty((1, 1), np.float32)
            b.fill(self._batch, np.empty((0, 4), np.int64))
            team.run(self._weights, self._scratch, nothing, nothing, self._batch)
        progress("compiling the graph", 1, 1)

    def _read(self, runs: Sequence[CheckedRun], states: np.ndarray) -> np.ndarray:
        n_vocab = self.config.vocab_size
        logits = np.empty((sum(run.n_wanted for run in runs), lay.round_up(n_vocab, lay.TILE_ROWS)), np.float32)
        done = 0
        with self._team as team:
            self._kept = None
            for part in _passes(runs):
                done += self._read_pass(team, part, states, logits[done:])
            if _may_be_cut(runs):
                self._kept = Kept(runs, states)
        return logits[:, :n_vocab]

    def _cut(self, runs: Sequence[CheckedRun], lengths: Sequence[int], states: np.ndarray) -> None:
        with self._replay_team as team:
            if is_kept := self._kept is not None and self._kept.is_of(runs, states):
                nothing, n_bytes = np.empty((1, 1), np.float32), 4 * self.state_layout.size
                self._batch[b.MODE] = b.REPLAY
                self._batch[b.LENGTH : b.LENGTH + len(runs)] = lengths
                self._batch[b.AFTER : b.AFTER + len(runs)] = [n_bytes * run.after for run in runs]
                team.run(self._weights, self._scratch, states, nothing, self._batch)
        if not is_kept:  # another text was read in between, by another thread perhaps
            super()._cut(runs, lengths, states)

    def _read_pass(self, team: Team, runs: Sequence[CheckedRun], states: np.ndarray, logits: np.ndarray) -> int:
        """Read what fits into one pass; returns how many rows of logits there are."""
        ids = runs[0].tokens if len(runs) == 1 else np.concatenate([run.tokens for run in runs])
        n_bytes = 4 * self.state_layout.size
        rows = [(len(run.tokens), n_bytes * run.slot, run.n_wanted, n_bytes * run.after) for run in runs]
        b.fill(self._batch, np.array(rows))
        self._batch[b.MODE] = b.KEPT if _may_be_cut(runs) else b.PLAIN
        self._x[: len(ids), : self.config.n_embd] = self._embedding(ids)
        team.run(self._weights, self._scratch, states, logits, self._batch)
        return int(self._batch[b.N_WANTED])


def _passes(runs: Sequence[CheckedRun]) -> Iterator[list[CheckedRun]]:
    """The runs cut into passes of at most MOST tokens, in their order."""
    part: list[CheckedRun] = []
    room = b.MOST
    for tokens, slot, n_wanted, after in runs:
        while len(tokens) > room:
            rest = len(tokens) - room
            part.append(CheckedRun(tokens[:room], slot, max(0, n_wanted - rest), after))
            yield part
            tokens, slot, n_wanted, part, room = tokens[room:], after, min(n_wanted, rest), [], b.MOST
        part.append(CheckedRun(tokens, slot, n_wanted, after))
        room -= len(tokens)
        if not room:
            yield part
            part, room = [], b.MOST
    if part:
        yield part


def _checked_kernels() -> dispatch.Choice:
    """The path of the kernels, once Numba can run them. Raises InputError: a variable or the threads prevent that."""
    check_environment()
    if problem := what_stops_threads():
        raise InputError(problem)
    choice = dispatch.choose()
    if os.environ.get(dispatch.ENV, "") not in ("", choice.path):
        say_once(f"{choice.reason}. Fix it, or: unset {dispatch.ENV}")
    return choice


def _threads_for(parameters: Mapping[str, Parameter]) -> int:
    """The default number of threads for a model."""
    n_bytes = sum(parameter.n_bytes for name, parameter in parameters.items() if name != "emb.weight")
    return 1 if n_bytes < ONE_THREAD_BELOW else default_threads()


def _check_threads(n_threads: int) -> int:
    if n_threads > most_threads():
        raise InputError(
            f"threads is {n_threads}; Numba was started with at most {most_threads()}. "
            f"To allow more: set NUMBA_NUM_THREADS={n_threads}"
        )
    return n_threads if n_threads == 1 or check_team(n_threads) else 1


def _compile_kernels(parameters: Mapping[str, Parameter], path: str, progress: Progress) -> None:
    """Compile, or fetch from the cache, the products with the types that most matrices have.

    Some vectors of RWKV-7 have two dimensions, and are the only FP32 ones of their model. A type that is
    missing here is compiled when the program asks for the matrix.
    """
    formats = {p.data_type.format.name for p in parameters.values() if len(p.shape) == 2}
    names = sorted(formats - {"FP32"}) or ["FP32"]
    for i, name in enumerate(names):
        progress("compiling kernels", i, len(names))
        kernel_addresses(name, path)
    progress("compiling kernels", len(names), len(names))

"""Decides what each step processes: one token of every answer, and as many prompt tokens as time allows.

One thread owns a scheduler and calls `step` (`worker.py`). An answer's bytes depend only on its request: its logits
depend on its ids (`Model.read` guarantees that, whatever else is read with them and wherever they are split), and its
random numbers on its seed. So the scheduler is free to order, split and cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rwkv_np.errors import InputError
from rwkv_np.models.base import Model, Run
from rwkv_np.models.state import State
from rwkv_np.position import Position
from rwkv_np.sampler import choose_each
from rwkv_np.serve.guesses import Guesses
from rwkv_np.serve.logprobs import logprob_of, of_prompt
from rwkv_np.serve.pace import Pace
from rwkv_np.serve.sequences import CLOSE, Reading, Writing
from rwkv_np.serve.states import StateCache, n_common
from rwkv_np.serve.table import Table, allowed
from rwkv_np.serve.waiting import Ticket, Waiting

MOST_READING = 2  # prompts at the same time, unless more fit into a step: more would only use slots
LOOK_AHEAD = 8  # owners whose next request is considered when one is started


class Observer:
    """Receives events for metrics. This one ignores them."""

    def started(self, waited: float, n_cached: int, n_prompt: int) -> None:
        """The engine starts to read a request's prompt, after it waited `waited` seconds."""

    def stepped(self, seconds: float, n_writing: int, n_read: int) -> None:
        """A step processed one token of each of `n_writing` answers and `n_read` tokens of prompts."""

    def chose(self, seconds: float) -> None:
        """The next tokens of a step were chosen."""

    def guessed(self, n_guesses: int, n_right: int) -> None:
        """A step also read `n_guesses` guessed tokens, of which `n_right` were chosen."""


class Row(NamedTuple):
    """An answer whose next token is chosen in this step.

    logits  (V,)
    at      the row of these in the step's logits; -1 if they come from the cache, or are shared
    """

    writing: Writing
    logits: np.ndarray
    at: int


class Scheduler:
    """Requests in, tokens out.

    waiting  where other threads put requests
    initial  the state before every prompt; None: the empty one
    pace     how many prompt tokens a step reads; None: few enough for a server, where answers should flow
    lookup   whether to guess tokens while few answers are generated
    """

    def __init__(
        self, model: Model, waiting: Waiting, cache: StateCache, slots: int, observer: Observer | None = None,
        initial: State | None = None, pace: Pace | None = None, *, lookup: bool = True,
    ) -> None:  # fmt: skip
        self._model, self.table = model, Table(model, slots, initial)
        self._guesses = Guesses(model, self.table, is_on=lookup)
        self.waiting, self.cache, self.pace = waiting, cache, pace or Pace()
        self._observer = observer or Observer()
        self._n_threads: int | None = getattr(model, "n_threads", None)
        self._n_steps = 0

    @property
    def is_idle(self) -> bool:
        return not (len(self.waiting) or self.table.sequences())

    @property
    def n_left(self) -> int:
        """Tokens of prompts that are still to be read."""
        return self.waiting.n_tokens + sum(reading.n_left for reading in self.table.reading)

    def step(self) -> bool:
        """Do a step's work. Returns whether a listener was called, or will be soon.

        An error that does not belong to a single answer ends all requests that have a slot; waiting requests continue.
        """
        self._n_steps += 1
        self.table.has_told = False
        self._drop()
        try:
            pieces = self._plan()
            known = [reading for reading in self.table.reading if not reading.n_left]
            logits, rows = self._read(pieces) if pieces or self.table.writing else (None, [])
            for reading in known:
                rows += self._begin(reading, reading.logits, -1)
            self._choose_all(rows, logits)
        except Exception as error:
            self._guesses.finish(is_broken=True)
            self.table.fail_all(error)
            return True
        return self.table.has_told or bool(pieces)

    def fail_all(self, error: Exception) -> None:
        """End all requests, also the waiting ones."""
        for ticket in self.waiting.all():
            self.waiting.remove(ticket, was_served=False)
            self.table.fail(ticket, error)
        self.table.fail_all(error)

    # What is in the step

    def _drop(self) -> None:
        """Drop cancelled requests, and those past their deadline."""
        for ticket in self.waiting.all():
            if self.table.is_over(ticket):
                self.waiting.remove(ticket, was_served=False)
        for reading in [*self.table.reading]:
            if reading.ticket.is_cancelled:
                self._keep(reading)  # another request may wait for the same prompt, and continues from here
        for sequence in self.table.sequences():
            if self.table.is_over(sequence.ticket) and sequence in self.table.sequences():
                self.table.end(sequence)

    def _plan(self) -> list[tuple[Reading, int]]:
        """Which prompts are read in this step, and how many tokens of each."""
        while len(self.table.reading) < MOST_READING and self._start():
            pass
        room, pieces = self.pace.room(len(self.table.writing)), []
        by_turn = sorted(self.table.reading, key=self._turn)
        while room > 0:
            reading = by_turn.pop(0) if by_turn else self._start()
            if reading is None:
                break
            if n := reading.piece(room):
                pieces.append((reading, n))
            room -= n
        return pieces

    def _turn(self, reading: Reading) -> float:
        """Short prompts come first, but in every fourth step the oldest one, so that none waits for ever."""
        return reading.n_left if self._n_steps % 4 else reading.ticket.arrived

    def _start(self) -> Reading | None:
        """Start the next waiting request, unless it has to wait for another one or for a slot."""
        for ticket in self.waiting.turns(LOOK_AHEAD):
            request = ticket.request
            if request.n > self.table.n_free:
                return None
            found = self.cache.find(request.salt, request.prompt[: 0 if request.echo else None])
            if self._is_being_read(ticket, found.n):
                continue
            # In this order: a request that is in neither place would be missed by the check whether all work is done.
            reading = self.table.read(ticket, found)
            self.waiting.remove(ticket)
            self.cache.count(found)
            self._observer.started(time.monotonic() - ticket.arrived, found.n, request.prompt.size)
            return reading
        return None

    def _is_being_read(self, ticket: Ticket, n_known: int) -> bool:
        """Whether another request is reading the same prefix right now: then this one waits for its state."""
        request = ticket.request
        if self._model.state_layout.n_bytes > self.cache.most_bytes:
            return False
        for reading in self.table.reading:
            other = reading.ticket.request
            if other.salt != request.salt or other.echo or request.echo:
                continue
            shared = n_common(other.prompt, request.prompt)
            if shared - n_known >= CLOSE and reading.stop_at(shared):
                return True
        return False

    # The step itself

    def _read(self, pieces: Sequence[tuple[Reading, int]]) -> tuple[np.ndarray, list[Row]]:
        """Read the step's tokens. Returns all logits, and the rows from which a token is chosen."""
        writing = list(self.table.writing)
        # Runs that need one row come first: then the rows that are sampled are adjacent.
        pieces = sorted(pieces, key=lambda piece: _wants(*piece) != "last")
        runs = self._guesses.runs(writing, len(pieces))
        for reading, n in pieces:
            tokens = reading.prompt[reading.n_read : reading.n_read + n]
            runs.append(Run(tokens, reading.slots[0], _wants(reading, n)))
        logits = self._timed(runs, len(writing), sum(n for _, n in pieces))
        rows, at = [], 0
        for answer, run in zip(writing, runs):
            n_rows = len(run.tokens) if run.wants == "all" else 1  # type: ignore[arg-type]
            rows.append(Row(answer, self._guesses.rows(answer, logits[at : at + n_rows]), at))
            at += n_rows
        for reading, n in pieces:
            n_rows = {"all": n, "last": 1, "none": 0}[_wants(reading, n)]
            at += n_rows
            rows += self._go_on(reading, n, logits[at - n_rows : at], at - 1)
        return logits, rows

    def _timed(self, runs: list[Run], n_writing: int, n_read: int) -> np.ndarray:
        begin = time.perf_counter()
        logits = self._model.read(runs, self.table.pool)
        seconds = time.perf_counter() - begin
        self.pace.took(n_writing + n_read + self._guesses.n_guesses, seconds)
        self._guesses.took(seconds)
        self._observer.stepped(seconds, n_writing, n_read)
        return logits

    def _go_on(self, reading: Reading, n: int, logits: np.ndarray, at: int) -> list[Row]:
        """`n` more tokens of a prompt have been read; its answers start if these were the last."""
        request = reading.ticket.request
        if request.echo:
            following = request.prompt[reading.n_read + 1 : reading.n_read + n + 1].tolist()
            reading.logprobs += of_prompt(logits, following, request.top or 0)
        reading.n_read += n
        last = None if reading.n_left else logits[-1]
        if reading.is_at_mark:
            self._keep(reading, last)
        return self._begin(reading, last, at) if last is not None else []

    def _begin(self, reading: Reading, logits: np.ndarray | None, at: int) -> list[Row]:
        """Start the answers to a prompt that has been read; `logits` are row `at` of the step's logits."""
        assert logits is not None
        return [Row(begun, logits, -1 if begun.index else at) for begun in self.table.write(reading)]

    # What comes next in each answer

    def _choose_all(self, rows: Sequence[Row], logits: np.ndarray | None) -> None:
        """Choose the next token of each row; and the tokens after it, as long as they were guessed."""
        while rows:
            rows, logits = self._choose(rows, logits), None
        if self._guesses.n_guesses:
            self._observer.guessed(self._guesses.n_guesses, self._guesses.n_right)
        self._guesses.finish()

    def _choose(self, rows: Sequence[Row], logits: np.ndarray | None) -> list[Row]:
        """Choose the next token of each row, and call the listeners. Returns the rows after right guesses."""
        rows = [row for row in rows if not row.writing.ticket.is_cancelled]
        if not rows:
            return []
        if logits is None or any(row.at != i or row.writing.guide for i, row in enumerate(rows)):
            logits = np.stack([allowed(row.writing, row.logits) for row in rows])
        begin = time.perf_counter()
        tokens = choose_each([row.writing.sampler for row in rows], logits[: len(rows)], self._n_threads)
        self._observer.chose(time.perf_counter() - begin)
        following = []
        for row, token in zip(rows, tokens):
            if isinstance(token, InputError):
                self.table.fail(row.writing.ticket, token)
            elif not row.writing.ticket.is_cancelled:  # another answer of this request may have just failed
                self._write(row.writing, token, row.logits)
                coming = self._guesses.next_row(row.writing, token) if row.writing in self.table.writing else None
                following += [] if coming is None else [Row(row.writing, coming, -1)]
        return following

    def _write(self, writing: Writing, token: int, logits: np.ndarray) -> None:
        """Continue an answer with a token, or end it."""
        request = writing.ticket.request
        if token in request.params.stop_ids:
            self._end(writing, "stop_id")
            return
        # With a guide, the token was chosen from masked logits; log probabilities are the model's own.
        logprob = None if request.top is None else logprob_of(logits, token, request.top)
        reasons: list[str | None] = []

        def tell() -> None:
            if writing.guide is not None:
                writing.guide.accept(token)
            reasons.append(writing.ticket.listener.take(writing.index, token, logprob))

        if self.table.tell(writing.ticket, tell) and (reason := self.table.go_on(writing, token, reasons[0])):
            self._end(writing, reason)

    def _end(self, writing: Writing, reason: str) -> None:
        """End a complete answer. Its state is kept: the next turn starts from it."""
        self._guesses.settle(writing)
        request = writing.ticket.request
        n_read = len(writing.ids) - (reason != "stop_id")
        if request.n == 1 and n_read >= CLOSE:
            answer = np.array(writing.ids[:n_read], np.int64)
            self._cache(request.salt, np.concatenate([request.prompt, answer]), writing.slot, None)
        self.table.end(writing, reason)

    # The cache

    def _keep(self, reading: Reading, logits: np.ndarray | None = None) -> None:
        request = reading.ticket.request
        if reading.n_read > reading.n_cached and not request.echo:
            self._cache(request.salt, reading.prompt[: reading.n_read], reading.slots[0], logits)

    def _cache(self, salt: str, ids: np.ndarray, slot: int, logits: np.ndarray | None) -> None:
        def copied() -> Position:
            return Position(None if logits is None else logits.copy(), self.table.state(slot))

        n_bytes = self._model.state_layout.n_bytes + (0 if logits is None else logits.nbytes)
        self.cache.put(salt, ids, n_bytes, copied)


def _wants(reading: Reading, n: int) -> str:
    """For which of the piece's tokens logits are needed."""
    if reading.ticket.request.echo:
        return "all"
    return "last" if n == reading.n_left else "none"

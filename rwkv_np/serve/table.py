"""The sequences that have a slot: prompts being read and answers being generated; and how each of them ends.

Listeners are not trusted: one that raises loses its own answers, but does not disturb the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from rwkv_np.models.base import Model
from rwkv_np.models.state import State
from rwkv_np.serve.request import Guide, TimedOut
from rwkv_np.serve.sequences import Reading, Writing, sampler_for
from rwkv_np.serve.states import Found
from rwkv_np.serve.waiting import Ticket

SPARES = 4  # answers that may read guesses in the same step: each needs a second slot


class Table:
    """Slots for `n_slots` answers.

    initial  the state before every prompt; None: the empty one
    pool     the states of the slots
    has_told whether a listener was called since this was last set to False
    """

    def __init__(self, model: Model, n_slots: int, initial: State | None = None) -> None:
        self.pool, self._initial = model.new_pool(n_slots + SPARES), initial
        self._spares: list[int] = []
        self._n_spares = 0  # how many of them were taken so far: a slot that was never used needs no memory
        self.reading: list[Reading] = []
        self.writing: list[Writing] = []
        self.has_told = False

    @property
    def n_free(self) -> int:
        """How many more answers there may be."""
        return self.pool.n_free - (SPARES - self._n_spares)

    @property
    def has_spare(self) -> bool:
        return bool(self._spares) or self._n_spares < SPARES

    def spare(self) -> int:
        """A second slot for an answer, until it is given back."""
        if not self._spares:
            self._n_spares += 1
            return self.pool.take()
        return self._spares.pop()

    def give_back(self, slot: int | None) -> None:
        """Give back a slot that `spare` returned, or the one that an answer used before."""
        assert slot is not None
        self._spares.append(slot)

    def state(self, slot: int) -> State:
        """A copy of a sequence's state."""
        return self.pool.state(slot)

    def read(self, ticket: Ticket, found: Found) -> Reading:
        """Give a request slots. Its prompt is read from the end of the known prefix."""
        state = found.position.state if found.position else self._initial
        slots = [self.pool.take(state), *(self.pool.take() for _ in range(ticket.request.n - 1))]
        self.reading.append(reading := Reading(ticket, slots, found))
        return reading

    def write(self, reading: Reading) -> list[Writing]:
        """Start the answers to a prompt that has been read. None if the prompt should only be read."""
        ticket, slots = reading.ticket, reading.slots
        request, listener = ticket.request, ticket.listener
        self.reading.remove(reading)
        logprobs = reading.logprobs if request.echo else None
        is_wanted = self.tell(ticket, partial(listener.prompt_read, reading.n_cached, logprobs))
        if not is_wanted or not request.max_tokens:
            self._release(slots)
            for index in range(request.n):
                self.tell(ticket, partial(listener.end, index, "length"))
            return []
        for slot in slots[1:]:
            self.pool.put(slot, self.pool.state(slots[0]))
        guides: Sequence[Guide | None] = request.guides or [None] * request.n
        begun = [
            Writing(ticket, index, slot, sampler_for(request.params, index), guide)
            for index, (slot, guide) in enumerate(zip(slots, guides))
        ]
        self.writing += begun
        return begun

    def go_on(self, writing: Writing, token: int, reason: str | None) -> str | None:
        """Record an answer's next token. Returns the reason if the answer ends with it, or None."""
        writing.ids.append(token)
        if writing.drafts is not None:
            writing.drafts.add(token)
        return reason or ("length" if len(writing.ids) >= writing.ticket.request.max_tokens else None)

    def end(self, sequence: Reading | Writing, reason: str | None = None) -> None:
        """End a sequence; if there is a reason, tell its listener."""
        if isinstance(sequence, Reading):
            self.reading.remove(sequence)
            self._release(sequence.slots)
            return
        self.writing.remove(sequence)
        self._release([sequence.slot])
        if reason is not None:
            self.tell(sequence.ticket, partial(sequence.ticket.listener.end, sequence.index, reason))

    def tell(self, ticket: Ticket, call: Callable[[], None]) -> bool:
        """Call a listener, unless its request was cancelled. Returns whether the request is still active."""
        if ticket.is_cancelled:
            return False
        self.has_told = True
        try:
            call()
        except Exception as error:
            self.fail(ticket, error)
        return not ticket.is_cancelled

    def fail(self, ticket: Ticket, error: Exception) -> None:
        """End a request with an error; its listener is not called again."""
        for sequence in [s for s in self.sequences() if s.ticket is ticket]:
            self.end(sequence)
        if not ticket.is_cancelled:
            ticket.is_cancelled = self.has_told = True
            ticket.listener.fail(error)

    def fail_all(self, error: Exception) -> None:
        """End every request that has a slot."""
        for ticket in {sequence.ticket for sequence in self.sequences()}:
            self.fail(ticket, error)

    def is_over(self, ticket: Ticket, now: float | None = None) -> bool:
        """Whether a request was cancelled or is past its deadline; in the second case its listener gets an error."""
        deadline = ticket.request.deadline
        if not ticket.is_cancelled and deadline is not None and (now or time.monotonic()) >= deadline:
            self.fail(ticket, TimedOut("the time limit of this request is reached"))
        return ticket.is_cancelled

    def sequences(self) -> list[Reading | Writing]:
        """All sequences with a slot."""
        return [*self.reading, *self.writing]

    def _release(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self.pool.release(slot)


def allowed(writing: Writing, logits: np.ndarray) -> np.ndarray:
    """Logits (V,) in which the tokens that the answer's guide forbids are masked."""
    if writing.guide is None:
        return logits
    return np.where(writing.guide.allowed(), logits, np.float32(-np.inf))

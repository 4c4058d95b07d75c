"""A prompt that is being read, and an answer that is being written: what the scheduler knows of each.

A prompt stops at its marks, so that the state there can be kept. A mark costs a step of its own, which reads
all weights: so there are none shortly before the prompt's end, nor two close together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from rwkv_np.sampling import Sampler, SamplingParams
from rwkv_np.serve.request import Guide, Logprob
from rwkv_np.serve.states import Found
from rwkv_np.serve.waiting import Ticket

EVERY = 256  # tokens of a long prompt between states that are kept: a second's reading at most
CLOSE = 16  # tokens that are read again rather than kept


class Reading:
    """A prompt of which the first `n_read` tokens have been read; the state is in the first of `slots`.

    logits  those that follow it, if the cache has all of it
    """

    def __init__(self, ticket: Ticket, slots: list[int], found: Found) -> None:
        self.ticket, self.slots = ticket, slots
        self.n_read = self.n_cached = found.n
        self.logits = found.position.logits if found.position else None
        self.marks = self._marks(ticket.request.marks, found)
        self.logprobs: list[Logprob] = []

    def _marks(self, wanted: Iterable[int], found: Found) -> list[int]:
        """Where the state will be kept, in rising order: the ends of messages, where texts part, every 256 tokens."""
        marks: list[int] = []
        parting = [found.n_shared] if found.n_shared < self.prompt.size else []
        for mark in [*sorted([*wanted, *parting]), *range(EVERY, self.prompt.size, EVERY)]:
            if all(abs(mark - other) >= CLOSE for other in [*marks, self.n_read, self.prompt.size]):
                marks.append(mark)
        return sorted(mark for mark in marks if self.n_read < mark < self.prompt.size)

    @property
    def prompt(self) -> np.ndarray:
        return self.ticket.request.prompt

    @property
    def n_left(self) -> int:
        return self.prompt.size - self.n_read

    def stop_at(self, mark: int) -> bool:
        """Keep the state after `mark` tokens, for another that waits. Returns whether that is still ahead."""
        if not self.n_read < mark <= self.prompt.size:
            return False
        if mark not in self.marks and mark < self.prompt.size:
            self.marks = sorted([*self.marks, mark])
        return True

    def piece(self, room: int) -> int:
        """How many tokens to read now, at most `room`: not past the next mark."""
        end = next((mark for mark in self.marks if mark > self.n_read), self.prompt.size)
        return min(room, end - self.n_read)

    @property
    def is_at_mark(self) -> bool:
        """Whether the state after what has been read is to be kept."""
        return self.n_read in self.marks or self.n_left == 0


@dataclass(eq=False)
class Writing:
    """An answer: `ids` are its tokens, of which the model has read all but the last."""

    ticket: Ticket
    index: int
    slot: int
    sampler: Sampler
    guide: Guide | None
    ids: list[int] = field(default_factory=list)


def sampler_for(params: SamplingParams, index: int) -> Sampler:
    """The sampler of answer `index`: the first has the seed itself, the others one that follows from it."""
    sampler = Sampler(params)
    if index and params.seed is not None:
        sampler.reseed([params.seed, index])
    return sampler

"""A prompt that is being read and an answer that is being generated: what the scheduler knows about each.

Reading stops at a prompt's marks, so that the state there can be kept. A mark costs a separate step, which reads all
weights. So no mark is just before the prompt's end, and no two marks are close together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from rwkv_np.drafts import Drafts
from rwkv_np.sampler import Sampler
from rwkv_np.sampling import SamplingParams
from rwkv_np.serve.request import Guide, Logprob
from rwkv_np.serve.states import Found
from rwkv_np.serve.waiting import Ticket

EVERY = 256  # tokens of a long prompt between kept states: at most a second of reading
CLOSE = 16  # so few tokens are read again instead of keeping a state


class Reading:
    """A prompt whose first `n_read` tokens have been read; the state is in the first of `slots`.

    logits  the logits after the prompt, if the cache has all of it
    """

    def __init__(self, ticket: Ticket, slots: list[int], found: Found) -> None:
        self.ticket, self.slots = ticket, slots
        self.n_read = self.n_cached = found.n
        self.logits = found.position.logits if found.position else None
        self.marks = self._marks(ticket.request.marks, found)
        self.logprobs: list[Logprob] = []

    def _marks(self, wanted: Iterable[int], found: Found) -> list[int]:
        """Where the state will be kept, in ascending order: ends of messages, points where texts diverge, every 256
        tokens."""
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
        """Keep the state after `mark` tokens, for a waiting request. Returns whether that point is still ahead."""
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
        """Whether the current state should be kept."""
        return self.n_read in self.marks or self.n_left == 0


@dataclass(eq=False)
class Writing:
    """An answer: `ids` are its tokens; the model has read all of them except the last.

    drafts  decides what is guessed; None until there was room for guesses
    """

    ticket: Ticket
    index: int
    slot: int
    sampler: Sampler
    guide: Guide | None
    ids: list[int] = field(default_factory=list)
    drafts: Drafts | None = None


def sampler_for(params: SamplingParams, index: int) -> Sampler:
    """The sampler of answer `index`: the first uses the seed itself, the others a seed derived from it."""
    sampler = Sampler(params)
    if index and params.seed is not None:
        sampler.reseed([params.seed, index])
    return sampler

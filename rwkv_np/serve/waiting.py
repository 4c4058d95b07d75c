"""The queue of requests: owners take turns, and each owner's requests are served in order of arrival.

So a client that sends a thousand requests at once does not delay a client that sends one. This is the only object that
several threads share: the wire puts requests in, the engine's thread takes them out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rwkv_np.serve.request import Listener, Refused, Request


@dataclass(eq=False)
class Ticket:
    """A request and its listener."""

    request: Request
    listener: Listener
    arrived: float
    is_cancelled: bool = False
    wake: Any = field(default=lambda: None, repr=False)

    def cancel(self) -> None:
        """Cancel the request."""
        self.is_cancelled = True
        self.wake()


class Waiting:
    """The queue.

    most_requests  the most requests in the queue
    most_tokens    the most tokens of their prompts together
    """

    def __init__(self, most_requests: int, most_tokens: int) -> None:
        self._most_requests, self._most_tokens = most_requests, most_tokens
        self._lock = threading.Lock()
        self._by_owner: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._n = self._n_tokens = 0

    def __len__(self) -> int:
        return self._n

    @property
    def n_tokens(self) -> int:
        """Tokens of all waiting prompts."""
        return self._n_tokens

    def add(self, ticket: Ticket) -> None:
        """Add a request. Raises Refused if the queue is full."""
        n = ticket.request.prompt.size
        with self._lock:
            if self._n >= self._most_requests:
                raise Refused(f"{self._n} requests are waiting already, which is the limit; try again later")
            if self._n and self._n_tokens + n > self._most_tokens:
                raise Refused(
                    f"prompts of {self._n_tokens} tokens are waiting already; the limit is {self._most_tokens}; "
                    "try again later"
                )
            self._by_owner.setdefault(ticket.request.owner, deque()).append(ticket)
            self._n, self._n_tokens = self._n + 1, self._n_tokens + n

    def turns(self, most: int) -> list[Ticket]:
        """The first request of each of at most `most` owners, in the order of their turns."""
        with self._lock:
            return [tickets[0] for tickets in islice(self._by_owner.values(), most)]

    def all(self) -> list[Ticket]:
        """Every waiting request."""
        with self._lock:
            return [ticket for tickets in self._by_owner.values() for ticket in tickets]

    def remove(self, ticket: Ticket, *, was_served: bool = True) -> None:
        """Remove a request from the queue. If it `was_served`, the other owners have their turns first."""
        owner = ticket.request.owner
        with self._lock:
            tickets = self._by_owner[owner]
            tickets.remove(ticket)
            self._n, self._n_tokens = self._n - 1, self._n_tokens - ticket.request.prompt.size
            if not tickets:
                del self._by_owner[owner]
            elif was_served:
                self._by_owner.move_to_end(owner)

"""Events from the engine's thread to the coroutines that wait for them.

The engine calls listeners for every token. They put events into the outbox. Once per step, one call passes the whole
outbox to the event loop: a separate call for each token would cost more than all other work on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from rwkv_np.serve.events import EngineEvent, Written


class Quiet(NamedTuple):
    """Nothing has happened for some time."""


class HungUp(NamedTuple):
    """The client has disconnected."""


Event = EngineEvent | Quiet | HungUp


class Timing(Protocol):
    """Receives the times of tokens."""

    def first(self, seconds: float) -> None:
        """A request's first token came, after so many seconds."""

    def between(self, seconds: float) -> None:
        """The next token of a request, so many seconds after the last one."""


class Mailbox:
    """Events of one HTTP request, in order. Only the loop's thread uses it.

    is_streamed  whether each event wakes the reader; otherwise only the end of an answer does
    most         events that may wait; with more, `on_overflow` is called
    """

    def __init__(self, *, is_streamed: bool, most: int, timing: Timing) -> None:
        self._events: list[Event] = []
        self._is_due = False  # whether an event has arrived that should wake the reader
        self._waiter: asyncio.Future[None] | None = None
        self._is_streamed, self._most = is_streamed, most
        self._timing, self._last = timing, time.monotonic()
        self._has_begun = False
        self.on_overflow: Callable[[], None] = lambda: None

    def put(self, event: Event, now: float | None = None) -> None:
        """Add an event. For an event of the engine, `now` is the time when it happened."""
        self._events.append(event)
        if now is not None and type(event) is Written:
            self._take_time(now)
        if self._is_streamed and len(self._events) > self._most:
            self.on_overflow()
        if self._is_streamed or type(event) is not Written or event.reason is not None:
            self._is_due = True
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    async def take(self) -> list[Event]:
        """The events since the last call; waits for one."""
        if not self._is_due:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None
        self._is_due = False
        events, self._events = self._events, []
        return events

    def _take_time(self, now: float) -> None:
        (self._timing.between if self._has_begun else self._timing.first)(now - self._last)
        self._last, self._has_begun = now, True


class Outbox:
    """Collects the listeners' events of a step. `open` and `close` are called in the loop's thread."""

    def __init__(self) -> None:
        self._events: list[tuple[Mailbox, Event]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send events to this loop."""
        self._loop = loop

    def close(self) -> None:
        """Drop all further events."""
        self._loop = None

    def post(self, mailbox: Mailbox, event: Event) -> None:
        """Called in the engine's thread."""
        self._events.append((mailbox, event))

    def hand_over(self) -> None:
        """Called in the engine's thread after a step."""
        if not self._events:
            return
        events, self._events = self._events, []
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(_deliver, events, time.monotonic())
        except RuntimeError:  # the loop was closed: the program is ending
            pass


def _deliver(events: list[tuple[Mailbox, Event]], now: float) -> None:
    for mailbox, event in events:
        mailbox.put(event, now)

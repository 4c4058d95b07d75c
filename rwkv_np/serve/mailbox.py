"""Events from the engine's thread to the coroutines that wait for them.

The engine calls listeners for every token. They put events into the outbox. Once per step, one call passes the whole
outbox to the event loop: a separate call for each token would cost more than all other work on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from rwkv_np.serve.answer_text import AnswerText, Priced
from rwkv_np.serve.errors import wrong
from rwkv_np.serve.request import Logprob
from rwkv_np.serve.schema import JsonGuide


class Read(NamedTuple):
    """A prompt has been read; `first` is the index of its first answer."""

    first: int
    n_cached: int
    logprobs: Sequence[Logprob] | None


class Written(NamedTuple):
    """Answer number `answer` continues with `text`. If it ends here, `reason` says why, and after how many tokens."""

    answer: int
    text: str
    priced: Sequence[Priced]
    reason: str | None = None
    n_tokens: int = 0


class Failed(NamedTuple):
    """There are no more answers."""

    error: Exception


class Quiet(NamedTuple):
    """Nothing has happened for some time."""


class HungUp(NamedTuple):
    """The client has disconnected."""


Event = Read | Written | Failed | Quiet | HungUp


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


class AnswerListener:
    """Receives the engine's results for one prompt. Its methods run in the engine's thread."""

    def __init__(
        self, outbox: Outbox, mailbox: Mailbox, first: int, texts: Sequence[AnswerText], guides: Sequence[JsonGuide]
    ) -> None:
        self._outbox, self._mailbox, self._first, self._texts, self._guides = outbox, mailbox, first, texts, guides

    def prompt_read(self, n_cached: int, logprobs: Sequence[Logprob] | None) -> None:
        self._outbox.post(self._mailbox, Read(self._first, n_cached, logprobs))

    def take(self, index: int, token: int, logprob: Logprob | None) -> str | None:
        text = self._texts[index]
        piece = text.push(token, logprob)
        if piece:
            self._outbox.post(self._mailbox, Written(self._first + index, piece, text.take_priced()))
        return "stop" if text.stopped else None

    def end(self, index: int, reason: str) -> None:
        text = self._texts[index]
        if self._guides and (problem := self._guides[index].problem):
            self.fail(wrong(self._guides[index].param, problem, "invalid_schema"))
            return
        rest = text.finish()
        self._outbox.post(self._mailbox, Written(self._first + index, rest, text.take_priced(), reason, text.n_tokens))

    def fail(self, error: Exception) -> None:
        self._outbox.post(self._mailbox, Failed(error))

"""The engine's work for one HTTP request, from submission to the last token.

If it ends early (the client disconnects or does not read, an error, a shutdown), all its answers are cancelled, also in
the queue and while a prompt is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType

from rwkv_np.serve.asked import Asked
from rwkv_np.serve.events import AnswerListener, Failed, Read, Written
from rwkv_np.serve.exchange import Exchange, HangUp
from rwkv_np.serve.mailbox import HungUp, Mailbox, Quiet
from rwkv_np.serve.objects import Usage, usage_of
from rwkv_np.serve.request import Ticket
from rwkv_np.serve.service import Service


class Answering:
    """An asynchronous context manager: inside it the engine works. Entering raises the errors of `submit`.

    n_prompt, n_cached, n_written  tokens so far
    """

    def __init__(self, service: Service, exchange: Exchange, asked: Sequence[Asked], *, is_streamed: bool) -> None:
        self._service, self._exchange, self._asked, self._is_streamed = service, exchange, asked, is_streamed
        self._n_open = sum(len(each.texts) for each in asked)
        most = service.bounds.unread_pieces * self._n_open
        self._mailbox = Mailbox(is_streamed=is_streamed, most=most, timing=service.metrics)
        self._mailbox.on_overflow = self._cut
        self._tickets: list[Ticket] = []
        self.n_prompt = sum(int(each.request.prompt.size) for each in asked)
        self.n_cached = self.n_written = 0
        self._has_spoken = False

    @property
    def is_open(self) -> bool:
        """Whether more events will come."""
        return self._n_open > 0

    @property
    def usage(self) -> Usage:
        """Token counts of a finished request."""
        return usage_of(self.n_prompt, self.n_written, self.n_cached)

    async def finish(self, take: Callable[[Read | Written], None]) -> None:
        """Pass all events to `take`. Raises as `next`."""
        while self.is_open:
            for event in await self.next():
                if not isinstance(event, Quiet):
                    take(event)

    async def __aenter__(self) -> Answering:
        first, post = 0, partial(self._service.outbox.post, self._mailbox)
        try:
            for each in self._asked:
                listener = AnswerListener(post, first, each.texts, each.guides)
                self._tickets.append(self._service.submit(each.request, listener))
                first += len(each.texts)
        except Exception:
            self._cancel()
            raise
        loop = asyncio.get_running_loop()
        self._watch = loop.create_task(self._exchange.hang_up())
        self._watch.add_done_callback(lambda done: None if done.cancelled() else self._mailbox.put(HungUp()))
        self._timer = loop.call_later(self._service.bounds.ping_seconds, self._tick) if self._is_streamed else None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._cancel()

    async def next(self) -> list[Read | Written | Quiet]:
        """The new events. Raises HangUp, and the engine's error if it failed."""
        found: list[Read | Written | Quiet] = []
        for event in await self._mailbox.take():
            if isinstance(event, Written):
                if event.reason is not None:
                    self._n_open -= 1
                    self.n_written += event.n_tokens
            elif isinstance(event, Read):
                self.n_cached += event.n_cached
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, HungUp):
                raise HangUp
            self._has_spoken = self._has_spoken or not isinstance(event, Quiet)
            found.append(event)
        return found

    def _cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    def _cut(self) -> None:
        """Cancel the answers and close the connection: the client does not read."""
        self._cancel()
        self._service.metrics.rejected.labels("slow_reader").inc()
        self._mailbox.on_overflow = lambda: None
        if self._exchange.transport is not None:
            self._exchange.transport.abort()
        self._mailbox.put(HungUp())

    def _tick(self) -> None:
        """Report that nothing happened, so that a stream can send a keep-alive comment."""
        if not self._has_spoken:
            self._mailbox.put(Quiet())
        self._has_spoken = False
        self._timer = asyncio.get_running_loop().call_later(self._service.bounds.ping_seconds, self._tick)

"""The answers to one row, as the engine writes them. Nobody waits for parts, so events wait here until the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rwkv_np.batch.answered import Answered, failed
from rwkv_np.batch.planned import Planned
from rwkv_np.serve.asked import Asked
from rwkv_np.serve.events import AnswerListener, EngineEvent, Failed, Read, Written
from rwkv_np.serve.request import Submit, Ticket


class Collecting:
    """One row at the engine; `when_done` is called once, in the engine's thread, and must not block."""

    def __init__(self, planned: Planned, asked: Sequence[Asked], when_done: Callable[[Collecting], object]) -> None:
        self._planned, self._asked, self._when_done = planned, asked, when_done
        self._events: list[Read | Written] = []
        self._n_open = sum(len(each.texts) for each in asked)
        self._n_prompt = sum(int(each.request.prompt.size) for each in asked)
        self._error: Exception | None = None
        self._tickets: list[Ticket] = []

    def submit(self, submit: Submit) -> None:
        """Send the prompts to the engine. If it refuses one, the row is done, with an error."""
        first = 0
        try:
            for each in self._asked:
                self._tickets.append(submit(each.request, AnswerListener(self._post, first, each.texts, each.guides)))
                first += len(each.texts)
        except Exception as error:
            self._post(Failed(error))

    def answered(self) -> Answered:
        """The row for the output, once `when_done` was called."""
        row = self._planned.row
        if self._error is not None:
            return failed(row.number, row.custom_id, self._error)
        whole, n_cached, n_written = self._planned.whole(), 0, 0
        for event in self._events:
            whole.take(event)
            if isinstance(event, Read):
                n_cached += event.n_cached
            else:
                n_written += event.n_tokens
        data = self._planned.line(whole, self._n_prompt, n_written)
        return Answered(row.number, data, False, self._n_prompt, n_cached, n_written)

    def _post(self, event: EngineEvent) -> None:
        if self._error is not None:
            return
        if isinstance(event, Failed):
            self._error = event.error
            for ticket in self._tickets:
                ticket.cancel()
            self._when_done(self)
            return
        self._events.append(event)
        if isinstance(event, Written) and event.reason is not None:
            self._n_open -= 1
            if not self._n_open:
                self._when_done(self)

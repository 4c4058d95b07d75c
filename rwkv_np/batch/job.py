"""A job on this machine: lines in, rows out, with a bounded number of requests in memory.

Ids are taken in the order of lines, so which of two equal ids is the error never depends on the machine or on earlier
starts. Everything after that may happen in any order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rwkv_np.batch.answered import Answered, failure
from rwkv_np.batch.answerer import Answerer, Desk
from rwkv_np.batch.ids import IdTable
from rwkv_np.batch.ordering import ordered
from rwkv_np.batch.output import DONE, FileOutput, StreamOutput
from rwkv_np.batch.planned import Planned
from rwkv_np.batch.progress import Counts, Show
from rwkv_np.batch.row import Row
from rwkv_np.batch.source import Line
from rwkv_np.serve.errors import wrong


class Job:
    """Rows on their way from a file to another.

    counts  so far
    """

    def __init__(self, output: FileOutput | StreamOutput, show: Show) -> None:
        self._output, self._show = output, show
        self.counts = Counts()

    def run(self, answerer: Answerer, lines: Iterable[Line]) -> None:
        """Answer all lines. Whatever ends it early, the rows that are done are in the output."""
        desk = Desk(answerer)
        self.counts.began = time.monotonic()  # the model is loaded
        for planned in ordered(self._planned(answerer, lines)):
            while desk.n_open >= answerer.n_ahead:
                self.put(desk.take())
            desk.submit(planned)
        while desk.n_open:
            self.put(desk.take())

    def put(self, row: Answered) -> None:
        """A row is done."""
        self._output.put(row)
        self.counts.add(row)
        self._show(self.counts)

    def new(self, read: Iterable[Row | Answered]) -> Iterator[Row]:
        """The rows that have no answer yet. Lines without a request, and ids that were used before, become errors."""
        for row in read:
            if isinstance(row, Answered):
                self.put(row)
            elif (before := self._before(self._output.ids, row)) is None:
                yield row
            elif before == DONE:
                self.counts.skip()
                self._show(self.counts)
            else:
                said = f"custom_id {row.custom_id!r} was used in line {before} already; expected a new one"
                self.put(failure(row.number, None, wrong("custom_id", said, "duplicate_custom_id")))

    def _before(self, ids: IdTable, row: Row) -> int | None:
        """The line that had this id before; DONE: an earlier start has answered it; None: it is new."""
        before = ids.get(row.custom_id)
        if before is None or before == DONE:
            ids.put(row.custom_id, row.number)
        return before

    def _planned(self, answerer: Answerer, lines: Iterable[Line]) -> Iterator[Planned]:
        for row in self.new(map(answerer.read, lines)):
            planned = answerer.plan(row)
            if isinstance(planned, Answered):
                self.put(planned)
            else:
                yield planned

"""A job: lines in, rows out, with a bounded number of requests in memory; and how this machine does one.

Ids are taken in the order of lines, so which of two equal ids is the error never depends on the machine or on earlier
starts. Everything after that may happen in any order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rwkv_np.batch.answered import Answered, failed, failure
from rwkv_np.batch.answerer import Answerer, Desk
from rwkv_np.batch.ordering import ordered
from rwkv_np.batch.output import DONE, FileOutput, StreamOutput
from rwkv_np.batch.progress import Counts, Show
from rwkv_np.batch.row import Form, Row, read_row
from rwkv_np.batch.source import Line
from rwkv_np.serve.errors import wrong


class Job:
    """Rows on their way from one file to another.

    form    of plain lines
    counts  so far
    """

    def __init__(self, output: FileOutput | StreamOutput, form: Form, show: Show) -> None:
        self._output, self._form, self._show = output, form, show
        self.counts = Counts()

    def rows(self, lines: Iterable[Line]) -> Iterator[Row]:
        """The rows that have no answer yet, in an order that is good for the cache."""
        self.counts.began = time.monotonic()  # the model is loaded
        return ordered(self._new(lines))

    def put(self, row: Answered) -> None:
        """A row is done."""
        self._output.put(row)
        self.counts.add(row)
        self._show(self.counts)

    def _new(self, lines: Iterable[Line]) -> Iterator[Row]:
        """Lines without a request, and ids that were used before, become errors; answers of earlier starts count."""
        for line in lines:
            try:
                row = read_row(line, self._form)
            except Exception as error:
                self.put(failed(line.number, None, error))
                continue
            before = self._before(row)
            if before is None:
                yield row
            elif before == DONE:
                self.counts.skip()
                self._show(self.counts)
            else:
                said = f"custom_id {row.custom_id!r} was used in line {before} already; expected a new one"
                self.put(failure(row.number, None, wrong("custom_id", said, "duplicate_custom_id")))

    def _before(self, row: Row) -> int | None:
        """The line that had this id before; DONE: an earlier start has answered it; None: it is new."""
        ids = self._output.ids
        before = ids.get(row.custom_id)
        if before is None or before == DONE:
            ids.put(row.custom_id, row.number)
        return before


def run_here(job: Job, answerer: Answerer, lines: Iterable[Line]) -> None:
    """Answer all lines. Whatever ends it early, the rows that are done are in the output."""
    desk = Desk(answerer)
    for row in job.rows(lines):
        while desk.n_open >= answerer.n_ahead:
            job.put(desk.take())
        desk.submit(row)
    while desk.n_open:
        job.put(desk.take())

"""Counts of a job while it runs, and its summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rwkv_np.batch.answered import Answered


@dataclass
class Counts:
    """Rows and tokens since this start.

    n_rows    lines with a request or an error that are done, also those that earlier starts have answered
    n_kept    of these, the answers of earlier starts
    n_errors  rows with an error
    """

    n_rows: int = 0
    n_kept: int = 0
    n_errors: int = 0
    n_prompt: int = 0
    n_cached: int = 0
    n_written: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, row: Answered) -> None:
        """A row is done."""
        self.n_rows += 1
        self.n_errors += row.is_error
        self.n_prompt += row.n_prompt
        self.n_cached += row.n_cached
        self.n_written += row.n_written

    def skip(self) -> None:
        """A row was answered by an earlier start."""
        self.n_rows += 1
        self.n_kept += 1

    @property
    def rates(self) -> str:
        """Tokens a second so far."""
        seconds = max(time.monotonic() - self.began, 1e-3)
        both = (self.n_prompt + self.n_written) / seconds
        return f"{self.n_written / seconds:,.0f} tokens/s written, {both:,.0f} with prompts"

    @property
    def summary(self) -> str:
        """A line for the end."""
        cached = f", {100 * self.n_cached // self.n_prompt} % of them from shared beginnings" if self.n_cached else ""
        seconds = time.monotonic() - self.began
        new = self.n_rows - self.n_kept - self.n_errors
        return (
            f"{new:,} answered, {self.n_kept:,} by earlier starts, {self.n_errors:,} errors; "
            f"{self.n_prompt:,} prompt tokens{cached}, {self.n_written:,} written, in {seconds:,.1f} s: {self.rates}"
        )


Show = Callable[[Counts], None]
"""Called often, with the counts so far."""

"""Where a job's rows go: a file of answers and a file of errors, or stdout for both.

Answers are kept from one start to the next. Errors are not: a request with an error is tried again at the next start,
after its line, the disk or the package was mended.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rwkv_np.batch.answered import Answered
from rwkv_np.batch.appended import AppendedFile, repair
from rwkv_np.batch.ids import IdTable
from rwkv_np.batch.rows_file import StoredRow, rows, sort

LAST = 2**62  # in the order of rows: after all lines of the requests
DONE = -1  # an id that an earlier start has answered; the line with it was not seen yet


class Places(NamedTuple):
    """The paths of a job's files."""

    answers: str
    errors: str
    job: str


def places(answers: str, errors: str | None) -> Places:
    """The files for ANSWERS: the name of a file, or of a folder, which is made."""
    path = Path(answers)
    if answers.endswith(("/", os.sep)) or path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path = path / "answers.jsonl"
        errors = errors or str(path.with_name("errors.jsonl"))
    return Places(str(path), errors or str(path.with_name(f"{path.stem}.errors{path.suffix}")), f"{path}.job")


class FileOutput:
    """The two files of a job.

    ids  the ids that were answered by earlier starts, as DONE; the job adds the lines of all
    """

    def __init__(self, at: Places) -> None:
        """Raises FileError, OutputError."""
        self._at, self.ids = at, IdTable()
        repair(at.answers)
        for row, _, _ in rows(at.answers):
            self.ids.put(row.custom_id or "", DONE)
        self.n_kept = len(self.ids)
        with suppress(FileNotFoundError):
            os.unlink(at.errors)
        self._answers = AppendedFile(at.answers)
        self._errors: AppendedFile | None = None

    def put(self, row: Answered) -> None:
        """Write a row. Raises OutputError."""
        if not row.is_error:
            self._answers.append(row.data)
            return
        if self._errors is None:
            self._errors = AppendedFile(self._at.errors)
        self._errors.append(row.data)

    def finish(self) -> None:
        """All rows are written: sort them. Raises OutputError."""
        self.close()
        sort(self._at.answers, self._line)
        if self._errors is not None:
            sort(self._at.errors, lambda row: row.error.line if row.error else LAST)

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        for file in (self._answers, self._errors):
            if file is not None:
                file.close()

    def _line(self, row: StoredRow) -> int:
        number = self.ids.get(row.custom_id or "")
        return LAST if number is None or number == DONE else number


class StreamOutput:
    """Stdout, for answers and errors alike, as they are done. Nothing is kept for another start."""

    def __init__(self) -> None:
        self.ids, self.n_kept = IdTable(), 0
        self._file = sys.stdout.buffer

    def put(self, row: Answered) -> None:
        """Write a row."""
        self._file.write(row.data + b"\n")
        self._file.flush()

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is open."""

"""The files of a job's output: read the rows back, and put them in the order of the requests.

While a job runs, rows are in the order in which they were done. At its end they are sorted, so a finished job has the
same bytes however it ran. Only the place of each row is in memory: 24 bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from rwkv_np.errors import FileError
from rwkv_np.files.output import new_file


class _Where(msgspec.Struct):
    line: int


class StoredRow(msgspec.Struct):
    """What is needed of a row to find its request: `custom_id` for an answer, `error.line` for an error."""

    custom_id: str | None
    error: _Where | None = None


class Placed(NamedTuple):
    """A row, and where its line is in the file."""

    row: StoredRow
    begin: int
    end: int


_DECODER = msgspec.json.Decoder(StoredRow)


def rows(path: str) -> Iterator[Placed]:
    """All rows of a file; none if it does not exist. Raises FileError: a line is not a row."""
    begin = 0
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, 1):
            end = begin + len(line)
            yield Placed(_decoded(path, number, line), begin, end)
            begin = end


def _decoded(path: str, number: int, line: bytes) -> StoredRow:
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = f"line {number} is not a row of a batch; delete that line, and its request will be answered again"
        raise FileError(path, problem) from None


def sort(path: str, key: Callable[[StoredRow], int]) -> None:
    """Sort the rows by `key`; equal ones keep their order. The file is replaced by the sorted one, or unchanged.

    Raises FileError, OutputError (the disk is full: it needs room for a second file)
    """
    found = array("q")  # a list of tuples would take ten times as much memory
    for row, begin, end in rows(path):
        found.extend((key(row), begin, end))
    places = np.frombuffer(found, np.int64).reshape(-1, 3) if found else np.empty((0, 3), np.int64)
    if (np.diff(places[:, 0]) >= 0).all():
        return
    places = places[np.argsort(places[:, 0], kind="stable")]
    with open(path, "rb") as old, new_file(path, overwrite=True, durable=True) as made:
        for _, begin, end in places.tolist():
            old.seek(begin)
            made.write(old.read(end - begin))

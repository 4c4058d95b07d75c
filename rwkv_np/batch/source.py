"""The lines of a requests file, one at a time, however many there are and however long one is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

MOST_BYTES = 4_200_000  # of a line: a body may have 4 MB, as in the server
_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 20


class Line(NamedTuple):
    """A line that is not blank.

    number  of the line in its file, from 1
    data    without the line break; None: it is longer than MOST_BYTES
    """

    number: int
    data: bytes | None


def lines(file: BinaryIO) -> Iterator[Line]:
    """All lines of a file that are not blank."""
    number = 0
    while data := file.readline(MOST_BYTES + 1):
        number += 1
        if len(data) > MOST_BYTES:
            _skip_line(file, data)
            yield Line(number, None)
            continue
        data = data.removeprefix(_BOM if number == 1 else b"").strip()
        if data:
            yield Line(number, data)


def _skip_line(file: BinaryIO, data: bytes) -> None:
    while data and not data.endswith(b"\n"):
        data = file.readline(_BLOCK)


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file at `path`, or stdin for "-". Raises OSError."""
    if path == "-":
        yield sys.stdin.buffer
        return
    with open(path, "rb") as file:
        yield file


def count(path: str) -> int | None:
    """The number of lines, for the progress; None if the file can be read only once."""
    if not os.path.isfile(path):
        return None
    n, last = 0, b""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            n, last = n + block.count(b"\n"), block
    return n + (not last.endswith(b"\n") and bool(last))

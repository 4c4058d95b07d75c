"""A file that stays open and is read in pieces, with an error if another program truncates it meanwhile.

If a mapped file (`mapped.py`) is truncated, access to the lost bytes ends the process with a signal (SIGBUS). A check
before each access does not help: copying another file over it truncates it at any moment. A read reports an error
instead. This module does not interpret the bytes. Several threads, and processes after a fork, may read at the same
time, so the file position is never used.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rwkv_np.errors import FileError, PathLike
from rwkv_np.files.reading import open_regular

_LOCK = threading.Lock()


class OpenedFile:
    """The regular file at `path`, of `n_bytes` bytes when it was opened.

    Raises  `error`: it is not a regular file, or empty; OSError
    """

    def __init__(self, path: PathLike, error: type[FileError]) -> None:
        self.path, self._error = os.fspath(path), error
        with open_regular(path, error) as file:
            self._number = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._number)
        self.n_bytes = os.fstat(self._number).st_size
        if not self.n_bytes:
            raise error(path, "is empty. Copy or download it again")

    def read(self, start: int, n_bytes: int) -> np.ndarray:
        """`n_bytes` bytes from `start`, uint8. Raises as `read_into` does."""
        out = np.empty(n_bytes, np.uint8)
        self.read_into(start, out)
        return out

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill `out`, uint8 and contiguous, with the bytes from `start` on.

        Raises  the file's error: the file was truncated since it was opened; OSError
        """
        done = 0
        while done < out.size:  # a read returns at most 2 GB
            n_bytes = _read_into(self._number, out[done:], start + done)
            if not n_bytes:
                raise self._error(self.path, self._what_was_cut())
            done += n_bytes

    def read_each(self, starts: Iterable[int], n_bytes: int) -> np.ndarray:
        """`n_bytes` from each start, concatenated, uint8 and read-only. Raises as `read_into` does."""
        parts = [_read(self._number, n_bytes, start) for start in starts]
        data = np.frombuffer(b"".join(parts), np.uint8)
        if data.size < n_bytes * len(parts):
            raise self._error(self.path, self._what_was_cut())
        return data

    def _what_was_cut(self) -> str:
        now = os.fstat(self._number).st_size
        return (
            f"was truncated from {self.n_bytes:,} to {now:,} bytes while it was in use. Copy or download "
            "it again under another name, and then rename it"
        )


def _read(number: int, n_bytes: int, start: int) -> bytes:
    """Up to `n_bytes` from `start` on."""
    if hasattr(os, "pread"):
        return os.pread(number, n_bytes, start)
    with _LOCK:  # Windows, which has no fork
        os.lseek(number, start, os.SEEK_SET)
        return os.read(number, n_bytes)


def _read_into(number: int, out: np.ndarray, start: int) -> int:
    """The same, into `out`; returns the number of bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(number, [out.data], start)
    data = _read(number, min(out.size, 2**30), start)
    out[: len(data)] = np.frombuffer(data, np.uint8)
    return len(data)


@dataclass(frozen=True)
class Extent:
    """A range of bytes of an opened file, not read yet."""

    file: OpenedFile
    start: int
    size: int

    def part(self, start: int, size: int) -> Extent:
        """Some of them."""
        return Extent(self.file, self.start + start, size)

    def read(self, start: int, n_bytes: int, room: np.ndarray | None = None) -> np.ndarray:
        """A part of them, uint8: at the start of `room`, or in new memory. Raises as `OpenedFile.read_into` does."""
        out = np.empty(n_bytes, np.uint8) if room is None else room[:n_bytes]
        self.file.read_into(self.start + start, out)
        return out

    def rows(self, indices: np.ndarray, n_bytes: int) -> np.ndarray:
        """Rows of that many bytes, uint8, one behind the other in the order of the indices."""
        return self.file.read_each([self.start + n_bytes * i for i in indices.tolist()], n_bytes)


@dataclass(frozen=True)
class InMemory:
    """Bytes in memory, uint8, with the same interface as those of a file."""

    data: np.ndarray

    @property
    def size(self) -> int:
        return self.data.size

    def part(self, start: int, size: int) -> InMemory:
        """Some of them."""
        return InMemory(self.data[start : start + size])

    def read(self, start: int, n_bytes: int, room: np.ndarray | None = None) -> np.ndarray:
        """A part of them, without a copy: `room` is not needed."""
        return self.data[start : start + n_bytes]

    def rows(self, indices: np.ndarray, n_bytes: int) -> np.ndarray:
        """Rows of that many bytes, uint8, one behind the other in the order of the indices."""
        return self.data.reshape(-1, n_bytes)[indices].reshape(-1)

"""A file that only grows, line by line, and loses no line: not to kill -9, not to a full disk.

Each line is one write to the system, so a killed process loses nothing that was written. The disk itself gets the lines
every few seconds, for a machine that loses power. If the disk is full, the part of a line that was written is removed;
a process that is killed in the middle of a line leaves the part, and the next start removes it (`repair`).
"""

from __future__ import annotations

import os
import time
from types import TracebackType

from rwkv_np.files.output import write_error

SYNC_EVERY = 5.0  # seconds
_BLOCK = 1 << 16


class AppendedFile:
    """The file at `path`, made if it is missing. Raises OutputError."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            self._size = os.fstat(self._file).st_size
        except OSError as error:
            raise write_error(path, error) from error
        self._synced = time.monotonic()

    def append(self, data: bytes) -> None:
        """Write a line; `data` has no line break. Raises OutputError, and then the file ends with the line before."""
        line = memoryview(data + b"\n")
        try:
            n = 0
            while n < len(line):
                n += os.write(self._file, line[n:])
            if time.monotonic() > self._synced + SYNC_EVERY:
                self.sync()
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise write_error(self.path, error) from error
        self._size += len(line)

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Close the file, with all lines on the disk. A second call does nothing. Raises OutputError."""
        file, self._file = self._file, -1
        if file < 0:
            return
        try:
            os.fsync(file)
        except OSError as error:
            raise write_error(self.path, error) from error
        finally:
            os.close(file)

    def __enter__(self) -> AppendedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def repair(path: str) -> None:
    """Remove a last line without its line break, which a killed process has left. Raises OutputError."""
    try:
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            end = _end_of_lines(file.fileno(), size)
            if end < size:
                file.truncate(end)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise write_error(path, error) from error


def _end_of_lines(file: int, size: int) -> int:
    """The place after the last line break, searched from the end."""
    at = size
    while at > 0:
        begin = max(0, at - _BLOCK)
        os.lseek(file, begin, os.SEEK_SET)
        found = os.read(file, at - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        at = begin
    return 0

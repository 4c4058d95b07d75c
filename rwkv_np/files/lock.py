"""One process at a time: a lock that the system releases with the process that has it.

For long work on files with fixed names (a resumed download, a model being made). Files that are written in one step
have unique names instead (output.py). If a file system has no locks, there is no waiting.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

_EVERY_S = 0.2  # seconds between two attempts


@contextmanager
def locked(path: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file at `path` in this block; `on_wait` is called once if another process has it.

    The file and its folder are made, and stay. The process with the lock may delete both: the next one makes them
    again.
    """
    file, is_told = _opened(path), False
    try:
        while not (_try(file) and _is_at(file, path)):
            if not is_told and on_wait is not None and _is_at(file, path):
                on_wait()
                is_told = True
            time.sleep(_EVERY_S)
            if not _is_at(file, path):  # deleted while we waited: a lock on it has no effect
                file.close()
                file = _opened(path)
        yield
    finally:
        file.close()


def is_locked(path: str) -> bool:
    """Whether another process has the lock file at `path`."""
    with suppress(FileNotFoundError), open(path, "r+b") as file:
        return not _try(file)
    return False


def _opened(path: str) -> BinaryIO:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return open(path, "ab")


def _is_at(file: BinaryIO, path: str) -> bool:
    """Whether the open file is the one that is now at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _try(file: BinaryIO) -> bool:
    """Lock the file until it is closed. False: another process has it."""
    try:
        if fcntl is not None:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True

"""Files that are given to be read whole: regular ones, up to a limit.

A named pipe without a writer would wait for ever, /dev/zero would fill the memory, and a file of
gigabytes is no text that anybody meant. So it is looked at what stands there before it is read. What
a shell opened already (`-f <(command)`) is a pipe too, but one that ends; and /dev/null is an empty file.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from rwkv_np.errors import FileError, PathLike

TEXT_LIMIT = 64_000_000  # bytes: ten times the longest book, and no more than a second of reading
_OPENED = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")
_KINDS = (
    (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


def open_regular(path: PathLike) -> BinaryIO:
    """The regular file at `path`, opened to be read. Raises FileError: it is a pipe or a device; OSError"""
    # Without O_NONBLOCK, opening a pipe waits for a writer; of a regular file it changes nothing.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check(path, os.fstat(number).st_mode)
    except BaseException:
        os.close(number)
        raise
    return os.fdopen(number, "rb")


def read_regular(path: PathLike, limit: int = TEXT_LIMIT) -> bytes:
    """All bytes of the regular file at `path`, or of a pipe that a shell opened.

    Raises FileError: it is another kind of file, or has more than `limit` bytes; OSError
    """
    is_opened = os.fspath(path).startswith(_OPENED)
    with open(path, "rb") if is_opened else open_regular(path) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISFIFO(mode):
            _check(path, mode)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FileError(path, f"has more than {limit:,} bytes; that is more than is read at once")
    return data


def _check(path: PathLike, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), None)
    if kind and not os.path.samefile(path, os.devnull):
        raise FileError(path, f"is {kind}; expected a regular file")

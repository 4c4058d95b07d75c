"""Open files named by the user: only regular ones, of a plausible size.

A path may name a pipe that nobody writes to, /dev/zero, or a film. Reading to the end would then take forever
or use all memory. So the kind of file is checked first, and no reader requests more than its limit.
A text may also come through a pipe that is already open (`/dev/stdin`, `<(command)`), with the same limit.
"""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from rwkv_np.errors import FileError, PathLike

MB = 10**6
SETTINGS_LIMIT = 4 * MB  # an opening with a hundred long turns has 0.1 MB
TOKENIZER_LIMIT = 256 * MB  # the largest tokenizer.json of the hub has 33 MB
MESSAGE_LIMIT = 64 * MB  # 16 million tokens: a day of reading for a small model
TEXT_LIMIT = 1000 * MB  # a text to evaluate: Wikipedia's first billion bytes
STATE_LIMIT = 4000 * MB

_OPENED = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")  # where a shell puts the pipe of `<(command)`
_STEP = 2**20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_regular(path: PathLike, error: type[FileError]) -> BinaryIO:
    """The file at `path`, open for reading. Raises `error`: it is not a regular file; OSError."""
    # Non-blocking: otherwise opening a pipe would wait for a writer.
    number = os.open(path, _flags(blocking=False))
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode) or _is_null(number):
        return os.fdopen(number, "rb")
    os.close(number)
    raise error(path, f"is {_kind(mode)}; expected a regular file")


def read_regular(path: PathLike, limit: int, error: type[FileError]) -> bytes:
    """All bytes of a regular file. Raises `error`: it is not one, or has more than `limit` bytes; OSError."""
    with open_regular(path, error) as file:
        return read_stream(file, path, limit, error)


def read_text_file(path: PathLike, limit: int, error: type[FileError]) -> bytes:
    """All bytes of a file, or of a pipe that is already open, such as /dev/stdin. Raises as `read_regular` does."""
    if not os.fspath(path).startswith(_OPENED):
        return read_regular(path, limit, error)
    number = os.open(path, _flags(blocking=True))
    mode = os.fstat(number).st_mode
    # A terminal is a device, but it has an end: Ctrl-D.
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(number) or _is_null(number):
        with os.fdopen(number, "rb") as file:
            return read_stream(file, path, limit, error)
    os.close(number)
    raise error(path, f"is {_kind(mode)}; expected a file or a pipe")


def read_stream(file: BinaryIO, name: PathLike, limit: int, error: type[FileError]) -> bytes:
    """The rest of `file`, called `name` in messages. Raises `error`: it has more than `limit` bytes."""
    parts, n_bytes = [], 0
    # In steps: a single read of `limit` bytes would allocate that much memory before the size is known.
    while part := file.read(min(_STEP, limit + 1 - n_bytes)):
        parts.append(part)
        n_bytes += len(part)
        if n_bytes > limit:
            raise error(name, f"has more than {limit / MB:,.0f} MB, the limit for such a file")
    return b"".join(parts)


def _flags(blocking: bool) -> int:
    names = ("O_CLOEXEC", "O_BINARY", *(() if blocking else ("O_NONBLOCK",)))  # not every system has all of them
    return os.O_RDONLY | sum(getattr(os, name, 0) for name in names)


def _is_null(number: int) -> bool:
    """Whether it is /dev/null, which counts as an empty file: `--config /dev/null`."""
    return os.path.samestat(os.fstat(number), os.stat(os.devnull))


def _kind(mode: int) -> str:
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "a file of an unknown kind")

"""Files that are written completely or not at all.

A file is written next to its destination and renamed when it is complete. Whatever stops the
writing (an error, Ctrl-C, a full disk) leaves the previous file, and nothing else.

A killed process leaves its partial file. Each is locked by its writer, and the system releases a lock with its
process: the next writer in the folder deletes partial files that are not locked. Process ids would not do: they
are reused, and in a container every process may be process 1.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import BinaryIO

from rwkv_np.errors import OutputError, PathLike

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

OVERWRITE = "use --overwrite, or choose another name"  # for the commands; other callers pass their own


def check_destination(
    path: PathLike, source: PathLike | None, overwrite: bool, n_bytes: int = 0, *, mend: str = OVERWRITE
) -> None:
    """Raise OutputError if `path` cannot be written: before the work, not after it.

    source   the file being read, which `path` must not be
    n_bytes  the size to be written: the disk must have that much free space
    mend     what to do if `path` exists, for the message
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if source is not None and os.path.exists(path) and os.path.samefile(path, source):
        raise OutputError(path, "is the source file itself; choose another destination")
    if os.path.isdir(path):
        raise OutputError(path, "is a folder; name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputError(path, "is not a regular file; choose another destination")
    if os.path.exists(path) and not overwrite:
        raise OutputError(path, f"already exists; {mend}")
    if not os.path.isdir(folder):
        raise OutputError(path, f"the folder {folder} does not exist; create it: mkdir -p {shlex.quote(folder)}")
    if not os.access(folder, os.W_OK):
        raise OutputError(path, f"the folder {folder} is not writable; choose another folder")
    _sweep(folder)
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OutputError(
            path, f"needs {n_bytes:,} bytes, and the disk has {free:,} free; free some space, or write elsewhere"
        )


@contextmanager
def new_file(
    path: PathLike, *, overwrite: bool = False, durable: bool = False, mend: str = OVERWRITE
) -> Iterator[BinaryIO]:
    """A file to write to, which is moved to `path` when the block ends without an error.

    durable  also wait until it is on the disk: for data that cannot be recreated
    mend     as in check_destination
    Raises   OutputError
    """
    check_destination(path, None, overwrite, mend=mend)
    place = os.path.realpath(path)  # a link stays a link: its target is replaced
    folder, name = os.path.split(place)
    part, lock = "", -1
    try:
        file = _new_part(folder, name)
        # Keep the lock until the file is renamed: otherwise another process could delete it before.
        part, lock = file.name, -1 if fcntl is None else os.dup(file.fileno())
        with file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, place)
    except OSError as error:
        raise write_error(place, error) from error
    finally:
        if part:
            with suppress(FileNotFoundError):
                os.unlink(part)
        if lock >= 0:
            os.close(lock)


_PART = re.compile(r"\..+\.[0-9a-f]{8}\.rwkv\.part")


def _new_part(folder: str, name: str) -> BinaryIO:
    """A file with a unique name, open for writing, and locked."""
    while True:
        file = open(os.path.join(folder, f".{name}.{secrets.token_hex(4)}.rwkv.part"), "xb")  # noqa: SIM115
        if not _lock(file) or os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # just before it was locked, another process deleted it as abandoned


def _sweep(folder: str) -> None:
    """Delete the partial files of killed processes."""
    if fcntl is None:
        return
    parts: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        parts = [entry.path for entry in entries if _PART.fullmatch(entry.name) and not entry.is_symlink()]
    for part in parts:
        # Non-blocking, in case it is a pipe.
        with suppress(OSError), open(os.open(part, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if _lock(file):
                os.unlink(part)


def _lock(file: BinaryIO) -> bool:
    """Lock the file until it is closed, or its process ends. False: another process has it, or there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_error(path: str, error: OSError) -> OutputError:
    """What an error of the system while writing `path` is to its user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(path, f"could not be written: {error.strerror}. Free some space, or write elsewhere")
    return OutputError(path, f"could not be written: {error.strerror or error}")

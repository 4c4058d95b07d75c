"""Files that appear whole or not at all.

A file is written beside its place and renamed into it when it is complete. Whatever stops
the writing (an error, Ctrl-C, a full disk) leaves what stood there before, and nothing else.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from rwkv_np.errors import OutputError, PathLike

OVERWRITE = "give --overwrite to replace it, or another name"  # of the commands; others say what there is with them


def check_destination(
    path: PathLike, source: PathLike | None, overwrite: bool, n_bytes: int = 0, *, mend: str = OVERWRITE
) -> None:
    """Raise OutputError where `path` cannot be written: said before the work, not after it.

    source   the file being read, which `path` must not be
    n_bytes  what will be written: the disk must have room for it
    mend     what to do where `path` exists, in the words of whoever asks
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if source is not None and os.path.exists(path) and os.path.samefile(path, source):
        raise OutputError(path, "is the source itself; name another destination")
    if os.path.isdir(path):
        raise OutputError(path, "is a folder; name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputError(path, "is no regular file; name another destination")
    if os.path.exists(path) and not overwrite:
        raise OutputError(path, f"exists already; {mend}")
    if not os.path.isdir(folder):
        raise OutputError(path, f"the folder {folder} does not exist; make it: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(path, f"the folder {folder} is not writable; name a destination elsewhere")
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OutputError(
            path, f"needs {n_bytes:,} bytes, and the disk has {free:,} free; make room, or write elsewhere"
        )


@contextmanager
def new_file(
    path: PathLike, *, overwrite: bool = False, durable: bool = False, mend: str = OVERWRITE
) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place at `path` when the block ends well.

    durable  also wait until the disk holds it: for what cannot be made again
    mend     as in check_destination
    Raises   OutputError
    """
    check_destination(path, None, overwrite, mend=mend)
    place = os.path.realpath(path)  # a link stays a link: what it points to is replaced
    folder, name = os.path.split(place)
    part = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.part")  # in a container, all are process 1
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, place)
    except OSError as error:
        raise _output_error(place, error) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)


def _output_error(path: str, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(path, f"could not be written: {error.strerror}. Make room, or write elsewhere")
    return OutputError(path, f"could not be written: {error.strerror or error}")

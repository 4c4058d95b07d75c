"""A mapped file, and whether it still has its original size.

Reading beyond the end of a mapped file that was truncated meanwhile cannot raise a Python error: the process
crashes (SIGBUS). Copying a file over another first truncates it to zero bytes. So every reader of a mapping
checks here first, which takes a microsecond. Only the moment between the check and the read stays unprotected: a
model file, which is read for longest and most often, is not mapped (`opened.py`).
"""

from __future__ import annotations

import mmap
import os

import numpy as np

from rwkv_np.errors import FileError, PathLike
from rwkv_np.files.reading import open_regular


class MappedFile:
    """The bytes of the regular file at `path`, uint8, as `data`.

    Copied on write, so that nobody can change the file through it; NumPy and torch take it as writable.
    Raises  `error`: it is no regular file, or empty; OSError
    """

    def __init__(self, path: PathLike, error: type[FileError], mode: str = "r") -> None:
        self.path, self._error = os.fspath(path), error
        with open_regular(path, error) as file:
            if not os.fstat(file.fileno()).st_size:
                raise error(path, "is empty. Copy or download it again")
            memmap = np.memmap(file, np.uint8, mode)  # type: ignore[call-overload]
        self._mmap: mmap.mmap = memmap.base
        self.n_bytes = memmap.size
        self.data = memmap.view(np.ndarray)  # slicing a memmap takes five times as long

    def check(self) -> None:
        """Raise the error if the file was truncated since it was mapped."""
        if self._mmap.size() < self.n_bytes:
            raise self._error(
                self.path,
                f"was cut from {self.n_bytes:,} to {self._mmap.size():,} bytes while it was in use. Copy or download "
                "it again under another name, and then rename it",
            )

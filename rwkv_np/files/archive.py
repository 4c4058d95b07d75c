"""Zip archives of arrays and text from untrusted sources (states, saved conversations): read them within limits.

A few kilobytes can unpack to gigabytes, and an array's header is a Python expression. So the size of a member
is checked in the directory before unpacking; no more is read than expected; and a header must match
what NumPy writes for plain numbers, and is never evaluated. The caller checks type and shape of an array.
"""

from __future__ import annotations

import errno
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from rwkv_np.errors import FileError, PathLike, as_line
from rwkv_np.files.reading import open_regular

# What Python's zipfile, and readers of pickles, raise for damaged files. (NotImplementedError: an unknown
# compression; RuntimeError: encrypted members.)
DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, LookupError,
    OverflowError,
)  # fmt: skip
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '([<>|=](?:[biufc][0-9]{1,2}|U[0-9]{1,2}))', 'fortran_order': (False|True), "
    rb"'shape': \(([0-9, ]*)\), \} *\n",
    re.DOTALL,
)
_MOST_OF_A_HEADER = 4096  # bytes; NumPy's headers have 128


class Damaged(ValueError):
    """The content is not what this program wrote."""


class Header(NamedTuple):
    """The header of an array, and its size in bytes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    is_fortran: bool
    size: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the numbers that should follow."""
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def open_archive(path: PathLike) -> Iterator[Archive]:
    """The archive at `path`. Raises Damaged, also from its methods; FileError: it is a pipe or a device; OSError"""
    with open_regular(path, FileError) as file:
        with _damage_named():
            archive = zipfile.ZipFile(file)
        with archive:
            yield Archive(archive)


class Archive:
    """The members of a zip archive, by name. Every method raises Damaged."""

    def __init__(self, members: zipfile.ZipFile) -> None:
        self._members = members
        self._infos = {info.filename: info for info in members.infolist()}

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def read(self, name: str, limit: int) -> bytes:
        """A member, which must have at most `limit` bytes."""
        info = self._info(name)
        if info.file_size > limit:
            raise Damaged(f"{name} has {info.file_size:,} bytes; expected at most {limit:,}")
        with _damage_named(), self._members.open(info) as member:
            data = member.read(info.file_size + 1)  # Python allocates the requested size
        if len(data) != info.file_size:
            raise Damaged(f"{name} has {len(data):,} bytes; expected {info.file_size:,}")
        return data

    def header(self, name: str) -> Header:
        """The header of the array of that name; the rest is not unpacked."""
        with _damage_named(), self._members.open(self._info(f"{name}.npy")) as member:
            return _header(name, member.read(_MOST_OF_A_HEADER))

    def array(self, name: str, limit: int) -> np.ndarray:
        """The array of that name, which must have at most `limit` bytes; it cannot be written to."""
        data = self.read(f"{name}.npy", limit + _MOST_OF_A_HEADER)
        header = _header(name, data)
        if len(data) - header.size != header.n_bytes:
            raise Damaged(f"{name} has {len(data) - header.size:,} bytes of data; its header says {header.n_bytes:,}")
        with _damage_named():
            flat = np.frombuffer(data, header.dtype, offset=header.size)
            return flat.reshape(header.shape, order="F" if header.is_fortran else "C")

    def word(self, name: str) -> str:
        """A short word of letters and digits, stored as an array of one string."""
        array = self.array(name, 400)
        if array.dtype.kind != "U" or array.ndim:
            raise Damaged(f"{name} is not a word")
        with _damage_named():  # a NumPy string may contain numbers that are not characters: SystemError
            word = array.tobytes().decode("utf-32-be" if array.dtype.str[0] == ">" else "utf-32-le").rstrip("\0")
        if not re.fullmatch(r"[\w.-]{1,40}", word):
            raise Damaged(f"{name} is not a word")
        return word

    def _info(self, name: str) -> zipfile.ZipInfo:
        info = self._infos.get(name)
        if info is None:
            raise Damaged(f"{name} is missing")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise Damaged(f"{name} has an unsupported compression")
        return info


def _header(name: str, data: bytes) -> Header:
    found = _HEADER.match(data)
    if not found or found.end() != 10 + int.from_bytes(found[1], "little"):
        raise Damaged(f"{name} is not an array of numbers")
    try:
        dtype = np.dtype(found[2].decode())
        shape = tuple(int(n) for n in found[4].split(b",") if n.strip())
    except (TypeError, ValueError) as error:  # such as <f3, or 1 2
        raise Damaged(f"{name} is not an array of numbers") from error
    return Header(dtype, shape, found[3] == b"True", found.end())


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except Damaged:
        raise
    except DAMAGE as error:
        raise Damaged(as_line(str(error) or type(error).__name__, 100)) from error
    except OSError as error:  # a wrong offset in the directory; other errors come from the disk
        if error.errno not in (None, errno.EINVAL):
            raise
        raise Damaged(as_line(str(error) or type(error).__name__, 100)) from error

"""Read the parts of a GGUF file one after another: numbers, strings, values, and what it says about a tensor.

`gguf.py` knows their order. Each length is compared with what is left of the file before memory is allocated or
a loop runs over it. An array stays in the file: 65,536 strings would take ten times their size as Python objects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from rwkv_np.errors import FormatError
from rwkv_np.files.ggml_types import GGML_TYPES, OTHER_TYPES
from rwkv_np.files.opened import Extent, OpenedFile
from rwkv_np.files.quants import DataType

MAX_DIMENSIONS = 4
MAX_NAME = 512  # bytes of a key or a name; ggml's limit for names is 64
MAX_STRING = 2**24  # bytes; chat templates have up to 20,000
MAX_STRINGS = 2**22  # of an array; merges of large vocabularies are 300,000
STEP = 2**20  # bytes that are read at a time

BOOL, STRING, ARRAY = 7, 8, 9
# The number types, by their code.
NUMBERS: dict[int, np.dtype[Any]] = {code: np.dtype(name) for code, name in (
    (0, "u1"), (1, "i1"), (2, "<u2"), (3, "<i2"), (4, "<u4"), (5, "<i4"), (6, "<f4"), (BOOL, "?"), (10, "<u8"),
    (11, "<i8"), (12, "<f8"),
)}  # fmt: skip

DAMAGED = "The file is damaged: copy or download it again"

Value = Union[int, float, bool, str, "Array"]


@dataclass(frozen=True)
class Array:
    """An array in the metadata, not read yet.

    item    the code of its items' type: STRING or a key of NUMBERS
    stored  its bytes in the file
    """

    item: int
    count: int
    stored: Extent

    def __len__(self) -> int:
        return self.count

    def read(self) -> np.ndarray:
        """Its bytes, uint8."""
        return self.stored.read(0, self.stored.size)

    def numbers(self) -> np.ndarray:
        """Its items, (count,); an array of strings has none."""
        return self.read().view(NUMBERS[self.item]) if self.item in NUMBERS else np.empty(0)

    def strings(self) -> Iterator[bytes]:
        """Its items, as the file has them."""
        data, at = self.read().tobytes(), 0
        for _ in range(self.count if self.item == STRING else 0):
            end = at + 8 + int.from_bytes(data[at : at + 8], "little")
            yield data[at + 8 : end]
            at = end


@dataclass(frozen=True)
class Info:
    """What the file says about a tensor; `offset` from the start of the data."""

    name: str
    shape: tuple[int, ...]
    data_type: DataType
    offset: int
    n_bytes: int


class Reader:
    """Reads the parts of a file one after another, from offset `at`."""

    def __init__(self, file: OpenedFile, at: int = 0) -> None:
        self.path, self._file, self.at = file.path, file, at
        self._data, self._start = b"", at  # what was read last, and from which offset on

    def take(self, n_bytes: int, what: str) -> bytes:
        """The next bytes. Raises FormatError: the file ends before."""
        self._check(n_bytes, what)
        first = self.at - self._start
        if first + n_bytes > len(self._data):
            n_read = min(max(n_bytes, STEP), self._file.n_bytes - self.at)
            self._data, self._start, first = self._file.read(self.at, n_read).tobytes(), self.at, 0
        self.at += n_bytes
        return self._data[first : first + n_bytes]

    def _check(self, n_bytes: int, what: str) -> None:
        if n_bytes > self._file.n_bytes - self.at:
            raise FormatError(
                self.path,
                f"ends in the middle of {what}: it needs {n_bytes} bytes at offset {self.at}, the file has "
                f"{self._file.n_bytes} bytes. {DAMAGED}",
            )

    def skip(self, n_bytes: int, what: str) -> None:
        """Go on after the next bytes. Raises FormatError: the file ends before."""
        self._check(n_bytes, what)
        self.at += n_bytes
        if self.at > self._start + len(self._data):
            self._data, self._start = b"", self.at

    def number(self, n_bytes: int, what: str) -> int:
        """The next unsigned number."""
        return int.from_bytes(self.take(n_bytes, what), "little")

    def string(self, what: str) -> str:
        """The next string. Raises FormatError: also if it is not UTF-8."""
        n_bytes = self.number(8, what)
        self._check(n_bytes, what)
        if n_bytes > MAX_STRING:
            problem = f"{what} has {n_bytes:,} bytes; expected at most {MAX_STRING:,}"
            raise FormatError(self.path, f"{problem}. {DAMAGED}")
        found = self.take(n_bytes, what)
        try:
            return found.decode()
        except UnicodeDecodeError as error:
            raise FormatError(self.path, f"{what} is not UTF-8: {found[:40]!r}. {DAMAGED}") from error

    def name(self, what: str) -> str:
        """The next string, which must be a short one that can be shown."""
        start = self.at
        n_bytes = self.number(8, what)
        self.at = start
        if not 1 <= n_bytes <= MAX_NAME:
            problem = f"{what} at offset {start} has {n_bytes} bytes; expected 1 to {MAX_NAME}"
            raise FormatError(self.path, f"{problem}. {DAMAGED}")
        found = self.string(what)
        if not found.isprintable():
            raise FormatError(self.path, f"{what} at offset {start} is {found[:40]!r}. {DAMAGED}")
        return found

    def value(self, key: str) -> Value:
        """The next value; an array stays in the file."""
        code = self.number(4, key)
        if code == STRING:
            return self.string(key)
        if code == ARRAY:
            return self._array(key)
        if code not in NUMBERS:
            raise FormatError(self.path, f"{key} has the unknown type {code}. {DAMAGED}")
        dtype = NUMBERS[code]
        found: Value = np.frombuffer(self.take(dtype.itemsize, key), _bytes_of(dtype))[0].item()
        return bool(found) if code == BOOL else found

    def _array(self, key: str) -> Array:
        item, count = self.number(4, key), self.number(8, key)
        start = self.at
        if item == STRING:
            self._skip_strings(key, count)
        elif item in NUMBERS:
            self.skip(count * NUMBERS[item].itemsize, key)
        else:
            what = "arrays" if item == ARRAY else f"the unknown type {item}"
            raise FormatError(self.path, f"{key} is an array of {what}; expected numbers or strings. {DAMAGED}")
        return Array(item, count, Extent(self._file, start, self.at - start))

    def _skip_strings(self, key: str, count: int) -> None:
        # Each takes at least its length: a count of billions is refused before the loop.
        self._check(8 * count, key)
        if count > MAX_STRINGS:
            problem = f"{key} promises {count:,} strings; expected at most {MAX_STRINGS:,}"
            raise FormatError(self.path, f"{problem}. {DAMAGED}")
        for _ in range(count):
            # The length is in what was read last, but for one string in thousands: without two calls for each,
            # 65,536 take 20 ms and not 80.
            first = self.at - self._start
            length = self._data[first : first + 8]
            if len(length) < 8:
                length = self.take(8, key)
                self.at -= 8
            self.at += 8 + int.from_bytes(length, "little")
            if self.at > self._file.n_bytes:
                self.at -= int.from_bytes(length, "little")
                self._check(int.from_bytes(length, "little"), key)

    def info(self) -> Info:
        """The next tensor's place, shape and type."""
        name = self.name("the name of a tensor")
        n_dims = self.number(4, name)
        if not 1 <= n_dims <= MAX_DIMENSIONS:
            problem = f"{name} has {n_dims} dimensions; expected 1 to {MAX_DIMENSIONS}"
            raise FormatError(self.path, f"{problem}. {DAMAGED}")
        shape = struct.unpack(f"<{n_dims}Q", self.take(8 * n_dims, name))[::-1]
        data_type = _data_type(self.path, name, self.number(4, name))
        n_bytes = _n_bytes(self.path, name, shape, data_type)
        return Info(name, shape, data_type, self.number(8, name), n_bytes)


def _data_type(path: str, name: str, code: int) -> DataType:
    found = GGML_TYPES.get(code)
    if found is None:
        what = OTHER_TYPES.get(code, f"an unknown type (code {code})")
        known = ", ".join(t.name for t in GGML_TYPES.values())
        raise FormatError(path, f"{name} is {what}; supported types: {known}. Get the model in one of them")
    return found


def _n_bytes(path: str, name: str, shape: tuple[int, ...], data_type: DataType) -> int:
    """Bytes of a tensor, as Python integers: a wrong shape must not overflow."""
    block = data_type.format.block_size
    if min(shape) <= 0 or shape[-1] % block:
        raise FormatError(
            path,
            f"{name} has the shape {shape}; expected positive sizes, and rows of whole blocks of {block} for "
            f"{data_type.name}. {DAMAGED}",
        )
    n_weights = 1
    for size in shape:
        n_weights *= size
    return data_type.format.n_bytes(n_weights)


def _bytes_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A boolean is read as a byte: another byte than 0 and 1 is no valid one for NumPy."""
    return np.dtype("u1") if dtype == np.bool_ else dtype

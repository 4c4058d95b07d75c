"""Read a GGUF file, the container of llama.cpp: metadata, and where the tensors are.

    header    "GGUF" | u32 version | u64 number of tensors | u64 number of pairs
    pair      string key | u32 type | value; an array: u32 type of its items | u64 count | items
    tensor    string name | u32 dimensions | u64 sizes, the row length first | u32 ggml type | u64 offset
    data      from the next multiple of `general.alignment`; offsets count from there

Little-endian. A string is its length (u64) and that many bytes of UTF-8. `models/gguf.py` knows what the
names mean.

The file is a stranger's: each length is compared with what is left of the file before memory is allocated or
a loop runs over it. An array of 65,536 strings is skipped at first, and read only by who needs it: as Python
objects it would take ten times its size. The `gguf` package takes 1.5 s and 135 MB for it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union

import numpy as np

from rwkv_np.errors import FormatError, PathLike
from rwkv_np.files.ggml_types import GGML_TYPES, OTHER_TYPES
from rwkv_np.files.opened import Extent, OpenedFile
from rwkv_np.files.quants import DataType
from rwkv_np.files.reading import open_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # they differ only in that 3 may be big-endian
ALIGNMENT = 32  # unless the metadata say otherwise
MAX_TENSORS = 10_000  # RWKV-7 of 61 layers has 2,000
MAX_PAIRS = 10_000  # models of 2026 have about 40
MAX_DIMENSIONS = 4
MAX_NAME = 512  # bytes of a key or a name; ggml's limit for names is 64
MAX_ALIGNMENT = 2**20
MAX_STRING = 2**24  # bytes; chat templates have up to 20,000
MAX_STRINGS = 2**22  # of an array; merges of large vocabularies are 300,000
STEP = 2**20  # bytes that are read at a time

BOOL, STRING, ARRAY = 7, 8, 9
# The number types, by their code.
NUMBERS: dict[int, np.dtype[Any]] = {code: np.dtype(name) for code, name in (
    (0, "u1"), (1, "i1"), (2, "<u2"), (3, "<i2"), (4, "<u4"), (5, "<i4"), (6, "<f4"), (BOOL, "?"), (10, "<u8"),
    (11, "<i8"), (12, "<f8"),
)}  # fmt: skip

_DAMAGED = "The file is damaged: copy or download it again"

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
class Tensor:
    """A tensor of the file: `shape` in NumPy's order, and where its bytes are."""

    name: str
    shape: tuple[int, ...]
    data_type: DataType
    stored: Extent

    @property
    def data(self) -> np.ndarray:
        """Its bytes, uint8."""
        return self.stored.read(0, self.stored.size)


def is_gguf(path: PathLike) -> bool:
    """Whether the file begins as GGUF files do. Raises FormatError: it is not a regular file; OSError."""
    if os.path.isdir(path):
        return False
    with open_regular(path, FormatError) as file:
        return file.read(len(MAGIC)) == MAGIC


class GgufFile:
    """An opened GGUF file.

    metadata   the pairs, in the file's order
    tensors    by name, in the file's order; read when they are first asked for, so that a model of another
               program can be refused by the metadata alone
    Raises     FormatError, OSError
    """

    def __init__(self, path: PathLike) -> None:
        self.file = OpenedFile(path, FormatError)
        self.path, self.n_bytes = self.file.path, self.file.n_bytes
        reader = _Reader(self.file)
        self.version, self._n_tensors, n_pairs = _header(reader)
        self.metadata: dict[str, Value] = {}
        for _ in range(n_pairs):
            key = reader.name("a key of the metadata")
            if key in self.metadata:
                raise FormatError(self.path, f"contains the key {key} twice. {_DAMAGED}")
            self.metadata[key] = reader.value(key)
        self._tensors_at = reader.at
        if (n_parts := self.metadata.get("split.count", 1)) != 1:
            raise FormatError(
                self.path,
                f"is one of {n_parts} parts of a split file. Join them with llama.cpp: llama-gguf-split --merge",
            )

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Raises FormatError: also a type that this version does not know."""
        reader = _Reader(self.file, self._tensors_at)
        infos: dict[str, _Info] = {}
        for _ in range(self._n_tensors):
            info = reader.info()
            if info.name in infos:
                raise FormatError(self.path, f"contains the tensor {info.name} twice. {_DAMAGED}")
            infos[info.name] = info
        alignment = self._alignment()
        start = -(-reader.at // alignment) * alignment
        _check_places(self.path, infos, start, alignment, self.n_bytes)
        return {name: info.tensor(self.file, start) for name, info in infos.items()}

    def _alignment(self) -> int:
        found = self.metadata.get("general.alignment", ALIGNMENT)
        # A power of two, as ggml demands. `True` is an int.
        if type(found) is not int or not 0 < found <= MAX_ALIGNMENT or found & (found - 1):
            raise FormatError(
                self.path,
                f"general.alignment is {_shown(found)}; expected a power of two up to {MAX_ALIGNMENT:,}. {_DAMAGED}",
            )
        return found


@dataclass(frozen=True)
class _Info:
    """What the file says about a tensor; `offset` from the start of the data."""

    name: str
    shape: tuple[int, ...]
    data_type: DataType
    offset: int
    n_bytes: int

    def tensor(self, file: OpenedFile, start: int) -> Tensor:
        return Tensor(self.name, self.shape, self.data_type, Extent(file, start + self.offset, self.n_bytes))


class _Reader:
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
                f"{self._file.n_bytes} bytes. {_DAMAGED}",
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
            raise FormatError(self.path, f"{problem}. {_DAMAGED}")
        found = self.take(n_bytes, what)
        try:
            return found.decode()
        except UnicodeDecodeError as error:
            raise FormatError(self.path, f"{what} is not UTF-8: {found[:40]!r}. {_DAMAGED}") from error

    def name(self, what: str) -> str:
        """The next string, which must be a short one that can be shown."""
        start = self.at
        n_bytes = self.number(8, what)
        self.at = start
        if not 1 <= n_bytes <= MAX_NAME:
            problem = f"{what} at offset {start} has {n_bytes} bytes; expected 1 to {MAX_NAME}"
            raise FormatError(self.path, f"{problem}. {_DAMAGED}")
        found = self.string(what)
        if not found.isprintable():
            raise FormatError(self.path, f"{what} at offset {start} is {found[:40]!r}. {_DAMAGED}")
        return found

    def value(self, key: str) -> Value:
        """The next value; an array stays in the file."""
        code = self.number(4, key)
        if code == STRING:
            return self.string(key)
        if code == ARRAY:
            return self._array(key)
        if code not in NUMBERS:
            raise FormatError(self.path, f"{key} has the unknown type {code}. {_DAMAGED}")
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
            raise FormatError(self.path, f"{key} is an array of {what}; expected numbers or strings. {_DAMAGED}")
        return Array(item, count, Extent(self._file, start, self.at - start))

    def _skip_strings(self, key: str, count: int) -> None:
        # Each takes at least its length: a count of billions is refused before the loop.
        self._check(8 * count, key)
        if count > MAX_STRINGS:
            problem = f"{key} promises {count:,} strings; expected at most {MAX_STRINGS:,}"
            raise FormatError(self.path, f"{problem}. {_DAMAGED}")
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

    def info(self) -> _Info:
        """The next tensor's place, shape and type."""
        name = self.name("the name of a tensor")
        n_dims = self.number(4, name)
        if not 1 <= n_dims <= MAX_DIMENSIONS:
            problem = f"{name} has {n_dims} dimensions; expected 1 to {MAX_DIMENSIONS}"
            raise FormatError(self.path, f"{problem}. {_DAMAGED}")
        shape = struct.unpack(f"<{n_dims}Q", self.take(8 * n_dims, name))[::-1]
        data_type = _data_type(self.path, name, self.number(4, name))
        n_bytes = _n_bytes(self.path, name, shape, data_type)
        return _Info(name, shape, data_type, self.number(8, name), n_bytes)


def _header(reader: _Reader) -> tuple[int, int, int]:
    """(version, number of tensors, number of pairs)"""
    path = reader.path
    if reader.take(4, "the header") != MAGIC:
        raise FormatError(path, "is not a GGUF file")
    version = reader.number(4, "the header")
    if version and version & 0xFFFF == 0:
        raise FormatError(path, "is a big-endian GGUF file; only little-endian ones are supported. Get one of those")
    if version not in VERSIONS:
        made = "Get a newer file of the model, or convert its checkpoint with llama.cpp again"
        raise FormatError(path, f"is a GGUF file of version {version}; supported versions: 2 and 3. {made}")
    counts = reader.number(8, "the header"), reader.number(8, "the header")
    for count, most, what in zip(counts, (MAX_TENSORS, MAX_PAIRS), ("tensors", "pairs of metadata")):
        if count > most:
            raise FormatError(path, f"promises {count:,} {what}; expected at most {most:,}. {_DAMAGED}")
    return version, *counts


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
            f"{data_type.name}. {_DAMAGED}",
        )
    n_weights = 1
    for size in shape:
        n_weights *= size
    return data_type.format.n_bytes(n_weights)


def _check_places(path: str, infos: dict[str, _Info], start: int, alignment: int, n_bytes: int) -> None:
    """Raise FormatError unless all tensors lie in the file, aligned, and none overlaps another."""
    end, before = 0, ""
    for info in sorted(infos.values(), key=lambda info: info.offset):
        if info.offset % alignment:
            raise FormatError(path, f"{info.name} begins at {info.offset}, not a multiple of {alignment}. {_DAMAGED}")
        if info.offset < end:
            raise FormatError(path, f"{info.name} overlaps {before}. {_DAMAGED}")
        end, before = info.offset + info.n_bytes, info.name
        if start + end > n_bytes:
            raise FormatError(
                path, f"ends in the middle of {info.name}: the file has {n_bytes} bytes of {start + end}. {_DAMAGED}"
            )


def _bytes_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A boolean is read as a byte: another byte than 0 and 1 is no valid one for NumPy."""
    return np.dtype("u1") if dtype == np.bool_ else dtype


def _shown(value: Value) -> str:
    return f"an array of {len(value)}" if isinstance(value, Array) else repr(value)

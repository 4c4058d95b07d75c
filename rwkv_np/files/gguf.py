"""Read a GGUF file, the container of llama.cpp: metadata, and where the tensors are.

    header    "GGUF" | u32 version | u64 number of tensors | u64 number of pairs
    pair      string key | u32 type | value; an array: u32 type of its items | u64 count | items
    tensor    string name | u32 dimensions | u64 sizes, the row length first | u32 ggml type | u64 offset
    data      from the next multiple of `general.alignment`; offsets count from there

Little-endian. A string is its length (u64) and that many bytes of UTF-8. `models/gguf.py` knows what the
names mean.

`gguf_reader.py` reads the parts, and trusts none of their numbers. The `gguf` package takes 1.5 s and 135 MB for
a vocabulary of 65,536 strings, which is skipped here until it is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rwkv_np.errors import FormatError, PathLike
from rwkv_np.files.gguf_reader import DAMAGED, Array, Info, Reader, Value
from rwkv_np.files.opened import Extent, OpenedFile
from rwkv_np.files.quants import DataType
from rwkv_np.files.reading import open_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # they differ only in that 3 may be big-endian
ALIGNMENT = 32  # unless the metadata say otherwise
MAX_TENSORS = 10_000  # RWKV-7 of 61 layers has 2,000
MAX_PAIRS = 10_000  # models of 2026 have about 40
MAX_ALIGNMENT = 2**20


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
        reader = Reader(self.file)
        self.version, self._n_tensors, n_pairs = _header(reader)
        self.metadata: dict[str, Value] = {}
        for _ in range(n_pairs):
            key = reader.name("a key of the metadata")
            if key in self.metadata:
                raise FormatError(self.path, f"contains the key {key} twice. {DAMAGED}")
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
        reader = Reader(self.file, self._tensors_at)
        infos: dict[str, Info] = {}
        for _ in range(self._n_tensors):
            info = reader.info()
            if info.name in infos:
                raise FormatError(self.path, f"contains the tensor {info.name} twice. {DAMAGED}")
            infos[info.name] = info
        alignment = self._alignment()
        start = -(-reader.at // alignment) * alignment
        _check_places(self.path, infos, start, alignment, self.n_bytes)
        return {name: _tensor(info, self.file, start) for name, info in infos.items()}

    def _alignment(self) -> int:
        found = self.metadata.get("general.alignment", ALIGNMENT)
        # A power of two, as ggml demands. `True` is an int.
        if type(found) is not int or not 0 < found <= MAX_ALIGNMENT or found & (found - 1):
            raise FormatError(
                self.path,
                f"general.alignment is {_shown(found)}; expected a power of two up to {MAX_ALIGNMENT:,}. {DAMAGED}",
            )
        return found


def _tensor(info: Info, file: OpenedFile, start: int) -> Tensor:
    return Tensor(info.name, info.shape, info.data_type, Extent(file, start + info.offset, info.n_bytes))


def _header(reader: Reader) -> tuple[int, int, int]:
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
            raise FormatError(path, f"promises {count:,} {what}; expected at most {most:,}. {DAMAGED}")
    return version, *counts


def _check_places(path: str, infos: dict[str, Info], start: int, alignment: int, n_bytes: int) -> None:
    """Raise FormatError unless all tensors lie in the file, aligned, and none overlaps another."""
    end, before = 0, ""
    for info in sorted(infos.values(), key=lambda info: info.offset):
        if info.offset % alignment:
            raise FormatError(path, f"{info.name} begins at {info.offset}, not a multiple of {alignment}. {DAMAGED}")
        if info.offset < end:
            raise FormatError(path, f"{info.name} overlaps {before}. {DAMAGED}")
        end, before = info.offset + info.n_bytes, info.name
        if start + end > n_bytes:
            raise FormatError(
                path, f"ends in the middle of {info.name}: the file has {n_bytes} bytes of {start + end}. {DAMAGED}"
            )


def _shown(value: Value) -> str:
    return f"an array of {len(value)}" if isinstance(value, Array) else repr(value)

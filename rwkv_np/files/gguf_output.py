"""Write a GGUF file: the header, the metadata and the places of the tensors; their data follow, one by one.

The layout is in `gguf.py`; `conversion/` knows what a model needs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rwkv_np.files.gguf import ALIGNMENT, MAGIC, VERSIONS
from rwkv_np.files.gguf_reader import ARRAY, NUMBERS, STRING
from rwkv_np.files.quants import DataType

U32, I32, F32 = 4, 5, 6


class Planned(NamedTuple):
    """A tensor to write; `shape` in NumPy's order."""

    name: str
    shape: tuple[int, ...]
    data_type: DataType

    @property
    def n_bytes(self) -> int:
        return self.data_type.format.n_bytes(int(np.prod(self.shape, dtype=object)))


class Strings(NamedTuple):
    """An array of strings for the metadata."""

    items: Sequence[bytes]


Metadata = Mapping[str, Any]
"""A key to a string, an int (u32), a float (f32), Strings, or an int32 array."""


def header(metadata: Metadata, tensors: Sequence[Planned]) -> bytes:
    """All that precedes the data of the tensors."""
    parts = [MAGIC, struct.pack("<IQQ", max(VERSIONS), len(tensors), len(metadata))]
    parts += [_string(key.encode()) + _value(value) for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        parts.append(_string(tensor.name.encode()) + shape + struct.pack("<IQ", tensor.data_type.code, offset))
        offset += padded(tensor.n_bytes)
    found = b"".join(parts)
    return found + bytes(padded(len(found)) - len(found))


def write_data(file: BinaryIO, tensor: Planned, pieces: Iterable[bytes | memoryview]) -> None:
    """Write the data of a tensor, and zeros up to the next one."""
    start = file.tell()
    for piece in pieces:
        file.write(piece)
    n_bytes = file.tell() - start
    assert n_bytes == tensor.n_bytes, f"{tensor.name} has {n_bytes} bytes, not {tensor.n_bytes}"
    file.write(bytes(padded(n_bytes) - n_bytes))


def padded(n_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _string(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value.encode())
    if isinstance(value, Strings):
        return struct.pack("<IIQ", ARRAY, STRING, len(value.items)) + b"".join(map(_string, value.items))
    if isinstance(value, np.ndarray):
        return struct.pack("<IIQ", ARRAY, I32, value.size) + value.astype(NUMBERS[I32]).tobytes()
    code = F32 if isinstance(value, float) else U32
    return struct.pack("<I", code) + np.array(value, NUMBERS[code]).tobytes()

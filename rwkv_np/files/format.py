"""Read and write the model file of rwkv.cpp ("ggmf"), versions 100 and 101.

    header     int32 magic = 0x67676d66, version, n_vocab, n_embed, n_layer, data_type
    parameter  int32 dim_count, key_length, data_type | int32 shape[dim_count] | key (UTF-8) | data

Little-endian, unpadded, parameters until the end of the file. `shape` is the reverse of
PyTorch's (the row length first); the data is in PyTorch's order. The header's data_type is the type of
most matrices, and every parameter has its own.

`quants.py` knows the meaning of a type's bytes, `models/` which parameters a model needs. The
reader leaves the data in the file (`opened.py`) and trusts none of its numbers: every length is checked
against the file's size before memory is allocated or a loop runs over it.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from rwkv_np.errors import FormatError, PathLike
from rwkv_np.files.gguf import GgufFile
from rwkv_np.files.opened import Extent, OpenedFile
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import REMOVED_TYPES, VERSIONS, DataType, by_code
from rwkv_np.files.sniff import describe_as_model

MAGIC = 0x67676D66
LATEST_VERSION = 101
MAX_DIMENSIONS = 4
MAX_PARAMETERS = 10_000  # RWKV-7 of 61 layers has 2,000
MAX_KEY_LENGTH = 512  # RWKV's longest name has under 40 characters

_HEADER = struct.Struct("<6i")
_PARAMETER = struct.Struct("<3i")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The first 24 bytes. `data_type` is the code of most matrices' type."""

    version: int
    n_vocab: int
    n_embed: int
    n_layer: int
    data_type: int


@dataclass(frozen=True)
class ModelFile:
    """An opened model file: its header and its parameters, by name, in the file's order.

    gguf  the GGUF file that it is a view of; None: it is a file of this format. The header of a view has
          GGUF's version and ggml's id of the type
    """

    path: str
    header: Header
    parameters: dict[str, Parameter]
    n_bytes: int
    gguf: GgufFile | None = None


def read_model_file(path: PathLike) -> ModelFile:
    """Open the file at `path`. Raises FormatError: it is not a model file that this version can read; OSError."""
    path = os.fspath(path)
    if os.path.isdir(path):
        raise FormatError(path, describe_as_model(path))
    file = OpenedFile(path, FormatError)
    header = _parse_header(path, file.read(0, min(_HEADER.size, file.n_bytes)).tobytes())
    parameters: dict[str, Parameter] = {}
    offset = _HEADER.size
    while offset < file.n_bytes:
        parameter, offset = _read_parameter(header, file, offset)
        if parameter.name in parameters:
            raise FormatError(path, f"contains parameter {parameter.name} twice. {_MEND}")
        parameters[parameter.name] = parameter
        if len(parameters) > MAX_PARAMETERS:
            problem = f"contains more than {MAX_PARAMETERS:,} parameters; RWKV models have fewer"
            raise FormatError(path, f"{problem}. {_MEND}")
    return ModelFile(path, header, parameters, file.n_bytes)


def write_header(file: BinaryIO, header: Header) -> None:
    """Write the header of a model file."""
    fields = (header.version, header.n_vocab, header.n_embed, header.n_layer, header.data_type)
    file.write(_HEADER.pack(MAGIC, *fields))


def write_parameter_header(file: BinaryIO, name: str, shape: Shape, data_type: DataType) -> None:
    """Write what precedes a parameter's data; `shape` in PyTorch's order."""
    key = name.encode()
    file.write(_PARAMETER.pack(len(shape), len(key), data_type.code))
    file.write(struct.pack(f"<{len(shape)}i", *reversed(shape)) + key)


def parameter_bytes(name: str, shape: Shape, data_type: DataType) -> int:
    """Bytes of a parameter in a file, including its header."""
    n_weights = int(np.prod(shape, dtype=object))
    return _PARAMETER.size + 4 * len(shape) + len(name.encode()) + data_type.format.n_bytes(n_weights)


HEADER_BYTES = _HEADER.size

_MEND = (
    "The file is damaged: copy or download it again, or convert the checkpoint again: "
    "rwkv-np convert CHECKPOINT.pth MODEL.bin"
)


def _parse_header(path: str, data: bytes) -> Header:
    if len(data) < 4 or data[:4] != struct.pack("<i", MAGIC):
        raise FormatError(path, describe_as_model(path))
    if len(data) < _HEADER.size:
        raise FormatError(path, f"ends after {len(data)} bytes; the header takes {_HEADER.size}. {_MEND}")
    header = Header(*_HEADER.unpack(data)[1:])
    if header.version not in VERSIONS:
        raise FormatError(
            path,
            f"is a model file of version {header.version}; supported versions: 100 and 101. "
            "Convert the checkpoint again: rwkv-np convert CHECKPOINT.pth MODEL.bin",
        )
    for name in ("n_vocab", "n_embed", "n_layer"):
        if getattr(header, name) <= 0:
            raise FormatError(path, f"the header has {name} = {getattr(header, name)}. {_MEND}")
    _data_type(path, header.version, header.data_type, "the header")
    return header


def _read_parameter(header: Header, file: OpenedFile, offset: int) -> tuple[Parameter, int]:
    path = file.path

    def skip(n_bytes: int, what: str) -> int:
        nonlocal offset
        if n_bytes > file.n_bytes - offset:
            raise FormatError(
                path,
                f"ends in the middle of {what}: it needs {n_bytes} bytes at offset {offset}, "
                f"the file has {file.n_bytes} bytes. {_MEND}",
            )
        offset += n_bytes
        return offset - n_bytes

    def take(n_bytes: int, what: str) -> bytes:
        return file.read(skip(n_bytes, what), n_bytes).tobytes()

    start = offset
    n_dims, key_length, code = _PARAMETER.unpack(take(_PARAMETER.size, f"the parameter at offset {start}"))
    if not 1 <= n_dims <= MAX_DIMENSIONS or not 1 <= key_length <= MAX_KEY_LENGTH:
        raise FormatError(
            path,
            f"the parameter at offset {start} claims {n_dims} dimensions and a name of {key_length} bytes; "
            f"expected 1 to {MAX_DIMENSIONS} and 1 to {MAX_KEY_LENGTH}. {_MEND}",
        )
    shape = struct.unpack(f"<{n_dims}i", take(4 * n_dims, "a shape"))[::-1]
    name = _name(path, start, take(key_length, "a name"))
    data_type = _data_type(path, header.version, code, name)
    n_bytes = _data_bytes(path, name, shape, data_type)
    return Parameter(name, shape, data_type, Extent(file, skip(n_bytes, name), n_bytes)), offset


def _name(path: str, offset: int, key: bytes) -> str:
    try:
        name = key.decode()
    except UnicodeDecodeError:
        name = ""
    if not name.isprintable() or not name:
        raise FormatError(path, f"the parameter at offset {offset} has the name {key[:40]!r}. {_MEND}")
    return name


def _data_bytes(path: str, name: str, shape: Shape, data_type: DataType) -> int:
    """Bytes of a parameter's data, as Python integers: a wrong shape must not overflow."""
    if min(shape) <= 0 or shape[-1] % data_type.format.block_size:
        raise FormatError(
            path,
            f"{name} has the shape {shape}; expected positive sizes, "
            f"and rows of whole blocks of {data_type.format.block_size} for {data_type.name}. {_MEND}",
        )
    n_weights = 1
    for size in shape:
        n_weights *= size
    return data_type.format.n_bytes(n_weights)


def _data_type(path: str, version: int, code: int, where: str) -> DataType:
    data_type = by_code(code, version)
    if data_type is not None:
        return data_type
    if code in REMOVED_TYPES:
        found = f"{REMOVED_TYPES[code]} (code {code}), which no program supports any more"
    elif version == 100 and code in range(7, 10):
        found = (
            f"data type code {code}, which had more than one layout in version 100 files "
            "(May 2023) that cannot be distinguished"
        )
    elif version == 101 and code == 4:
        found = "Q4_1_O (code 4), which exists only in version 100 files"
    else:
        found = f"the unknown data type code {code}"
    raise FormatError(
        path,
        f"{where} uses {found}. Quantize again from the FP16 file: rwkv-np quantize MODEL-FP16.bin MODEL-Q4_1.bin Q4_1",
    )

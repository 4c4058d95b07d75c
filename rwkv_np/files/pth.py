"""Locate the tensors of a PyTorch checkpoint, without torch: both containers of `torch.save`.

    zip (since 1.6)   NAME/data.pkl, the pickle of names and shapes; NAME/data/KEY, the bytes of a storage
    legacy (0.1.10)   pickles of a magic number, a version, the machine, names and shapes, the storages' keys;
                      then for each key, in that order, int64 how many values | the values

A storage is a run of values of one type; a tensor is a view of one. In a legacy file, storages begin wherever
the pickles end, not at multiples of their values' size. This module does not read the values, and it limits
the pickles (`pickled.py`): a list of names far longer than any model's is not read.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from rwkv_np.errors import CheckpointError, PathLike
from rwkv_np.files.archive import DAMAGE
from rwkv_np.files.pickled import Function, UnknownName, read_pickle
from rwkv_np.files.reading import open_regular

MAX_TENSORS = 10_000  # RWKV-7 of 61 layers has 2,300; with an optimizer's two more for each, 6,900
MAX_NAMES = 16 * 2**20  # bytes of a pickle of names; for 2,300 tensors it has 0.3 MB

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_SIZES = {
    "Double": ("float64", 8), "Float": ("float32", 4), "Half": ("float16", 2), "BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8), "Int": ("int32", 4), "Short": ("int16", 2), "Char": ("int8", 1), "Byte": ("uint8", 1),
    "Bool": ("bool", 1), "ComplexFloat": ("complex64", 8), "ComplexDouble": ("complex128", 16), "Untyped": ("uint8", 1),
}  # fmt: skip
_AGAIN = "Download it again"


class Storage(NamedTuple):
    """A run of values, by its key in the file; a view of another storage begins `offset` values into it."""

    key: str
    dtype: str
    n_bytes: int
    offset: int = 0


class StoredTensor(NamedTuple):
    """Which values of a storage belong to a tensor: value (i, j, ...) is number offset + i stride[0] + j stride[1] ...

    storage  None if the file has no dense values: a sparse tensor, or one without values
    dtype    as in "torch.bfloat16"
    """

    storage: Storage | None
    dtype: str
    offset: int = 0
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


class Place(NamedTuple):
    """Where the bytes of a storage are in the file; `crc` is their CRC-32, or None if the file has none."""

    start: int
    n_bytes: int
    crc: int | None = None


class Pth(NamedTuple):
    """The content of a checkpoint: plain data with StoredTensors in it, and the place of each storage by its key."""

    content: Any
    places: Mapping[str, Place]


def read_zip(path: PathLike) -> Pth:
    """The tensors and storages of a checkpoint that is a zip archive. Raises CheckpointError, OSError."""
    with open_regular(path, CheckpointError) as file:
        try:
            return _read_zip(path, file)
        except DAMAGE as error:
            raise _damaged(path, error) from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # zipfile seeks to a position from the file, which may be negative
                raise
            raise _damaged(path, error) from error


def read_legacy(path: PathLike) -> Pth:
    """The tensors and storages of a checkpoint from before PyTorch 1.6. Raises CheckpointError, OSError."""
    with open_regular(path, CheckpointError) as file:
        try:
            return _read_legacy(path, file)
        except DAMAGE as error:
            raise _damaged(path, error) from error


def _damaged(path: PathLike, error: Exception) -> CheckpointError:
    if isinstance(error, zipfile.BadZipFile):
        return CheckpointError(path, f"is damaged or incomplete ({error}). {_AGAIN}")
    words = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    return CheckpointError(path, f"is damaged: {' '.join(words.split())[:200]}. {_AGAIN}")


def named_tensors(path: PathLike, content: Any) -> dict[str, StoredTensor]:
    """The named tensors in `content`, which training scripts may wrap. Raises CheckpointError."""
    for key in ("state_dict", "model", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        found = "nothing" if isinstance(content, dict) else f"a {_kind(content)}"
        raise CheckpointError(path, f"contains {found}; expected named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, StoredTensor):
            raise CheckpointError(path, f"{str(name)[:80]!r} is of type {_kind(value)}; expected named tensors")
        if not name.isprintable():
            raise CheckpointError(path, f"is damaged: a tensor has the name {name[:80]!r}. {_AGAIN}")
    return content


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, StoredTensor) else type(value).__name__


# --- zip


def _read_zip(path: PathLike, file: BinaryIO) -> Pth:
    n_entries = _n_entries_64(file)
    if n_entries > 2 * MAX_TENSORS:
        raise too_many(path, n_entries)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise CheckpointError(
                path, "is a zip archive without a checkpoint's data.pkl in it; expected a checkpoint of PyTorch"
            )
        root = roots[0]
        if f"{root}byteorder" in entries and _start(archive, f"{root}byteorder", 10) != b"little":
            raise _big_endian(path)
        data = _start(archive, f"{root}data.pkl", MAX_NAMES + 1)
        if len(data) > MAX_NAMES:
            raise CheckpointError(path, f"its list of names has over {MAX_NAMES:,} bytes; RWKV models have fewer")
    content = _read_names(path, io.BytesIO(data))
    data_root = f"{root}data/"
    found = {name.removeprefix(data_root): e for name, e in entries.items() if name.startswith(data_root)}
    return Pth(content, {key: _place(path, file, entry) for key, entry in found.items()})


def _start(archive: zipfile.ZipFile, name: str, n_bytes: int) -> bytes:
    """The first bytes of an entry: it may be compressed, and then be of any size."""
    with archive.open(name) as entry:
        return entry.read(n_bytes)


def _n_entries_64(file: BinaryIO) -> int:
    """The number of entries that a large archive declares: zipfile takes 10 microseconds for each."""
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, n_bytes - 2**17))
    end = file.read()
    at = end.rfind(b"PK\6\6")
    return int.from_bytes(end[at + 32 : at + 40], "little") if at >= 0 else 0


def _place(path: PathLike, file: BinaryIO, entry: zipfile.ZipInfo) -> Place:
    if entry.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(
            path,
            f"its entries are compressed ({entry.filename}), so PyTorch did not write it. Pack it again "
            "without compression: unzip it, and run in the resulting folder: zip -0 -r ../new.pth *",
        )
    file.seek(entry.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\3\4":
        raise ValueError(f"{entry.filename} is not where it should be")
    n_name, n_extra = struct.unpack("<2H", header[26:30])
    # torch.serialization.set_crc32_options(False) leaves zeros.
    crc = entry.CRC if entry.CRC or not entry.file_size else None
    return Place(entry.header_offset + 30 + n_name + n_extra, entry.file_size, crc)


# --- legacy


def _read_legacy(path: PathLike, file: BinaryIO) -> Pth:
    head = io.BytesIO(file.read(MAX_NAMES))
    if _read_names(path, head) != _MAGIC:
        raise CheckpointError(path, "is a Python pickle but not a PyTorch checkpoint; expected one, or safetensors")
    if _read_names(path, head) != _VERSION:
        raise CheckpointError(path, f"is a PyTorch checkpoint of an unknown version; expected {_VERSION}")
    machine = _read_names(path, head)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise _big_endian(path)
    content = _read_names(path, head)
    keys = _read_names(path, head)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is invalid")
    storages = {tensor.storage.key: tensor.storage for tensor in _tensors(content) if tensor.storage}
    return Pth(content, _places_in_a_row(file, head.tell(), keys, storages))


def _places_in_a_row(file: BinaryIO, start: int, keys: list[str], storages: Mapping[str, Storage]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for key in keys:
        if key not in storages:
            raise ValueError(f"its storage {key[:40]!r} belongs to no tensor")
        file.seek(start)
        (n_values,) = struct.unpack("<q", file.read(8))
        size = storages[key].n_bytes
        _, n_per_value = next(found for found in _SIZES.values() if found[0] == storages[key].dtype)
        if n_values * n_per_value != size:
            raise ValueError(f"its storage {key[:40]!r} has {n_values} values, not {size // n_per_value}")
        places[key] = Place(start + 8, size)
        start += 8 + size
    return places


def _tensors(content: Any) -> Iterator[StoredTensor]:
    """All tensors in the data, at any depth; shared containers are visited once."""
    left, seen = [content], set()
    while left:
        value = left.pop()
        if isinstance(value, StoredTensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)


# --- names


def _read_names(path: PathLike, file: io.BytesIO) -> Any:
    names = _Names(path)
    try:
        return read_pickle(file, names.known, names.storage)
    except UnknownName as error:
        raise CheckpointError(
            path,
            f"contains more than weights ({error}), so loading it could run code, or it is damaged; expected only "
            "named tensors. Download it again, or use a checkpoint with only the weights",
        ) from error


class _Names:
    """The replacements for the names in a checkpoint's pickle."""

    def __init__(self, path: PathLike) -> None:
        self._path, self._n_tensors = path, 0
        self._functions = {
            "collections OrderedDict": Function(lambda pairs=(): {key: value for key, value in pairs}),
            "torch Size": Function(tuple),
            "torch device": Function(lambda *words: None),
            "torch.serialization _get_layout": Function(lambda layout: None),
            "torch._utils _rebuild_tensor": Function(self._tensor),
            "torch._utils _rebuild_tensor_v2": Function(lambda storage, offset, shape, stride, *_: self._tensor(
                storage, offset, shape, stride)),
            "torch._utils _rebuild_tensor_v3": Function(lambda storage, offset, shape, stride, grad, hooks, dtype, *_:
                self._tensor(storage, offset, shape, stride, dtype)),
            "torch._utils _rebuild_parameter": Function(lambda tensor, *_: tensor),
            "torch._utils _rebuild_parameter_with_state": Function(lambda tensor, *_: tensor),
            "torch._utils _rebuild_sparse_tensor": Function(lambda *_: StoredTensor(None, "torch.float32")),
            "torch._utils _rebuild_meta_tensor_no_storage": Function(lambda *_: StoredTensor(None, "torch.float32")),
        }  # fmt: skip

    def known(self, name: str) -> Any:
        """The replacement for a name. Raises UnknownName."""
        if name in self._functions:
            return self._functions[name]
        module, _, word = name.partition(" ")
        if word.endswith("Storage") and module in ("torch", "torch.cuda", "torch.storage"):
            if found := _SIZES.get(word.removesuffix("Storage")):
                return found
        if module == "torch" and word.isidentifier() and word.islower() and word[-1:].isalnum() and len(word) < 20:
            return f"torch.{word}"  # a data type: "float32"; other words fail where a type is expected
        raise UnknownName(name[:80])

    def storage(self, words: Any) -> Storage:
        """The storage for a persistent id: ("storage", type, key, device, size, the storage that it is a view of)."""
        kind, (dtype, size), key, _, n_values, *more = words
        if kind != "storage" or not isinstance(key, str) or type(n_values) is not int or n_values < 0:
            raise TypeError
        if more and more[0] is not None:
            _, offset, _ = more[0]
            return Storage(key, dtype, n_values * size, int(offset))
        return Storage(key, dtype, n_values * size)

    def _tensor(self, storage: Any, offset: int, shape: Any, stride: Any, dtype: str = "") -> StoredTensor:
        self._n_tensors += 1
        if self._n_tensors > MAX_TENSORS:
            raise too_many(self._path, self._n_tensors)
        numbers = (offset, *shape, *stride)
        if type(storage) is not Storage or len(shape) != len(stride) or any(type(n) is not int for n in numbers):
            raise TypeError
        if min(numbers) < 0:
            raise ValueError(f"a tensor has the shape {shape}")
        found = dtype or f"torch.{storage.dtype}"
        return StoredTensor(storage, found, offset + storage.offset, tuple(shape), tuple(stride))


def too_many(path: PathLike, n: int) -> CheckpointError:
    """The error for a file with too many tensors."""
    return CheckpointError(path, f"contains {n:,} tensors or more; RWKV models have at most {MAX_TENSORS:,}")


def _big_endian(path: PathLike) -> CheckpointError:
    return CheckpointError(path, "was written on a big-endian machine; save it again on a little-endian one")

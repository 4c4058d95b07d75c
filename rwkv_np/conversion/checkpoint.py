"""Open a PyTorch or safetensors checkpoint of RWKV, without reading it into memory.

torch is imported only here and by users of this module, never for loading or chatting. Tensors stay in the
mapped file until rows of one are needed. A .pth is parsed without torch (`files/pth.py`): torch cannot map
files from before 1.6, and reads compressed parts of a zip archive as if they were weights.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from rwkv_np.conversion.checksum import Checksum
from rwkv_np.conversion.folder import CONFIG, Folder, is_repository
from rwkv_np.conversion.hugging_face import as_checkpoint, check_config
from rwkv_np.conversion.mapped_tensor import TYPES, MappedTensor
from rwkv_np.errors import CheckpointError, MissingPackageError, PathLike, as_line
from rwkv_np.files import pth, sniff
from rwkv_np.files.mapped import MappedFile
from rwkv_np.models.architecture import Architecture, Planned
from rwkv_np.models.registry import ARCHITECTURES, identify, titles


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be converted.

    record   its architecture
    tensors  by name, in the file's own order, mapped
    plan     how they are converted to parameters of a model file
    """

    record: Architecture
    tensors: dict[str, MappedTensor]
    plan: list[Planned]


def open_checkpoint(path: PathLike) -> Checkpoint:
    """The tensors of an RWKV checkpoint, and the plan for converting them.

    path    a file, a folder in the layout of the transformers library, or such a repository: hf://OWNER/REPO
    Raises  CheckpointError: not a checkpoint, damaged, or of an unsupported model
            MissingPackageError: torch or safetensors is not installed; DownloadError
    """
    path = os.fspath(path)
    is_folder = is_repository(path) or os.path.isdir(path)
    tensors = _read_folder(path) if is_folder else read_tensors(path, _check_names)
    record = ARCHITECTURES[identify(tensors)]
    plan = record.plan({name: tensor.shape for name, tensor in tensors.items()})
    if problem := record.find_problem({planned.name: planned.shape for planned in plan}):
        raise CheckpointError(path, f"{problem}. Download the checkpoint again")
    return Checkpoint(record, tensors, plan)


def _read_folder(path: str) -> dict[str, MappedTensor]:
    """The tensors of a folder under BlinkDL's names."""
    if not is_repository(path) and not os.path.exists(os.path.join(path, CONFIG)):
        raise CheckpointError(path, "is a folder without a config.json; give the file with the weights")
    folder = Folder(path)
    check_config(folder)
    tensors: dict[str, MappedTensor] = {}
    for file, expected in folder.weights().items():
        found = read_tensors(file)
        if expected is not None and (missing := sorted(expected - found.keys())):
            raise CheckpointError(file, f"lacks {missing[0]}, which the index says it has. Download it again")
        if twice := sorted(tensors.keys() & found.keys()):
            raise CheckpointError(file, f"contains {twice[0]}, and another file of the folder does too")
        tensors |= found
    found = as_checkpoint(tensors)
    _check_names(path, found)
    return found


def _check_names(path: str, names: Mapping[str, Any]) -> None:
    if sniff.is_time_state(names):
        raise CheckpointError(path, sniff.describe_time_state(path))
    if (found := identify(names)) not in ARCHITECTURES:
        raise CheckpointError(path, f"contains {found}; supported: {titles()}")


CheckNames = Callable[[str, Mapping[str, Any]], None]


def read_tensors(path: PathLike, check_names: CheckNames = lambda path, names: None) -> dict[str, MappedTensor]:
    """The named tensors in a file of any kind.

    check_names  called with the path and the names before the tensors are looked at
    Raises       CheckpointError, MissingPackageError, OSError, and what `check_names` raises
    """
    path = os.fspath(path)
    kind = sniff.kind(path, CheckpointError)
    if kind not in _OPEN:
        raise CheckpointError(path, sniff.describe_as_checkpoint(path))
    _require("torch")
    return _OPEN[kind](path, check_names)


# --- PyTorch's own containers


def _open_zip(path: str, check_names: CheckNames) -> dict[str, MappedTensor]:
    return _open_pth(path, pth.read_zip(path), check_names)


def _open_legacy(path: str, check_names: CheckNames) -> dict[str, MappedTensor]:
    return _open_pth(path, pth.read_legacy(path), check_names)


def _open_pth(path: str, found: pth.Pth, check_names: CheckNames) -> dict[str, MappedTensor]:
    tensors = pth.named_tensors(path, found.content)
    check_names(path, tensors)
    file = MappedFile(path, CheckpointError, "c")
    sums = {key: Checksum(file, key, place) for key, place in found.places.items() if place.crc is not None}
    return {name: _mapped(file, found.places, sums, name, tensor) for name, tensor in tensors.items()}


def _mapped(
    file: MappedFile, places: Mapping[str, pth.Place], sums: Mapping[str, Checksum], name: str, tensor: pth.StoredTensor
) -> MappedTensor:
    if tensor.storage is None:
        raise CheckpointError(file.path, f"{name} is a sparse or empty tensor; expected one with its values")
    _check_type(file.path, name, tensor.dtype)
    place = places.get(key := tensor.storage.key)
    if place is None:
        raise CheckpointError(file.path, f"is damaged: the values of {name} are missing. Download it again")
    size = TYPES[tensor.dtype].itemsize
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride))
    n_bytes = size * (last + 1) if all(tensor.shape) else 0
    if n_bytes > place.n_bytes or place.start + place.n_bytes > file.n_bytes:
        raise CheckpointError(file.path, f"is damaged: the values of {name} end early. Download it again")
    start = place.start + size * tensor.offset if n_bytes else 0
    strides = tuple(size * step for step in tensor.stride)
    try:
        values = np.ndarray(tensor.shape, TYPES[tensor.dtype], file.data, start, strides)
    except (ValueError, OverflowError) as error:  # an absurd number or size of dimensions
        problem = f"is damaged: {name} has the shape {tensor.shape}. Download it again"
        raise CheckpointError(file.path, problem) from error
    return MappedTensor(tensor.dtype, values, file.check, sums[key].verify if key in sums else lambda: None)


def _check_type(path: str, name: str, dtype: str) -> None:
    if dtype not in TYPES:
        raise CheckpointError(path, f"{name} is {dtype}; expected one of {', '.join(TYPES)}")


# --- safetensors


_MAX_HEADER = 4 * 2**20  # the header for 2,300 tensors has 0.3 MB


def _open_safetensors(path: str, check_names: CheckNames) -> dict[str, MappedTensor]:
    safetensors = _require("safetensors")
    watched = MappedFile(path, CheckpointError)  # the library has its own mapping, and does not check its size
    if int.from_bytes(watched.data[:8].tobytes(), "little") > _MAX_HEADER:
        raise CheckpointError(path, f"its list of names has over {_MAX_HEADER:,} bytes; RWKV models have shorter ones")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = dict.fromkeys(file.keys())
            if len(names) > pth.MAX_TENSORS:
                raise pth.too_many(path, len(names))
            check_names(path, names)
            return {name: _of_torch(path, name, file.get_tensor(name), watched.check) for name in names}
    except (safetensors.SafetensorError, ValueError, OverflowError, RuntimeError, TypeError) as error:
        # The other exceptions come from NumPy and torch, for an absurd number or size of dimensions.
        raise CheckpointError(path, f"safetensors cannot read it: {as_line(str(error))}. Download it again") from error


def _of_torch(path: str, name: str, tensor: Any, check: Callable[[], None]) -> MappedTensor:
    dtype = str(tensor.dtype)
    _check_type(path, name, dtype)
    values = (tensor.view(_require("torch").int16) if dtype == "torch.bfloat16" else tensor).numpy()
    return MappedTensor(dtype, values, check)


_OPEN = {"checkpoint": _open_zip, "legacy": _open_legacy, "safetensors": _open_safetensors}


def _require(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"reading a checkpoint needs {package}, which is not installed ({error}). "
            "Install it: pip install 'rwkv-np[convert]'"
        ) from error

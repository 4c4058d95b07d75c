"""Open a PyTorch or safetensors checkpoint of RWKV, without reading it into memory.

This is the one module that imports torch, and only when it is used: loading and chatting
never do. Tensors stay in the mapped file until a slice of one is asked for.
"""

from __future__ import annotations

import importlib
import os
import pickle
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rwkv_np.errors import CheckpointError, MissingPackageError, PathLike
from rwkv_np.files import sniff
from rwkv_np.models.architecture import Architecture, Planned
from rwkv_np.models.registry import ARCHITECTURES, identify, titles

if TYPE_CHECKING:
    import torch

_FLOATS = ("torch.bfloat16", "torch.float16", "torch.float32")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be converted.

    record   its architecture
    tensors  by name, in the file's own order, mapped
    plan     what becomes of them in a model file
    """

    record: Architecture
    tensors: dict[str, torch.Tensor]
    plan: list[Planned]


def open_checkpoint(path: PathLike) -> Checkpoint:
    """The tensors of an RWKV checkpoint, and what is made of them.

    Raises  CheckpointError: not a checkpoint, damaged, or of something that cannot be run here
            MissingPackageError: torch or safetensors is not installed
    """
    path = os.fspath(path)
    tensors = read_tensors(path)
    record = ARCHITECTURES.get(found := identify(tensors))
    if record is None:
        raise CheckpointError(path, f"holds {found}; {titles()} is what can be converted")
    for name, tensor in tensors.items():
        if str(tensor.layout) != "torch.strided" or tensor.is_meta:
            raise CheckpointError(path, f"{name} is a sparse or empty tensor; expected one with its values")
        if str(tensor.dtype) not in _FLOATS:
            raise CheckpointError(path, f"{name} is {tensor.dtype}; expected one of {', '.join(_FLOATS)}")
    plan = record.plan({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if problem := record.find_problem({planned.name: planned.shape for planned in plan}):
        raise CheckpointError(path, f"{problem}. Download the checkpoint again")
    return Checkpoint(record, tensors, plan)


def read_tensors(path: PathLike) -> dict[str, torch.Tensor]:
    """The named tensors in a file, whatever they are for. Raises CheckpointError, MissingPackageError, OSError."""
    path = os.fspath(path)
    kind = sniff.kind(path)
    if kind not in _OPEN:
        raise CheckpointError(path, sniff.describe_as_checkpoint(path))
    return _tensors(path, _OPEN[kind](path))


def _open_pth(path: str) -> object:
    torch = _require("torch")
    try:
        # Mapped, because a 7B model is 14.8 GB; weights only, because a pickle can run code.
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        # Not torch's own words: they advise loading it in the way that runs the code.
        raise CheckpointError(
            path,
            "holds more than weights, so that loading it could run code, or is damaged; expected named "
            "tensors alone. Download it again, or take the checkpoint that has the weights only",
        ) from error
    except Exception as error:  # whatever damaged bytes make it raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]
        raise CheckpointError(path, f"torch cannot read it: {reason}. Download it again") from error


def _open_safetensors(path: str) -> object:
    _require("torch")
    safetensors = _require("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise CheckpointError(path, f"safetensors cannot read it: {error}. Download it again") from error


_OPEN = {"checkpoint": _open_pth, "safetensors": _open_safetensors}


def _require(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"reading a checkpoint needs {package}, which is not installed ({error}). "
            "Install it: pip install 'rwkv-np[convert]'"
        ) from error


def _tensors(path: str, content: Any) -> dict[str, torch.Tensor]:
    """`content` itself where it maps names to tensors; training scripts wrap it now and then."""
    for key in ("state_dict", "model", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        found = "nothing" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise CheckpointError(path, f"holds {found}; expected named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not hasattr(value, "shape"):
            raise CheckpointError(path, f"{name!r} is of type {type(value).__name__}; expected named tensors")
    return content

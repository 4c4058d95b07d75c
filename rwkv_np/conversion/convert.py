"""Checkpoint to model file: what rwkv.cpp's converter writes, byte for byte, in little memory.

A tensor is converted about a megabyte of rows at a time, straight from the mapped checkpoint
to the file, so memory does not grow with the model: rwkv.cpp's own converter holds it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkv_np.conversion.checkpoint import model_shape, open_checkpoint
from rwkv_np.errors import PathLike
from rwkv_np.files.format import (
    HEADER_BYTES,
    LATEST_VERSION,
    Header,
    parameter_bytes,
    write_header,
    write_parameter_header,
)
from rwkv_np.files.output import check_destination, new_file
from rwkv_np.files.quants import DataType, by_name
from rwkv_np.models import v4

if TYPE_CHECKING:
    import torch

# Weights converted at a time: 1 MB in float32 stays in the CPU's cache from one step to the next;
# 16 MB a time took a third longer and 60 MB more.
CHUNK = 2**18

Progress = Callable[[str, int, int], None]
"""Called with a parameter's name, the bytes written so far and the bytes in all."""


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    n_parameters: int
    n_weights: int
    n_bytes: int


def convert(
    source: PathLike,
    destination: PathLike,
    data_type: str = "FP16",
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write the RWKV-4 checkpoint `source` as a model file of "FP16" or "FP32" matrices.

    Raises  CheckpointError, OutputError, MissingPackageError
    Source  rwkv.cpp's convert_pytorch_to_ggml.py, whose files the tests compare with
    """
    check_destination(destination, source, overwrite)
    tensors = open_checkpoint(source)
    plan = [_plan(name, tensor, data_type) for name, tensor in tensors.items()]
    n_bytes = HEADER_BYTES + sum(parameter_bytes(*item) for item in plan)
    check_destination(destination, source, overwrite, n_bytes)
    with new_file(destination, overwrite=overwrite) as file:
        write_header(file, _header(tensors, data_type))
        for name, shape, stored in plan:
            write_parameter_header(file, name, shape, stored)
            for chunk in _converted(name, tensors[name], stored):
                file.write(chunk)
                if progress:
                    progress(name, file.tell(), n_bytes)
    return Converted(len(plan), sum(t.numel() for t in tensors.values()), n_bytes)


def _plan(name: str, tensor: torch.Tensor, data_type: str) -> tuple[str, tuple[int, ...], DataType]:
    """(name, shape, type) of a tensor in the model file: vectors stay FP32."""
    shape = model_shape(name, tensor.shape)
    stored = by_name(data_type if len(shape) > 1 else "FP32")
    assert stored is not None
    return name, shape, stored


def _header(tensors: dict[str, torch.Tensor], data_type: str) -> Header:
    n_layer, n_embd, _, vocab_size = v4.sizes({name: tuple(t.shape) for name, t in tensors.items()})
    stored = by_name(data_type)
    assert stored is not None
    return Header(LATEST_VERSION, vocab_size, n_embd, n_layer, stored.code)


def _converted(name: str, tensor: torch.Tensor, stored: DataType) -> Iterator[memoryview]:
    rows = tensor.detach().reshape(-1, tensor.shape[-1])  # a trained parameter gives no array before
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        values = rows[start : start + step].float()
        if name.endswith(".time_decay"):
            # torch's own exp, as the original has it: another's differs in the last bit of 1 % of values.
            values = -values.exp()
        values = values.half() if stored.name == "FP16" else values
        yield values.contiguous().numpy().data

"""Convert a checkpoint to a model file: the same bytes as rwkv.cpp's converter, with little memory.

A tensor is converted about a megabyte of rows at a time, straight from the mapped checkpoint to the
file, so memory does not grow with the model. rwkv.cpp's own converter keeps the whole model in memory.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkv_np import arguments
from rwkv_np.conversion.checkpoint import Checkpoint, open_checkpoint
from rwkv_np.conversion.finite import Unfit, are_finite
from rwkv_np.conversion.folder import is_repository
from rwkv_np.conversion.mapped_tensor import MappedTensor
from rwkv_np.errors import CheckpointError, InputError, PathLike
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
from rwkv_np.models.architecture import Planned

if TYPE_CHECKING:
    import torch

# Weights converted at a time: 1 MB in float32 stays in the CPU's cache from one step to the next.
# With 16 MB it took a third longer and 60 MB more memory.
CHUNK = 2**18

Progress = Callable[[str, int, int], None]
"""Called with a parameter's name, the bytes written so far, and the total."""


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
    """Write the RWKV checkpoint `source` as a model file of "FP16" or "FP32" matrices.

    Raises  CheckpointError: also if a value is NaN, infinite, or beyond the largest number of FP16;
            OutputError, MissingPackageError, InputError
    Source  rwkv.cpp's convert_pytorch_to_ggml.py; the tests compare with its files
    """
    source, destination = arguments.path("source", source), arguments.path("destination", destination)
    data_type_of(data_type)
    overwrite = arguments.switch("overwrite", overwrite)
    local = None if is_repository(source) else source
    check_destination(destination, local, overwrite)
    checkpoint = open_checkpoint(source)
    plan = [(planned, _type(planned, data_type)) for planned in checkpoint.plan]
    n_bytes = HEADER_BYTES + sum(parameter_bytes(p.name, p.shape, stored) for p, stored in plan)
    check_destination(destination, local, overwrite, n_bytes)
    # A second thread computes the checksum of a tensor while this one converts it.
    with new_file(destination, overwrite=overwrite) as file, ThreadPoolExecutor(1) as second:
        write_header(file, _header(checkpoint, data_type))
        for planned, stored in plan:
            write_parameter_header(file, planned.name, planned.shape, stored)
            for name in planned.sources:
                tensor = checkpoint.tensors[name]
                verified = second.submit(tensor.verify)
                try:
                    for chunk in _converted(tensor, planned, stored):
                        file.write(chunk)
                        if progress:
                            progress(planned.name, file.tell(), n_bytes)
                except _NotFinite:
                    verified.result()  # a wrong checksum explains the value better: report it first
                    raise _refusal(source, destination, name, tensor, planned, stored) from None
                verified.result()
    return Converted(len(plan), sum(math.prod(planned.shape) for planned, _ in plan), n_bytes)


def data_type_of(name: str) -> DataType:
    """The type that a user wants for matrices. Raises InputError: it is not "FP16" or "FP32"."""
    found = by_name(name) if isinstance(name, str) and name in ("FP16", "FP32") else None
    if found is None:
        raise InputError(f"data_type is {arguments.shown(name)}; expected FP16 or FP32; quantize writes others")
    return found


def _type(planned: Planned, data_type: str) -> DataType:
    stored = by_name("FP32" if planned.is_vector else data_type)
    assert stored is not None
    return stored


def _header(checkpoint: Checkpoint, data_type: str) -> Header:
    sizes = checkpoint.record.sizes({planned.name: planned.shape for planned in checkpoint.plan})
    stored = by_name(data_type)
    assert stored is not None
    return Header(LATEST_VERSION, sizes.vocab_size, sizes.n_embd, sizes.n_layer, stored.code)


class _NotFinite(Exception):
    """A value is not finite in the type that it would be written in."""


def _converted(tensor: MappedTensor, planned: Planned, stored: DataType) -> Iterator[memoryview]:
    for _, rows in _pieces(tensor, planned):
        # Transform with torch, as rwkv.cpp does: another library's exp differs in the last bit of 1 % of values.
        values = planned.transform(rows) if planned.transform else rows
        if not are_finite(values.numpy(), stored.name):
            raise _NotFinite
        values = values.half() if stored.name == "FP16" else values
        yield values.contiguous().numpy().data


def _pieces(tensor: MappedTensor, planned: Planned) -> Iterator[tuple[int, torch.Tensor]]:
    """(number of the first row, rows as float32), piece by piece."""
    if planned.is_whole:
        yield 0, tensor.whole()
        return
    step = max(1, CHUNK // tensor.shape[-1])
    for start in range(0, tensor.n_rows, step):
        yield start, tensor.rows(start, start + step)


def _refusal(
    source: PathLike, destination: PathLike, name: str, tensor: MappedTensor, planned: Planned, stored: DataType
) -> CheckpointError:
    """The error for a tensor whose values cannot be stored in a model file of that type."""
    found = Unfit.among(((start, rows.numpy()) for start, rows in _pieces(tensor, planned)), stored.name)
    if not found.first and planned.transform:
        after = ((start, planned.transform(rows).numpy()) for start, rows in _pieces(tensor, planned))
        found = Unfit.among(after, stored.name)
    paths = (shlex.quote(os.fspath(path)) for path in (source, destination))
    return CheckpointError(source, found.describe(name, stored.name, *paths))

"""Checkpoint to model file: what rwkv.cpp's converter writes, byte for byte, in little memory.

A tensor is converted about a megabyte of rows at a time, straight from the mapped checkpoint
to the file, so memory does not grow with the model: rwkv.cpp's own converter holds it whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rwkv_np import arguments
from rwkv_np.conversion.checkpoint import Checkpoint, open_checkpoint
from rwkv_np.errors import InputError, PathLike
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
    """Write the RWKV checkpoint `source` as a model file of "FP16" or "FP32" matrices.

    Raises  CheckpointError, OutputError, MissingPackageError, InputError
    Source  rwkv.cpp's convert_pytorch_to_ggml.py, whose files the tests compare with
    """
    source, destination = arguments.path("source", source), arguments.path("destination", destination)
    if not isinstance(data_type, str) or data_type not in ("FP16", "FP32"):
        raise InputError(f"data_type is {arguments.shown(data_type)}; expected FP16 or FP32; quantize makes others")
    overwrite = arguments.switch("overwrite", overwrite)
    check_destination(destination, source, overwrite)
    checkpoint = open_checkpoint(source)
    plan = [(planned, _type(planned, data_type)) for planned in checkpoint.plan]
    n_bytes = HEADER_BYTES + sum(parameter_bytes(p.name, p.shape, stored) for p, stored in plan)
    check_destination(destination, source, overwrite, n_bytes)
    with new_file(destination, overwrite=overwrite) as file:
        write_header(file, _header(checkpoint, data_type))
        for planned, stored in plan:
            write_parameter_header(file, planned.name, planned.shape, stored)
            for chunk in _converted(checkpoint, planned, stored):
                file.write(chunk)
                if progress:
                    progress(planned.name, file.tell(), n_bytes)
    return Converted(len(plan), sum(math.prod(planned.shape) for planned, _ in plan), n_bytes)


def _type(planned: Planned, data_type: str) -> DataType:
    stored = by_name("FP32" if planned.is_vector else data_type)
    assert stored is not None
    return stored


def _header(checkpoint: Checkpoint, data_type: str) -> Header:
    sizes = checkpoint.record.sizes({planned.name: planned.shape for planned in checkpoint.plan})
    stored = by_name(data_type)
    assert stored is not None
    return Header(LATEST_VERSION, sizes.vocab_size, sizes.n_embd, sizes.n_layer, stored.code)


def _converted(checkpoint: Checkpoint, planned: Planned, stored: DataType) -> Iterator[memoryview]:
    for name in planned.sources:
        tensor = checkpoint.tensors[name]
        rows = tensor.detach()  # a trained parameter gives no array before
        rows = rows if planned.is_whole else rows.reshape(-1, tensor.shape[-1])
        step = len(rows) if planned.is_whole else max(1, CHUNK // rows.shape[1])
        for start in range(0, len(rows), step):
            values = rows[start : start + step].float()
            # Transformed by torch, as the original has it: another's exp differs in the last bit of 1 % of values.
            values = planned.transform(values) if planned.transform else values
            values = values.half() if stored.name == "FP16" else values
            yield values.contiguous().numpy().data

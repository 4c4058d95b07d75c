"""Convert a GGUF file to a model file of rwkv.cpp's format.

Types that both have stay as they are, to the byte. Float matrices get the wanted type and vectors are FP32, as
in a file converted from the checkpoint: from a GGUF file in F16 or F32 this gives the same bytes.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator

import numpy as np

from rwkv_np import arguments
from rwkv_np.conversion.convert import CHUNK, Converted, Progress, data_type_of
from rwkv_np.conversion.finite import are_finite
from rwkv_np.errors import FormatError, PathLike
from rwkv_np.files.format import (
    HEADER_BYTES,
    LATEST_VERSION,
    Header,
    ModelFile,
    parameter_bytes,
    write_header,
    write_parameter_header,
)
from rwkv_np.files.output import check_destination, new_file
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import DataType, by_name
from rwkv_np.files.scaling import floats_of
from rwkv_np.models import model_config
from rwkv_np.models.gguf import read_gguf


def from_gguf(
    source: PathLike,
    destination: PathLike,
    data_type: str = "FP16",
    *,
    decode: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write the GGUF file `source` as a model file whose float matrices are "FP16" or "FP32".

    decode  also write matrices in that type whose type only GGUF has (Q4_K, ...); otherwise they are refused
    Raises  FormatError: also a value that is not finite in its new type; OutputError, InputError
    """
    source, destination = arguments.path("source", source), arguments.path("destination", destination)
    wanted = data_type_of(data_type)
    decode, overwrite = arguments.switch("decode", decode), arguments.switch("overwrite", overwrite)
    check_destination(destination, source, overwrite)
    file = read_gguf(source)
    config = model_config(file)
    types = {name: _stored(p, wanted, decode) for name, p in file.parameters.items()}
    if lost := sorted({p.data_type.name for name, p in file.parameters.items() if types[name] is None}):
        raise FormatError(file.path, _only_in_gguf(file, destination, lost))
    plan = [(p, stored) for name, p in file.parameters.items() if (stored := types[name])]
    n_bytes = HEADER_BYTES + sum(parameter_bytes(p.name, p.shape, stored) for p, stored in plan)
    check_destination(destination, source, overwrite, n_bytes)
    with new_file(destination, overwrite=overwrite) as out:
        code = _most_common(plan).code
        write_header(out, Header(LATEST_VERSION, config.vocab_size, config.n_embd, config.n_layer, code))
        for p, stored in plan:
            write_parameter_header(out, p.name, p.shape, stored)
            for piece in _pieces(file.path, p, stored):
                out.write(piece.data)
                if progress:
                    progress(p.name, out.tell(), n_bytes)
    return Converted(len(plan), sum(math.prod(p.shape) for p, _ in plan), n_bytes)


def _stored(p: Parameter, wanted: DataType, decode: bool) -> DataType | None:
    """The type in the new file; None: the format has none for it."""
    if is_vector(p):
        return by_name("FP32")
    if not p.data_type.format.is_quantized:
        return wanted
    return by_name(p.data_type.name) or (wanted if decode else None)


def is_vector(p: Parameter) -> bool:
    """Whether converters write it as FP32: as `Planned.is_vector` of RWKV-6 and 7, but for a quantized matrix."""
    is_thin = ".time_" in p.name and not p.data_type.format.is_quantized
    return len(p.shape) != 2 or is_thin or p.name.endswith(".r_k")


def _pieces(path: str, p: Parameter, stored: DataType) -> Iterator[np.ndarray]:
    """The data in that type, some rows at a time."""
    step = max(1, CHUNK // p.shape[-1])
    for start in range(0, p.n_weights // p.shape[-1], step):
        rows = slice(start, start + step)
        if stored.name == p.data_type.name:
            piece = np.ascontiguousarray(p.blocks(rows))
            is_finite = all(np.isfinite(numbers).all() for numbers in floats_of(piece))
        else:
            values = p.rows(rows)
            is_finite = are_finite(values, stored.name)
            piece = np.ascontiguousarray(values, stored.format.block) if is_finite else values
        if not is_finite:
            raise FormatError(
                path, f"{p.name} contains values that are not finite numbers in {stored.name}. If FP32 fails too, the "
                "file is damaged: copy or download it again"
            )  # fmt: skip
        yield piece.view(np.uint8)


def _most_common(plan: list[tuple[Parameter, DataType]]) -> DataType:
    n_weights: Counter[DataType] = Counter()
    for p, stored in plan:
        n_weights[stored] += 0 if is_vector(p) or p.name in ("emb.weight", "head.weight") else p.n_weights
    return n_weights.most_common(1)[0][0]


def _only_in_gguf(file: ModelFile, destination: str, lost: list[str]) -> str:
    paths = f"{shlex.quote(file.path)} {shlex.quote(destination)}"
    return (
        f"contains {', '.join(lost)}, which a model file of rwkv.cpp's format cannot contain. This program reads the "
        f"GGUF file as it is; to write these matrices as FP16: rwkv-np convert --decode {paths}"
    )

"""RWKV-6 and RWKV-7 in GGUF: a file of llama.cpp as the model file that the rest of the program knows.

The tables below pair the names in GGUF with ours. Nothing is copied: a parameter is the tensor in the
file under our name and in our shape. Three things are stored in another way:

- The shares of the mixes are one tensor for each layer, in RWKV-6 in the order w k v r g. Files of 2024 have
  five tensors.
- Two matrices of a layer of RWKV-6 are divided by 2 ** (layer // rescale_every_n_layers), and llama.cpp halves
  x after those layers. Here they are multiplied again when they are read (`Parameter.exponent`), which is
  exact: all types scale with a floating-point number.
- The first layer of RWKV-7 has v0, v1 and v2, because llama.cpp needs the tensors; no computation reads them.

Source: llama.cpp's converter, and files that it wrote.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rwkv_np.errors import FormatError, PathLike
from rwkv_np.files.format import Header, ModelFile, Shape
from rwkv_np.files.ggml_types import GGML_TYPES
from rwkv_np.files.gguf import GgufFile, Tensor
from rwkv_np.files.gguf_reader import Array
from rwkv_np.files.opened import InMemory
from rwkv_np.files.parameter import Parameter
from rwkv_np.models import v6, v7
from rwkv_np.models.architecture import Architecture
from rwkv_np.models.v5 import per_channel

_NORMS = {"ln1": "attn_norm", "ln2": "attn_norm_2", "att.ln_x": "time_mix_ln"}
_OUTER = {"emb.weight": "token_embd.weight", "head.weight": "output.weight"} | {
    f"{ours}.{part}": f"{theirs}.{part}"
    for ours, theirs in (("blocks.0.ln0", "token_embd_norm"), ("ln_out", "output_norm"))
    for part in ("weight", "bias")
}
_MATRICES = {
    "att": {name: f"time_mix_{name}" for name in ("receptance", "key", "value", "output", "gate")},
    "ffn": {name: f"channel_mix_{name}" for name in ("receptance", "key", "value")},
}
# The names without a layer; all of GGUF's end in ".weight" or ".bias".
_COMMON = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in _NORMS.items() for part in ("weight", "bias")} | {
    f"{mix}.{ours}.weight": f"{theirs}.weight" for mix, names in _MATRICES.items() for ours, theirs in names.items()
}
_V6 = _COMMON | {
    f"att.{ours}": f"time_mix_{theirs}.weight"
    for ours, theirs in (
        *((f"{v6.MIX}_{letter}", f"lerp_{letter}") for letter in "x" + v6.MIXES),
        (f"{v6.MIX}_w1", "w1"), (f"{v6.MIX}_w2", "w2"), ("time_faaaa", "first"), ("time_decay", "decay"),
        ("time_decay_w1", "decay_w1"), ("time_decay_w2", "decay_w2"),
    )
} | {f"ffn.{v6.MIX}_{letter}": f"channel_mix_lerp_{letter}.weight" for letter in "kr"}  # fmt: skip
_V7 = _COMMON | {
    f"att.{name}": f"time_mix_{name}.weight"
    for name in (*(f"{letter}{i}" for letter in "wav" for i in range(3)), "g1", "g2", "k_k", "k_a", "r_k")
} | {"att.x_rwkvag": "time_mix_lerp_fused.weight", "ffn.x_k": "channel_mix_lerp_k.weight"}  # fmt: skip
_FUSED = "time_mix_lerp_fused.weight"
_DIVIDED = ("att.output.weight", "ffn.value.weight")  # in RWKV-6
_UNREAD = ("time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight")  # in the first layer of RWKV-7


class Family(NamedTuple):
    """An architecture of GGUF: our record of it, and the names of a layer, ours to GGUF's."""

    record: Architecture
    names: dict[str, str]


FAMILIES = {"rwkv6": Family(v6.RECORD, _V6), "rwkv7": Family(v7.RECORD, _V7)}

_OTHER_RWKV = {
    "rwkv6qwen2": "QRWKV6, a model with parts of Qwen2 in it",
    "arwkv7": "ARWKV, a model with parts of Qwen2 in it",
}
_DAMAGED = "Copy or download the file again"


def read_gguf(path: PathLike) -> ModelFile:
    """Open the GGUF file at `path`. Raises FormatError: not a GGUF file, damaged, or of another model; OSError."""
    file = GgufFile(path)
    family = _family(file)
    head_size = _number(file, "wkv.head_size", least=1)
    _check_metadata(file)
    parameters = {p.name: p for p in _parameters(file, family, head_size)}
    parameters = _in_order(family.record, parameters)
    rows = (*(parameters["emb.weight"].shape if "emb.weight" in parameters else ()), 0)[0]
    width, n_layer = (_number(file, name, least=1) for name in ("embedding_length", "block_count"))
    header = Header(file.version, rows, width, n_layer, _most_common(family.record, parameters))
    return ModelFile(file.path, header, parameters, file.n_bytes, file)


def _family(file: GgufFile) -> Family:
    name = file.metadata.get("general.architecture")
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    found = _OTHER_RWKV.get(name, f"the architecture {name!r}") if isinstance(name, str) else "no architecture"
    known = " and ".join(f"{name} ({family.record.title})" for name, family in FAMILIES.items())
    raise FormatError(file.path, f"is a GGUF file of {found}; supported: {known}. Run it with llama.cpp")


def _metadata(file: GgufFile, name: str) -> Any:
    """What the file says about its architecture; None if it says nothing."""
    return file.metadata.get(f"{file.metadata['general.architecture']}.{name}")


def _number(file: GgufFile, name: str, least: int = 0, default: int | None = None) -> int:
    found = _metadata(file, name)
    if found is None and default is not None:
        return default
    if type(found) is not int or not least <= found < 2**31:
        said = f"an array of {len(found)}" if isinstance(found, Array) else repr(found)
        raise FormatError(file.path, f"{name} is {said}; expected a whole number from {least}. {_DAMAGED}")
    return found


def _check_metadata(file: GgufFile) -> None:
    """Raise FormatError if the metadata describe another computation than that of the published models."""
    for name, expected in (("attention.layer_norm_epsilon", 1e-5), ("token_shift_count", 2)):
        found = _metadata(file, name)
        if found is not None and not (isinstance(found, (int, float)) and abs(found - expected) < 1e-3 * expected):
            said = f"an array of {len(found)}" if isinstance(found, Array) else repr(found)
            raise FormatError(file.path, f"{name} is {said}; supported: {expected:g}, which all RWKV models have")


def _parameters(file: GgufFile, family: Family, head_size: int) -> Iterator[Parameter]:
    ours = {theirs: ours for ours, theirs in family.names.items()}
    outer = {theirs: ours for ours, theirs in _OUTER.items()}
    is_v6 = family.record is v6.RECORD
    every = _number(file, "rescale_every_n_layers", default=0) if is_v6 else 0
    for tensor in _without_fused(file) if is_v6 else file.tensors.values():
        layer, last = _layer(tensor.name)
        if layer == 0 and last in _UNREAD and not is_v6:
            continue
        if layer is None and tensor.name in outer:
            yield Parameter(outer[tensor.name], tensor.shape, tensor.data_type, tensor.stored)
        elif layer is not None and last in ours:
            name = f"blocks.{layer}.{ours[last]}"
            exponent = layer // every if every and ours[last] in _DIVIDED else 0
            yield _parameter(tensor, name, _our_shape(ours[last], tensor.shape, head_size), exponent)
        else:
            title = family.record.title
            raise FormatError(file.path, f"contains the tensor {tensor.name}, which {title} does not have in GGUF")


def _layer(name: str) -> tuple[int | None, str]:
    """ "blk.3.attn_norm.bias" -> (3, "attn_norm.bias")"""
    found = re.fullmatch(r"blk\.(0|[1-9]\d{0,5})\.(.+)", name)
    return (int(found[1]), found[2]) if found else (None, name)


def _without_fused(file: GgufFile) -> Iterator[Tensor]:
    """The tensors, five instead of each that has the shares of five mixes: as in files of 2024."""
    n = len(v6.MIXES)
    for tensor in file.tensors.values():
        if not tensor.name.endswith(f".{_FUSED}"):
            yield tensor
            continue
        if tensor.shape[0] != n or tensor.shape[1:-1].count(1) != len(tensor.shape) - 2 or len(tensor.shape) < 2:
            raise FormatError(file.path, f"{tensor.name} has the shape {tensor.shape}; expected {(n, 1, 1)} and n_embd")
        size = tensor.stored.size // n
        for i, letter in enumerate(v6.MIXES):
            name = tensor.name.replace("_fused.", f"_{letter}.")
            if name in file.tensors:
                raise FormatError(file.path, f"contains both {tensor.name} and {name}. {_DAMAGED}")
            yield Tensor(name, tensor.shape[-1:], tensor.data_type, tensor.stored.part(i * size, size))


def _our_shape(name: str, shape: Shape, head_size: int) -> Shape:
    """The shape in a model file; one that is not as expected stays, and is then refused as any other wrong shape."""
    last = name.rpartition(".")[2]
    if last == "x_rwkvag" and len(shape) == 4 and shape[1:3] == (1, 1):
        return (shape[0], 1, shape[3])
    if last == "time_faaaa" and len(shape) == 2:
        return per_channel(*shape)
    if len(shape) != 1:
        return shape
    if last == "time_decay" and shape[0] % head_size == 0:
        return (shape[0] // head_size, head_size, 1)
    if last == "r_k" and shape[0] % head_size == 0:
        return (shape[0] // head_size, head_size)
    if last in ("w0", "a0", "v0", "k_k", "k_a", "x_k"):
        return (1, 1, *shape)
    return shape


def _parameter(tensor: Tensor, name: str, shape: Shape, exponent: int) -> Parameter:
    if shape[-1] % tensor.data_type.format.block_size == 0:
        return Parameter(name, shape, tensor.data_type, tensor.stored, exponent)
    # A vector in blocks, whose rows in our shape are shorter than a block: decoded, it has some KB.
    values = Parameter(name, tensor.shape, tensor.data_type, tensor.stored, exponent).array()
    return Parameter(name, shape, GGML_TYPES[0], InMemory(values.view(np.uint8).reshape(-1)))


def _in_order(record: Architecture, found: dict[str, Parameter]) -> dict[str, Parameter]:
    """In the order of checkpoints, so that a converted file is the same; the rest stays behind them."""
    order = record.parameter_shapes(record.sizes({name: p.shape for name, p in found.items()}))
    return {name: found[name] for name in order if name in found} | found


def _most_common(record: Architecture, parameters: dict[str, Parameter]) -> int:
    """ggml's id of the type that most weights of matrices have; `general.file_type` is often that of the source."""
    n_weights: Counter[int] = Counter()
    for name, p in parameters.items():
        if record.is_quantizable(name, p.shape):
            n_weights[p.data_type.code] += p.n_weights
    return n_weights.most_common(1)[0][0] if n_weights else 0


def their_tensors(
    record: Architecture, parameters: Mapping[str, Parameter]
) -> Iterator[tuple[str, Shape, list[Parameter]]]:
    """The other way: (name, shape, parameters to join) of each tensor in a GGUF file, in the order of `parameters`."""
    is_v6 = record is v6.RECORD
    names = next(family.names for family in FAMILIES.values() if family.record is record)
    for name, p in parameters.items():
        if name in _OUTER:
            yield _OUTER[name], p.shape, [p]
            continue
        _, layer, ours = name.split(".", 2)
        if layer == "0" and not is_v6 and names[ours] in _UNREAD:
            continue
        if is_v6 and ours == f"att.{v6.MIX}_{v6.MIXES[0]}":
            joined = [parameters[f"{name[:-1]}{letter}"] for letter in v6.MIXES]
            yield f"blk.{layer}.{_FUSED}", (len(joined), 1, 1, *p.shape), joined
        elif not (is_v6 and ours.startswith(f"att.{v6.MIX}_") and ours[-1] in v6.MIXES):
            yield f"blk.{layer}.{names[ours]}", _their_shape(ours, p.shape), [p]
    if not is_v6:
        for i in range(3):  # llama.cpp needs them in the first layer, and does not read them
            p = parameters[f"blocks.0.att.a{i}"]
            yield f"blk.0.time_mix_v{i}.weight", _their_shape(f"att.v{i}", p.shape), [p]


def _their_shape(name: str, shape: Shape) -> Shape:
    last = name.rpartition(".")[2]
    if last == "x_rwkvag":
        return (shape[0], 1, 1, shape[-1])
    if last in ("time_decay", "r_k") or (len(shape) == 3 and shape[:2] == (1, 1)):
        return (math.prod(shape),)
    # (H, N, 1), or (N, 1) for a single head, is (H, N) there.
    return (math.prod(shape) // shape[-2], shape[-2]) if last == "time_faaaa" else shape

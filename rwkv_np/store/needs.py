"""The size of a model in each type: bytes of its file, and memory while chatting.

Computed from the shapes alone, so that a model that cannot run is refused before its download. The file size is exact.
Memory is the packed weights, which are exact too, and an estimate of the rest: measured in separate processes (`rwkv-np
evaluate`, RssAnon), models of 0.1B to 2.9B took 84 to 130 MB more than their weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rwkv_np.conversion.quantize import NEVER_UNASKED, TYPES
from rwkv_np.files.format import HEADER_BYTES, ModelFile, parameter_bytes
from rwkv_np.files.published import Shape
from rwkv_np.files.quants import DataType, by_name
from rwkv_np.kernels import layout
from rwkv_np.models.architecture import Planned, Sizes
from rwkv_np.models.registry import ARCHITECTURES

# In the order of a list. A checkpoint is converted to the first.
ALL_TYPES = ("FP16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q4_1_O")
assert {"FP16", *TYPES} == set(ALL_TYPES)

PROCESS = 80_000_000  # Python, NumPy, Numba and the compiled kernels
TOKENS, PER_CHANNEL = 128, 150  # tokens of a pass; bytes of intermediate results per token and channel of n_embd


# Vectors that files store with one row per head; the thin matrices of RWKV-6 have similar names.
_VECTOR = re.compile(r"\.(r_k|time_\w+)(?<!_w[12])$")


@dataclass(frozen=True)
class Needs:
    """Bytes of the file, and of memory in use."""

    file: int
    memory: int


def needs(shape: Shape, data_type: str) -> Needs:
    """The needs of a model of that shape in that type, quantized as by `rwkv_np.conversion.quantize`."""
    stored = [(p.name, p.shape, _stored(p, shape, data_type)) for p in _plan(shape)]
    file = HEADER_BYTES + sum(parameter_bytes(*one) for one in stored)
    return Needs(file, _memory(stored, shape.n_embd))


def needs_about(checkpoint_bytes: int, data_type: str) -> Needs:
    """The same for a checkpoint of 16-bit numbers when only its size is known.

    The file size is too low if the embedding, which stays FP16 in the file, is large; it is not in memory.
    """
    found = by_name(data_type, 100 if data_type == "Q4_1_O" else 101)
    assert found is not None
    n_bytes = int(checkpoint_bytes * found.format.bits_per_weight / 16)
    return Needs(n_bytes, n_bytes + PROCESS)


def memory_of(file: ModelFile) -> int:
    """The memory that the model in that file needs."""
    stored = [(p.name, tuple(p.shape), p.data_type) for p in file.parameters.values()]
    return _memory(stored, file.header.n_embed)


def _plan(shape: Shape) -> list[Planned]:
    record = ARCHITECTURES[shape.architecture]
    sizes = Sizes(
        n_layer=shape.n_layer, n_embd=shape.n_embd, dim_ffn=4 * shape.n_embd, vocab_size=shape.vocab_size,
        head_size=shape.head_size, ranks=shape.ranks,
    )  # fmt: skip
    return record.plan(record.checkpoint_shapes(sizes))


def _stored(planned: Planned, shape: Shape, data_type: str) -> DataType:
    version = 100 if data_type == "Q4_1_O" else 101
    name = "FP32" if planned.is_vector else "FP16"
    is_quantizable = ARCHITECTURES[shape.architecture].is_quantizable(planned.name, planned.shape)
    wanted = by_name(data_type, version)
    assert wanted is not None
    if is_quantizable and planned.name not in NEVER_UNASKED and not planned.shape[-1] % wanted.format.block_size:
        return wanted
    found = by_name(name, version)
    assert found is not None
    return found


def _memory(stored: Iterable[tuple[str, tuple[int, ...], DataType]], n_embd: int) -> int:
    return PROCESS + TOKENS * PER_CHANNEL * n_embd + sum(_packed(list(stored)))


def _packed(stored: list[tuple[str, tuple[int, ...], DataType]]) -> Iterator[int]:
    """Bytes of each parameter once it is loaded; the embedding stays in the file (models/engine.py)."""
    is_quantized = any(data_type.format.is_quantized for _, _, data_type in stored)
    for name, shape, data_type in stored:
        if name == "emb.weight":
            continue
        if len(shape) != 2 or _VECTOR.search(name):
            yield data_type.format.n_bytes(math.prod(shape))
            continue
        kept = _head_type(data_type, is_quantized) if name == "head.weight" else data_type
        tiles = -(-shape[0] // layout.TILE_ROWS)
        yield tiles * kept.format.layout.tile_bytes(layout.n_blocks_of(shape[1]))


def _head_type(data_type: DataType, is_quantized: bool) -> DataType:
    """As in models/head.py: 8 bits if the other matrices are quantized."""
    q8_0 = by_name("Q8_0")
    assert q8_0 is not None
    return q8_0 if is_quantized and not data_type.format.is_quantized else data_type

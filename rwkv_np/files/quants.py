"""The data types of a model file: one row of `DATA_TYPES` each.

How a block's bytes lie and what they decode to is told by `kernels/blocks.py`; here they get
the names and codes by which files and people know them. Which parameters take which type is
the quantizer's business.

File version 100 (rwkv.cpp of April 2023) and 101 (since 2023-05-27) use the same codes for
different layouts, so a type is found by its code *and* the file's version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rwkv_np.kernels import blocks
from rwkv_np.kernels.layout import LAYOUTS, Layout

VERSIONS = (100, 101)


@dataclass(frozen=True)
class DataType:
    """How one data type lies in a file.

    layout      what the kernels need to know of a block (kernels/layout.py)
    block       the bytes of one block, as a dtype
    block_size  weights in a block, along a row
    decode      blocks (...,) -> float32 (..., block_size)
    encode      float32 (..., block_size) -> blocks (...,)
    """

    name: str
    code: int
    versions: tuple[int, ...]
    layout: Layout
    block: np.dtype
    block_size: int
    decode: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray]

    @property
    def is_quantized(self) -> bool:
        return self.block_size > 1

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block.itemsize / self.block_size

    def n_bytes(self, n_weights: int) -> int:
        """Bytes that `n_weights` take; a row must fill whole blocks."""
        return n_weights // self.block_size * self.block.itemsize


DATA_TYPES = tuple(
    DataType(name, code, versions, LAYOUTS[layout], np.dtype(block), size, decode, encode)
    for name, code, versions, layout, block, size, decode, encode in (
        ("FP32", 0, VERSIONS, "FP32", "<f4", 1, blocks.decode_float, blocks.encode_fp32),
        ("FP16", 1, VERSIONS, "FP16", "<f2", 1, blocks.decode_float, blocks.encode_fp16),
        ("Q4_0", 2, (101,), "Q4_0", blocks.Q4_0, 32, blocks.decode_q4_0, blocks.encode_q4_0),
        ("Q4_1", 3, (101,), "Q4_1", blocks.Q4_1, 32, blocks.decode_q4_1, blocks.encode_q4_1),
        ("Q5_0", 7, (101,), "Q5_0", blocks.Q5_0, 32, blocks.decode_q5_0, blocks.encode_q5_0),
        ("Q5_1", 8, (101,), "Q5_1", blocks.Q5_1, 32, blocks.decode_q5_1, blocks.encode_q5_1),
        ("Q8_0", 9, (101,), "Q8_0", blocks.Q8_0, 32, blocks.decode_q8_0, blocks.encode_q8_0),
        ("Q4_0", 2, (100,), "Q4_0_v100", blocks.Q4_0_V100, 32, blocks.decode_q4_0_v100, blocks.encode_q4_0_v100),
        ("Q4_1", 3, (100,), "Q4_1_v100", blocks.Q4_1_V100, 32, blocks.decode_q4_1_v100, blocks.encode_q4_1_v100),
        ("Q4_1_O", 4, (100,), "Q4_1_O", blocks.Q4_1_O, 32, blocks.decode_q4_1_o, blocks.encode_q4_1_o),
    )
)
REMOVED_TYPES = {5: "Q4_2", 6: "Q4_3"}

_BY_CODE = {(t.code, version): t for t in DATA_TYPES for version in t.versions}
_BY_NAME = {(t.name, version): t for t in DATA_TYPES for version in t.versions}


def by_code(code: int, version: int) -> DataType | None:
    """The type that `code` means in a file of that version; None where it means nothing."""
    return _BY_CODE.get((code, version))


def by_name(name: str, version: int = 101) -> DataType | None:
    """The type called `name` in a file of that version; None where there is none."""
    return _BY_NAME.get((name, version))

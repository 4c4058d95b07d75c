"""All matrix formats: one row of `FORMATS` each, with everything that array code needs.

Files and users name formats by codes and by names whose meaning changed; `rwkv_np/files/quants.py`
handles that. Here a name has one meaning. To add a format, add one row, a decoder and an encoder in
`blocks.py`, and, if it is worth one, a kernel in `encode.py`. A row only gives the kernel's name:
importing the kernel would import Numba, and a program that only inspects a file should not wait for that.
The types that only GGUF files have are in `superblocks.py`; they have no encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rwkv_np.kernels import blocks, superblocks
from rwkv_np.kernels.layout import Layout


@dataclass(frozen=True)
class Format:
    """A format, as stored in a file and as used in memory.

    layout      its arrangement in tiles, and the meaning of its quants
    block       the bytes of one block in a file, as a dtype; in a block of 32: scales first, the quants last
    decode      blocks (...,) -> float32 (..., block_size), the definition
    encode      float32 (..., block_size) -> blocks (...,), the definition; None: there is none, files are only read
    kernel      the name of a faster encoder in `encode.KERNELS`, if any
    block_size  weights in a block, along a row
    pairs       neighbours share a byte of quants (version 100), instead of columns 16 apart
    """

    name: str
    layout: Layout
    block: np.dtype
    decode: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray] | None
    kernel: str | None = None
    block_size: int = blocks.BLOCK_SIZE
    pairs: bool = False

    @property
    def is_quantized(self) -> bool:
        """Whether weights share a scale."""
        return self.block_size > 1

    @property
    def header(self) -> int:
        """Bytes of a block of 32 weights before its fifth bits and quants; superblocks have another order."""
        return self.block.itemsize - self.block_size * self.layout.bits // 8

    @property
    def bits_per_weight(self) -> float:
        """Size of a weight in a file, including its share of the scales."""
        return 8 * self.block.itemsize / self.block_size

    def n_bytes(self, n_weights: int) -> int:
        """Bytes that `n_weights` take in a file; a row must fill whole blocks."""
        return n_weights // self.block_size * self.block.itemsize


_TABLE = tuple(superblocks.TABLE.tolist())


def _super(name: str, layout: Layout) -> Format:
    """A row for a type of superblocks.SUPERBLOCK weights."""
    block, decode = superblocks.TYPES[name]
    return Format(name, layout, block, decode, None, block_size=superblocks.SUPERBLOCK)


FORMATS = {
    row.name: row
    for row in (
        Format("FP32", Layout(32), np.dtype("<f4"), blocks.decode_float, blocks.encode_fp32, block_size=1),
        Format("FP16", Layout(16), np.dtype("<f2"), blocks.decode_float, blocks.encode_fp16, block_size=1),
        Format("Q4_0", Layout(4, zero=8), blocks.Q4_0, blocks.decode_q4_0, blocks.encode_q4_0, "symmetric"),
        Format("Q4_1", Layout(4, has_min=True), blocks.Q4_1, blocks.decode_q4_1, blocks.encode_q4_1, "affine"),
        Format("Q5_0", Layout(5, zero=16), blocks.Q5_0, blocks.decode_q5_0, blocks.encode_q5_0, "symmetric"),
        Format("Q5_1", Layout(5, has_min=True), blocks.Q5_1, blocks.decode_q5_1, blocks.encode_q5_1, "affine"),
        Format("Q8_0", Layout(8), blocks.Q8_0, blocks.decode_q8_0, blocks.encode_q8_0, "q8_0"),
        # Version 100. Its float32 scales stay float32: they cost 12 % more bytes, but rounding them
        # would lose accuracy that the file has.
        Format(
            "Q4_0_v100", Layout(4, zero=8, scale_bytes=4),
            blocks.Q4_0_V100, blocks.decode_q4_0_v100, blocks.encode_q4_0_v100, pairs=True,
        ),
        Format(
            "Q4_1_v100", Layout(4, has_min=True, scale_bytes=4),
            blocks.Q4_1_V100, blocks.decode_q4_1_v100, blocks.encode_q4_1_v100, pairs=True,
        ),
        Format(
            "Q4_1_O", Layout(4, has_min=True, has_outliers=True),
            blocks.Q4_1_O, blocks.decode_q4_1_o, blocks.encode_q4_1_o, "q4_1_o", pairs=True,
        ),
        # GGUF's other types.
        Format("BF16", Layout(16, is_bfloat=True), np.dtype("<u2"), superblocks.decode_bf16, None, block_size=1),
        Format("IQ4_NL", Layout(4, table=_TABLE), superblocks.IQ4_NL, superblocks.decode_iq4_nl, None),
        _super("IQ4_XS", Layout(4, part_bits=8, table=_TABLE)),
        _super("Q2_K", Layout(2, has_min=True, part_bits=4, n_parts=2)),
        _super("Q3_K", Layout(3, zero=4, part_bits=8, n_parts=2)),
        _super("Q4_K", Layout(4, has_min=True, part_bits=8)),
        _super("Q5_K", Layout(5, has_min=True, part_bits=8)),
        _super("Q6_K", Layout(6, zero=32, part_bits=8, n_parts=2)),
    )
}  # fmt: skip

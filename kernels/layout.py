"""The memory layout of matrices and of the vectors they are multiplied with.

A matrix is cut into tiles of 32 rows, and a tile into blocks of 32 columns, as in the file formats.
A file stores data row by row; here it is stored across rows, in groups of 16 lanes, so that a
vector register contains the same columns of 16 rows and no sum ever crosses lanes.

    tile     block 0 | block 1 | ..., tile after tile: memory is read in address order
    block    scales | quants                            (a multiple of 64 bytes: a cache line)
    quants   for each group of 16 rows:
               4 bits   4 x 64 bytes; byte 4r + i of vector j: column 4j + i low, 4j + i + 16 high
               5 bits   the same, and 64 bytes whose bit s is the fifth bit of column 4s + i
               8 bits   8 x 64 bytes; byte 4r + i of vector j: column 4j + i, signed
    scales   d of 32 rows, then m of 32 rows where the format has a minimum (float16 or float32),
             then value (float16) and column (a byte) of each row's outlier if the format has them
    floats   FP16 and FP32: for each column its 32 rows; no scales

A vector (one column of x) is one row of bytes, n_blocks = n_in / 32 rounded up:

    int8     n_in quants | scales | scales * sum of quants | -8 * sum of quants | float32 values

The sums apply zero points and minimums once per block instead of once per weight.
`formats.py` lists the formats and how files store them.
"""

from __future__ import annotations

from dataclasses import dataclass

TILE_ROWS = 32
BLOCK = 32
GROUPS = TILE_ROWS // 16


@dataclass(frozen=True)
class Layout:
    """How a format is stored in tiles, and what its numbers mean.

    `bits` per weight; value = (q - zero) d, plus m where `has_min`; d and m of `scale_bytes` each.
    """

    bits: int
    zero: int = 0
    has_min: bool = False
    scale_bytes: int = 2
    has_outliers: bool = False

    @property
    def is_float(self) -> bool:
        """Whether the weights are floats and are multiplied with float32 activations."""
        return self.bits >= 16

    @property
    def group_quants(self) -> int:
        """Packed bytes of the quants of 16 rows of a block."""
        return 16 * BLOCK * self.bits // 8

    @property
    def scales(self) -> int:
        """Packed bytes of the scales of 32 rows of a block, which come before its quants."""
        if self.is_float:
            return 0
        used = TILE_ROWS * (self.scale_bytes * (1 + self.has_min) + 3 * self.has_outliers)
        return round_up(used, 64)

    @property
    def block_bytes(self) -> int:
        """Packed bytes of 32 columns of 32 rows."""
        return self.scales + GROUPS * self.group_quants

    @property
    def weight_max(self) -> int:
        """The largest magnitude of a quant when it is read as a signed number."""
        return 128 if self.bits == 8 else 2**self.bits - 1

    def tile_bytes(self, n_blocks: int) -> int:
        """Bytes of a tile with `n_blocks` blocks per row."""
        return n_blocks * self.block_bytes


# Where the parts of a vector's row start, in bytes per block.
SCALES = BLOCK
SUMS = SCALES + 4
ZEROS = SUMS + 4
VALUES = ZEROS + 4
VECTOR_BLOCK = VALUES + 4 * BLOCK


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple that is at least n."""
    return -(-n // multiple) * multiple


def n_blocks_of(n_in: int) -> int:
    """Blocks of 32 that cover `n_in` columns."""
    return -(-n_in // BLOCK)


def vector_bytes(n_blocks: int) -> int:
    """Bytes of the row of one vector."""
    return round_up(n_blocks * VECTOR_BLOCK, 64)

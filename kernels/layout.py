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
               any      planes of 4, 2 or 1 bits, the lowest bits first: a plane of w bits has w x 64 bytes;
                        byte 4r + i of vector j: columns 4j + i, 4 (j + w) + i, 4 (j + 2w) + i, ..., low to high
    scales   d of 32 rows, then m of 32 rows if the format has a minimum (float16 or float32),
             then value (float16) and column (a byte) of each row's outlier if the format has them
    floats   FP16, BF16 and FP32: for each column its 32 rows; no scales

Where 8 blocks share d and m (GGUF's types K and IQ4_XS), a tile consists of superblocks. A block is one
part, or two parts of 16 columns; an integer for each part multiplies d, another one m.

    superblock   d of 32 rows | m of 32 rows, if any | block 0 | ... | block 7
    scales       bytes, signed: those of d for 32 rows, first part and second, then those of m
                 (32 bytes are half a line: then the scales of all 8 blocks come before the blocks)
    pairs        where the sum of a part fits in 16 bits, for each row its two scales, the second part's first:
                 two bytes, or nibbles, followed by those of m

The vectors of a pass (columns of x) lie in groups: as many as a kernel multiplies at once, and the rest in groups
of a power of two. So a kernel reads one stream of memory, whatever their number. (Each vector in a row of its own,
kilobytes from the next, prompts took 1.1 to 1.2 times as long on an Intel Xeon.)

    group    block 0 | block 1 | ...
    block    32 quants of each vector | numbers of the first four vectors | of the next four | ...
    numbers  scales | scales * sum of quants | -8 * sum of quants
             | 65536 * sum of the first 16 quants + sum of the others     (of each vector, 4 bytes)

Four vectors make up whole cache lines. Threads write four tokens at a time (mixing.py), and so never the same line.
The sums apply zero points and minimums once per block instead of once per weight.
Float32 values, for matrices of floats and for outliers, are rows of their own.
`formats.py` lists the formats and how files store them.
"""

from __future__ import annotations

from dataclasses import dataclass

TILE_ROWS = 32
BLOCK = 32
GROUPS = TILE_ROWS // 16
SUPERBLOCK = 8  # blocks
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}  # bits of a quant -> bits of its planes


@dataclass(frozen=True)
class Layout:
    """How a format is stored in tiles, and what its numbers mean.

    `bits` per weight; value = (q - zero) d, plus m where `has_min`; d and m of `scale_bytes` each.

    part_bits  bits of the integers that multiply d and m, which 8 blocks share; 0: each block has its own
    n_parts    parts of a block with such an integer
    table      the values that quants mean, -127 .. 127; empty: their own
    is_bfloat  16-bit floats are bfloat16
    """

    bits: int
    zero: int = 0
    has_min: bool = False
    scale_bytes: int = 2
    has_outliers: bool = False
    part_bits: int = 0
    n_parts: int = 1
    table: tuple[int, ...] = ()
    is_bfloat: bool = False

    @property
    def is_float(self) -> bool:
        """Whether the weights are floats and are multiplied with float32 activations."""
        return self.bits >= 16

    @property
    def has_pairs(self) -> bool:
        """Whether the sums of both parts fit in 16 bits, and are multiplied with their scales at once."""
        largest = max(self.zero, 2**self.bits - 1 - self.zero)
        return self.n_parts == 2 and BLOCK // 2 * largest * 127 < 2**15

    @property
    def group_quants(self) -> int:
        """Packed bytes of the quants of 16 rows of a block."""
        return 16 * BLOCK * self.bits // 8

    @property
    def shared_scales(self) -> int:
        """Packed bytes of d and m of 32 rows."""
        return TILE_ROWS * self.scale_bytes * (1 + self.has_min)

    @property
    def part_scales(self) -> int:
        """Packed bytes of the integers of 32 rows of a block."""
        return TILE_ROWS * self.n_parts * (1 + self.has_min) * self.part_bits // 8

    @property
    def scales(self) -> int:
        """Packed bytes of the scales of 32 rows of a block, which come before its quants."""
        if self.is_float:
            return 0
        if self.part_bits:
            return self.part_scales // 64 * 64
        return round_up(self.shared_scales + TILE_ROWS * 3 * self.has_outliers, 64)

    @property
    def block_bytes(self) -> int:
        """Packed bytes of 32 columns of 32 rows."""
        return self.scales + GROUPS * self.group_quants

    @property
    def head(self) -> int:
        """Packed bytes of what 8 blocks share, which comes before them; 0 if they share nothing."""
        if not self.part_bits:
            return 0
        return self.shared_scales + SUPERBLOCK * (self.part_scales - self.scales)

    @property
    def superblock_bytes(self) -> int:
        """Packed bytes of 8 blocks and what they share."""
        return self.head + SUPERBLOCK * self.block_bytes

    @property
    def weight_max(self) -> int:
        """The largest magnitude of a quant when it is read as a signed number."""
        return 128 if self.bits == 8 or self.table else 2**self.bits - 1

    def tile_bytes(self, n_blocks: int) -> int:
        """Bytes of a tile with `n_blocks` blocks per row."""
        return n_blocks * self.superblock_bytes // SUPERBLOCK


# The four numbers of a vector in a block, in their order.
SCALES, SUMS, ZEROS, HALVES, N_NUMBERS = range(5)
VECTOR_BLOCK = BLOCK + 4 * N_NUMBERS  # bytes of a vector's part of a block
NUMBERS_TOGETHER = 4  # vectors whose numbers lie together


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple that is at least n."""
    return -(-n // multiple) * multiple


def n_blocks_of(n_in: int) -> int:
    """Blocks of 32 that cover `n_in` columns."""
    return -(-n_in // BLOCK)


def vector_bytes(n_blocks: int) -> int:
    """Bytes that a vector takes in its group."""
    return n_blocks * VECTOR_BLOCK


def quants_at(vector: int) -> int:
    """Where the quants of a vector of a group begin in a block."""
    return BLOCK * vector


def number_at(which: int, vector: int, count: int) -> int:
    """Where a number of a vector is in a block of a group of `count` vectors."""
    together = min(count, NUMBERS_TOGETHER)
    first = vector // together * together
    return BLOCK * count + 4 * (N_NUMBERS * first + which * together + vector - first)


def group_of(vector: int, n_vectors: int, together: int) -> tuple[int, int]:
    """The first vector of the group that contains `vector`, and how many it has.

    As many groups of `together` as fit come first, then one for each bit of the rest, the largest first. So the
    highest bit in which the numbers differ is the size of the group, if that is below `together`.
    """
    count = min(together, 1 << (vector ^ n_vectors).bit_length() - 1)
    return vector // count * count, count

"""A second layout for a matrix whose input vector is mostly zero: each column of a tile is a cache line of its own.

The tiles of `layout.py` hold the columns of a row block side by side, so a product reads all of them. Here a product
with one vector reads only the columns whose activation is not zero (`sparse_tile.py`), and with several vectors, or
with most columns active, it reads all of them at the speed of the other layout (`column_tile.py`). So one copy of the
weights serves prompts and decoding. It has as many bytes as the other layout.

    tile     128 rows: the scales of all blocks, then the columns of all blocks
    scales   of a block: d of 128 rows, then m of 128 rows if the format has a minimum (float16 or float32)
    columns  of a block, 4 or 5 bits: 32 lines of 64 bytes, one for each column; then for 5 bits 32 x 16 bytes
             8 bits: 32 x 2 lines, one for the first 64 rows and one for the others
    line     row 16 g + 4 l + p (g < 8, l < 4, p < 4) is in byte 16 l + 4 (g // 2) + p: in its low nibble if g is even.
             8 bits: in byte 16 l + 4 (g % 4) + p of line g // 4
    fifth    bit g of byte 4 l + p

The scales are not next to their columns: with them in between, a product with a tenth of the columns took .46 of the
time of all columns, and not .35. In this order of rows, interleaving the bytes of four lines, and then their pairs,
puts four columns of 16 consecutive rows into a register, as the dot products need them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.formats import Format
from rwkv_np.kernels.pack import Place
from rwkv_np.kernels.pointers import address, beyond, move_int, move_short, read_byte, read_int, write_byte

ROWS = 128
GROUPS = ROWS // 16
BLOCK = lay.BLOCK
FIFTH = ROWS // 8  # bytes of the fifth bits of a column


@dataclass(frozen=True)
class Columns:
    """Sizes of the parts of a tile, for the numbers of `layout`."""

    layout: lay.Layout

    @property
    def scales(self) -> int:
        """Bytes of the scales of a block."""
        return ROWS * self.layout.scale_bytes * (1 + self.layout.has_min)

    @property
    def line(self) -> int:
        """Bytes of a column, without fifth bits."""
        return ROWS if self.layout.bits == 8 else ROWS // 2

    @property
    def fifth(self) -> int:
        """Bytes of the fifth bits of a column."""
        return FIFTH if self.layout.bits == 5 else 0

    @property
    def quants(self) -> int:
        """Bytes of the columns of a block."""
        return BLOCK * (self.line + self.fifth)

    def tile_bytes(self, n_blocks: int) -> int:
        """Bytes of a tile with `n_blocks` blocks per row."""
        return n_blocks * (self.scales + self.quants)

    def n_bytes_read(self, n_columns: float, n_blocks: float) -> float:
        """Bytes of a tile that a product reads if so many columns, in so many blocks, are active."""
        return n_columns * (self.line + self.fifth) + n_blocks * self.scales


def fits(layout: lay.Layout, n_rows: int, n_in: int) -> bool:
    """Whether a matrix can be stored by columns: quants with scales of their own block, and whole tiles."""
    is_plain = not (layout.is_float or layout.part_bits or layout.table or layout.has_outliers)
    return is_plain and n_rows % ROWS == 0 and n_in % BLOCK == 0


def place_columns(layout: lay.Layout, n_rows: int, n_in: int, start: int = 0) -> Place:
    """The place of a matrix that is stored by columns from `start` on."""
    tile_bytes = Columns(layout).tile_bytes(lay.n_blocks_of(n_in))
    return Place(start, tile_bytes, n_rows // ROWS, tile_bytes, ROWS)


# --- packing --------------------------------------------------------------------------------------


@jit()
def _byte_of(row):
    """Where the byte of a row is in a line of 4 bits; rows 16 apart share it."""
    group, lane = row // 16, row % 16
    return 16 * (lane // 4) + 4 * (group // 2) + lane % 4


@jit()
def _pack_nibbles(low, high, start, pairs, target):
    """The nibbles of two rows 16 apart, whose blocks are at `low` and `high`; `target` is their byte in line 0."""
    for j in range(BLOCK // 2):
        a, b = read_byte(low, start + j), read_byte(high, start + j)
        first, second = (2 * j, 2 * j + 1) if pairs else (j, j + BLOCK // 2)
        write_byte(np.uint8((a & np.uint8(15)) | (b << np.uint8(4))), target, first * (ROWS // 2))
        write_byte(np.uint8((a >> np.uint8(4)) | (b & np.uint8(0xF0))), target, second * (ROWS // 2))


@jit()
def _pack_fifth_bits(source, row_bytes, start, lane, target):
    """The fifth bits of rows `lane`, `lane` + 16, ..., a byte for each column."""
    for column in range(BLOCK):
        byte = np.uint32(0)
        for group in range(GROUPS):
            word = read_int(source, (16 * group + lane) * row_bytes + start)
            byte |= ((word >> np.uint32(column)) & np.uint32(1)) << np.uint32(group)
        write_byte(np.uint8(byte), target, FIFTH * column + lane)


@jit()
def _pack_bytes(source, start, row, target):
    """The 8-bit quants of one row of a block."""
    group, lane = row // 16, row % 16
    place = 64 * (group // 4) + 16 * (lane // 4) + 4 * (group % 4) + lane % 4
    for column in range(BLOCK):
        write_byte(read_byte(source, start + column), target, ROWS * column + place)


@jit()
def _pack_scales(source, row, n_scales, scale_bytes, target):
    for i in range(n_scales):
        to = scale_bytes * (ROWS * i + row)
        if scale_bytes == 4:
            move_int(source, 4 * i, target, to)
        else:
            move_short(source, 2 * i, target, to)


@jit()
def _pack_block(raw, first, row_bytes, start, numbers, scales, quants):
    """One block of 128 rows, `start` bytes after the beginning of each row; row 0 begins at `first` in `raw`."""
    bits, header, n_scales, scale_bytes, pairs = numbers
    source = address(raw, first)
    for row in range(ROWS):
        _pack_scales(address(raw, first + row * row_bytes + start), row, n_scales, scale_bytes, scales)
    start += header
    if bits == 8:
        for row in range(ROWS):
            _pack_bytes(source, row * row_bytes + start, row, quants)
        return
    if bits == 5:
        for lane in range(16):
            _pack_fifth_bits(source, row_bytes, start, lane, beyond(quants, BLOCK * (ROWS // 2)))
        start += 4
    for pair in range(ROWS // 2):
        row = pair // 16 * 32 + pair % 16
        low, high = address(raw, first + row * row_bytes), address(raw, first + (row + 16) * row_bytes)
        _pack_nibbles(low, high, start, pairs, beyond(quants, _byte_of(row)))


@jit(nogil=True)
def _pack_tiles(raw, n_blocks, block_bytes, numbers, scales, quants, target, start, stride):
    n_rows, row_bytes = raw.shape
    for tile in range(n_rows // ROWS):
        place = start + tile * stride
        for block in range(n_blocks):
            _pack_block(
                raw, tile * ROWS * row_bytes, row_bytes, block * block_bytes, numbers,
                address(target, place + block * scales), address(target, place + n_blocks * scales + block * quants),
            )  # fmt: skip


def pack_columns(raw: np.ndarray, format: Format, n_in: int, target: np.ndarray, place: Place) -> None:
    """Pack the rows of a file by columns into their place in `target`, a flat uint8 buffer.

    Shapes   raw (n_rows, bytes of a row) uint8, C-contiguous, read-only or not
    Raises   ValueError: the shapes do not match
    """
    n_rows, row_bytes = raw.shape
    layout, columns = format.layout, Columns(format.layout)
    if row_bytes != format.n_bytes(n_in) or not fits(layout, n_rows, n_in):
        raise ValueError(f"{n_rows} rows of {row_bytes} bytes are not whole tiles of {format.name} with {n_in} columns")
    alone = place_columns(layout, n_rows, n_in)
    end = place.start + (place.n_tiles - 1) * place.stride + place.tile_bytes
    if (place.n_tiles, place.tile_bytes) != (alone.n_tiles, alone.tile_bytes) or end > target.size:
        raise ValueError(f"{place}: {n_rows} rows of {n_in} weights do not fit in {target.size} bytes")
    numbers = layout.bits, format.header, 1 + layout.has_min, layout.scale_bytes, int(format.pairs)
    sizes = columns.scales, columns.quants
    _pack_tiles(raw, n_in // BLOCK, format.block.itemsize, numbers, *sizes, target, place.start, place.stride)

"""Rearrange the blocks of a file into tiles (layout.py), once, while a model is loaded.

Works tile by tile, in one thread and without Python's lock: the loader of a model packs several parts of
it at once. Missing rows of the last tile are zeros. It moves four bytes at once where the layouts allow it:
byte by byte it was slower than reading the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.blocks import NO_OUTLIER
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.formats import Format
from rwkv_np.kernels.planes import numbers as super_numbers
from rwkv_np.kernels.planes import pack_super_row, planes
from rwkv_np.kernels.pointers import (
    address,
    clear_bytes,
    move_int,
    move_short,
    read_int,
    read_short,
    write_byte,
    write_int,
    write_short,
)

TILE_ROWS, BLOCK = lay.TILE_ROWS, lay.BLOCK


@jit()
def _spread_nibbles(short):
    """Spread four nibbles to the low halves of four bytes."""
    wide = np.uint32(short)
    wide = (wide | (wide << np.uint32(8))) & np.uint32(0x00FF00FF)
    return (wide | (wide << np.uint32(4))) & np.uint32(0x0F0F0F0F)


@jit()
def _halves_from_pairs(source, start, vector):
    """The four bytes of `vector`, which contain columns 16 apart, from bytes that contain neighbouring columns."""
    low = _spread_nibbles(read_short(source, start + 2 * vector))
    high = _spread_nibbles(read_short(source, start + 2 * vector + 8))
    return low | (high << np.uint32(4))


@jit()
def _pack_nibbles(source, start, pairs, target, place):
    for vector in range(4):
        if pairs:
            write_int(_halves_from_pairs(source, start, vector), target, place + 64 * vector)
        else:
            move_int(source, start + 4 * vector, target, place + 64 * vector)


@jit()
def _fifth_bits(word):
    """Rearrange 32 bits in column order to 4 bytes: bit s of byte i is the bit of column 4s + i."""
    result = np.uint32(0)
    for i in range(4):
        bits = (word >> np.uint32(i)) & np.uint32(0x11111111)  # bit 4s is column 4s + i
        bits = (bits | (bits >> np.uint32(3))) & np.uint32(0x03030303)
        bits = (bits | (bits >> np.uint32(6))) & np.uint32(0x000F000F)
        bits = (bits | (bits >> np.uint32(12))) & np.uint32(0xFF)
        result |= bits << np.uint32(8 * i)
    return result


@jit()
def _pack_quants(source, start, bits, pairs, target, place):
    """The quants of one row of a block; `place` is the position of lane 0's quants plus 4 x lane."""
    if bits == 8:
        for vector in range(8):
            move_int(source, start + 4 * vector, target, place + 64 * vector)
        return
    if bits == 5:
        write_int(_fifth_bits(read_int(source, start)), target, place + 256)
        start += 4
    _pack_nibbles(source, start, pairs, target, place)


@jit()
def _pack_scales(source, start, n_scales, scale_bytes, target, place, row):
    for i in range(n_scales):
        to = place + scale_bytes * (TILE_ROWS * i + row)
        if scale_bytes == 4:
            move_int(source, start + 4 * i, target, to)
        else:
            move_short(source, start + 2 * i, target, to)


@jit()
def _pack_outlier(source, start, target, place, row):
    """An all-zero block has no outlier: column 0xFFFF. It is given one that equals its minimum."""
    column, value = read_short(source, start + 4), read_short(source, start + 6)
    if column >= BLOCK:
        column, value = np.uint16(0), read_short(source, start + 2)
    write_short(value, target, place + 2 * row)
    write_byte(np.uint8(column), target, place + 2 * TILE_ROWS + row)


@jit()
def _pack_row(source, row, n_blocks, numbers, target):
    bits, header, file_block, n_scales, scale_bytes, pairs, has_outliers, scales, group_quants = numbers
    group, lane = row // 16, row % 16
    for block in range(n_blocks):
        start, place = block * file_block, block * (scales + lay.GROUPS * group_quants)
        _pack_scales(source, start, n_scales, scale_bytes, target, place, row)
        if has_outliers:
            _pack_outlier(source, start, target, place + 2 * TILE_ROWS * scale_bytes, row)
        quants = place + scales + group * group_quants + 4 * lane
        _pack_quants(source, start + header, bits, pairs, target, quants)


@jit()
def _pack_float_row(source, row, n_in, size, target):
    for column in range(n_in):
        to = size * (column * TILE_ROWS + row)
        if size == 4:
            move_int(source, 4 * column, target, to)
        else:
            move_short(source, 2 * column, target, to)


@jit(nogil=True)
def _pack_rows(raw, n_in, n_blocks, numbers, super_numbers, planes, target, start, stride, tile_bytes):
    n_rows, row_bytes = raw.shape
    for tile in range((n_rows + TILE_ROWS - 1) // TILE_ROWS):
        place = address(target, start + tile * stride)
        clear_bytes(place, tile_bytes)
        for row in range(min(TILE_ROWS, n_rows - tile * TILE_ROWS)):
            source = address(raw, (tile * TILE_ROWS + row) * row_bytes)
            if numbers[0] >= 16:
                _pack_float_row(source, row, n_in, numbers[0] // 8, place)
            elif planes.shape[0]:
                pack_super_row(source, row, n_blocks, super_numbers, planes, place)
            else:
                _pack_row(source, row, n_blocks, numbers, place)


def _numbers(format):
    layout = format.layout
    return (
        layout.bits, format.header, format.block.itemsize, 1 + layout.has_min, layout.scale_bytes, int(format.pairs),
        int(layout.has_outliers), layout.scales, layout.group_quants,
    )  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where the tiles of a matrix are in a buffer: the first, and bytes from one to the next.

    Matrices that are read together have their tiles interleaved, so that memory is read in address
    order; the stride is then longer than a tile. A tile has `tile_rows` rows: more if stored by columns (columns.py).
    """

    start: int
    stride: int
    n_tiles: int
    tile_bytes: int
    tile_rows: int = TILE_ROWS


def place_alone(layout: lay.Layout, n_rows: int, n_in: int, start: int = 0) -> Place:
    """The place of a matrix whose tiles are contiguous from `start` on."""
    tile_bytes = layout.tile_bytes(lay.n_blocks_of(n_in))
    return Place(start, tile_bytes, -(-n_rows // TILE_ROWS), tile_bytes)


def pack(raw: np.ndarray, format: Format, n_in: int, target: np.ndarray, place: Place) -> None:
    """Pack the rows of a file into their place in `target`, a flat uint8 buffer.

    Shapes   raw (n_rows, bytes of a row) uint8, C-contiguous, read-only or not
    Raises   ValueError: the shapes do not match
    """
    n_rows, row_bytes = raw.shape
    expected = format.n_bytes(n_in)
    if row_bytes != expected or n_in % format.block_size:
        raise ValueError(f"{format.name} rows of {n_in} weights have {row_bytes} bytes, not {expected}")
    alone = place_alone(format.layout, n_rows, n_in)
    end = place.start + (place.n_tiles - 1) * place.stride + place.tile_bytes
    if (place.n_tiles, place.tile_bytes) != (alone.n_tiles, alone.tile_bytes) or end > target.size:
        raise ValueError(f"{place}: {n_rows} rows of {n_in} weights do not fit in {target.size} bytes")
    numbers = lay.n_blocks_of(n_in), _numbers(format), super_numbers(format), planes(format)
    _pack_rows(raw, n_in, *numbers, target, place.start, place.stride, place.tile_bytes)


def unpack_reference(raw: np.ndarray, format: Format, n_in: int, outliers: bool = True) -> np.ndarray:
    """The weights of a file's rows as the format defines them, (n_rows, n_in) float64.

    Without `outliers` each outlier has the value of its nibble, which is the block's minimum.
    """
    blocks = np.array(raw).view(format.block)
    if format.layout.has_outliers and not outliers:
        blocks["outlier_index"] = NO_OUTLIER
    return format.decode(blocks).reshape(len(raw), n_in).astype(np.float64)

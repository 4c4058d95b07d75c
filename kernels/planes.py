"""Rearrange the superblocks of a file's row into a tile: part of `pack.py`.

A superblock in a file mixes the columns of its blocks: the two nibbles of a byte belong to different blocks.
Here each block of 32 columns gets its own planes of bits (layout.py). A plane is one in the file too, so its bits are
moved four columns at once and never put together to quants.
"""

from __future__ import annotations

import numpy as np
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.formats import Format
from rwkv_np.kernels.pointers import move_int, move_short, read_int, read_short, write_byte, write_int, write_short

# Bytes of a file's plane whose lowest bits are consecutive columns, before the next bits of the same bytes go on.
RUNS = {"qs": {"Q6_K": 64, "IQ4_XS": 16}, "qh": {}}
RUN = 32
HALF_SIGN = 0x8000
TILE_ROWS = lay.TILE_ROWS
SCALES_Q2_K, SCALES_Q3_K, SCALES_Q4_K, SCALES_Q6_K, SCALES_IQ4_XS = range(5)
SCALES = {
    "Q2_K": SCALES_Q2_K, "Q3_K": SCALES_Q3_K, "Q4_K": SCALES_Q4_K, "Q5_K": SCALES_Q4_K, "Q6_K": SCALES_Q6_K,
    "IQ4_XS": SCALES_IQ4_XS,
}  # fmt: skip


def numbers(format: Format) -> tuple[int, ...]:
    """What `pack_super_row` must know about a format; zeros where it has no superblocks."""
    if not format.layout.part_bits:
        return 11 * (0,)
    layout, at = format.layout, {name: field[1] for name, field in format.block.fields.items()}
    scales = at["scales"] if "scales" in at else at["scales_high"]
    return (
        format.block.itemsize, at["d"], at.get("m", -1), scales, SCALES[format.name], layout.n_parts,
        int(layout.has_pairs), layout.scales, layout.block_bytes, layout.head, layout.group_quants,
    )  # fmt: skip


def planes(format: Format) -> np.ndarray:
    """Where a file has the bits of each block: (planes, 10) int64: bits, run, then the first byte and shift of 4 pairs.

    Block j of a plane starts at that byte, and its bits are that far from the low end.
    """
    if not format.layout.part_bits:
        return np.zeros((0, 2 + 2 * lay.SUPERBLOCK), np.int64)
    rows = []
    for field, bits in zip(("qs", "qh"), lay.PLANES[format.layout.bits]):
        start, run = format.block.fields[field][1], RUNS[field].get(format.name, RUN)
        row = [bits, run]
        for block in range(lay.SUPERBLOCK):
            group, column = divmod(block * lay.BLOCK, run * 8 // bits)
            row += [start + group * run + column % run, bits * (column // run)]
        rows.append(row)
    return np.array(rows, np.int64)


@jit()
def _gather(source, start, shift, mask):
    """The bits of four columns, each at the low end of a byte."""
    return (read_int(source, start) >> shift) & mask


@jit()
def _pack_plane(source, start, shift, bits, run, target, place):
    """One plane of one row of a block; `place` is the position of lane 0's bits plus 4 x lane."""
    if bits == 4 and run == 16:
        for vector in range(4):
            move_int(source, start + 4 * vector, target, place + 64 * vector)
    elif bits == 4:
        mask = np.uint32(0x0F0F0F0F)
        for vector in range(4):
            low = _gather(source, start + 4 * vector, shift, mask)
            high = _gather(source, start + 4 * vector + 16, shift, mask)
            write_int(low | (high << np.uint32(4)), target, place + 64 * vector)
    elif bits == 2:
        for vector in range(2):
            word = np.uint32(0)
            for i in range(4):
                part = _gather(source, start + 4 * vector + 8 * i, shift, np.uint32(0x03030303))
                word |= part << np.uint32(2 * i)
            write_int(word, target, place + 64 * vector)
    else:
        word = np.uint32(0)
        for i in range(8):
            word |= _gather(source, start + 4 * i, shift, np.uint32(0x01010101)) << np.uint32(i)
        write_int(word, target, place)


@jit()
def _scales_of(source, at, kind):
    """The integers of the parts: 16 bytes, in order; those of 8 parts are followed by their minima."""
    a, b = read_int(source, at), read_int(source, at + 4)
    if kind == SCALES_IQ4_XS:  # two bytes of high bits, four of low bits
        return _iq4_xs_scales(np.uint32(read_short(source, at)), read_int(source, at + 2))
    c = read_int(source, at + 8)
    low, six, two = np.uint32(0x0F0F0F0F), np.uint32(0x3F3F3F3F), np.uint32(0x30303030)
    if kind == SCALES_Q4_K:
        return (
            a & six, (c & low) | ((a >> np.uint32(2)) & two),
            b & six, ((c >> np.uint32(4)) & low) | ((b >> np.uint32(2)) & two),
        )  # fmt: skip
    if kind == SCALES_Q3_K:
        return (
            _minus_32((a & low) | ((c << np.uint32(4)) & two)),
            _minus_32((b & low) | ((c << np.uint32(2)) & two)),
            _minus_32(((a >> np.uint32(4)) & low) | (c & two)),
            _minus_32(((b >> np.uint32(4)) & low) | ((c >> np.uint32(2)) & two)),
        )  # fmt: skip
    return a, b, c, read_int(source, at + 12)


@jit()
def _minus_32(word):
    """Subtract 32 from each of four bytes below 64."""
    return (word ^ np.uint32(0x20202020)) | ((~word & np.uint32(0x20202020)) << np.uint32(1)) * np.uint32(3)


@jit()
def _iq4_xs_scales(high, low):
    first, second = np.uint32(0), np.uint32(0)
    for i in range(4):
        for half in range(2):
            part = 4 * half + i
            scale = (low >> np.uint32(4 * part)) & np.uint32(15) | (
                (high >> np.uint32(2 * part)) & np.uint32(3)
            ) << np.uint32(4)
            byte = ((scale - np.uint32(32)) & np.uint32(0xFF)) << np.uint32(8 * i)
            if half == 0:
                first |= byte
            else:
                second |= byte
    return first, second, np.uint32(0), np.uint32(0)


@jit()
def _put_pairs(words, kind, block_bytes, head, target, place, row):
    """Write the scales of both parts of each block, side by side."""
    for block in range(lay.SUPERBLOCK):
        both = words[block // 2] >> np.uint32(16 * (block % 2))
        first, second = both & np.uint32(0xFF), (both >> np.uint32(8)) & np.uint32(0xFF)
        pair = second | (first << np.uint32(8))
        if kind == SCALES_Q2_K:
            low, high = np.uint32(0x0F), np.uint32(0xF0)
            pair = (
                second & low
                | (first & low) << np.uint32(4)
                | (second & high) << np.uint32(4)
                | (first & high) << np.uint32(8)
            )
        write_short(np.uint16(pair), target, place + head + block * block_bytes + 2 * row)


@jit()
def _put_scale(index, scale, n_parts, scales, block_bytes, head, target, place, row):
    """Write byte `index` of `_scales_of` for one row of the superblock at `place`."""
    if scales == 0:  # before the blocks
        if index < lay.SUPERBLOCK:
            write_byte(scale, target, place + 2 * TILE_ROWS + TILE_ROWS * index + row)
        return
    block, part = (index // 2, index % 2) if n_parts == 2 else (index % 8, index // 8)
    write_byte(scale, target, place + head + block * block_bytes + TILE_ROWS * part + row)


@jit()
def pack_super_row(source, row, n_blocks, numbers, planes, target):
    """Rearrange a row of n_blocks / 8 superblocks at `source` into row `row` of the tile at `target`."""
    size, d, m, scales_at, kind, n_parts, has_pairs, scales, block_bytes, head, group_quants = numbers
    group, lane = row // 16, row % 16
    for superblock in range(n_blocks // lay.SUPERBLOCK):
        start, place = superblock * size, superblock * (head + lay.SUPERBLOCK * block_bytes)
        move_short(source, start + d, target, place + 2 * row)
        if m >= 0:  # the file subtracts minima; here they are added
            write_short(read_short(source, start + m) ^ np.uint16(HALF_SIGN), target, place + 2 * (TILE_ROWS + row))
        words = _scales_of(source, start + scales_at, kind)
        if has_pairs:
            _put_pairs(words, kind, block_bytes, head, target, place, row)
        for i in range(0 if has_pairs else 16):
            word = words[i // 4]
            byte = np.uint8(word >> np.uint32(8 * (i % 4)))
            _put_scale(i, byte, n_parts, scales, block_bytes, head, target, place, row)
        for block in range(lay.SUPERBLOCK):
            quants = place + head + block * block_bytes + scales + group * group_quants + 4 * lane
            for i in range(planes.shape[0]):
                at, shift = planes[i, 2 + 2 * block], np.uint32(planes[i, 3 + 2 * block])
                _pack_plane(source, start + at, shift, planes[i, 0], planes[i, 1], target, quants)
                quants += 64 * planes[i, 0]

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

# Consecutive columns in the lowest bits of a plane's bytes, before the next bits of the same bytes continue.
RUN = 32
OTHER_RUNS = {("Q6_K", "qs"): 64, ("IQ4_XS", "qs"): 16}
MINUS = 0x8000  # the sign of a float16
TILE_ROWS = lay.TILE_ROWS
SCALES_Q2_K, SCALES_Q3_K, SCALES_Q4_K, SCALES_Q6_K, SCALES_IQ4_XS = range(5)  # ways to store the integers of the parts
SCALES = {
    "Q2_K": SCALES_Q2_K, "Q3_K": SCALES_Q3_K, "Q4_K": SCALES_Q4_K, "Q5_K": SCALES_Q4_K, "Q6_K": SCALES_Q6_K,
    "IQ4_XS": SCALES_IQ4_XS,
}  # fmt: skip
N_NUMBERS = 11

# Fields of each of four bytes.
LOW_BIT, LOW_TWO, LOW_FOUR, LOW_SIX = (np.uint32(byte * 0x01010101) for byte in (0x01, 0x03, 0x0F, 0x3F))
BIT_5, BITS_4_5 = np.uint32(0x20202020), np.uint32(0x30303030)


def numbers(format: Format) -> tuple[int, ...]:
    """What `pack_super_row` must know about a format; zeros where it has no superblocks."""
    if not format.layout.part_bits:
        return N_NUMBERS * (0,)
    layout, at = format.layout, {name: field[1] for name, field in format.block.fields.items()}
    scales = at["scales"] if "scales" in at else at["scales_high"]
    return (
        format.block.itemsize, at["d"], at.get("m", -1), scales, SCALES[format.name], layout.n_parts,
        int(layout.has_pairs), layout.scales, layout.block_bytes, layout.head, layout.group_quants,
    )  # fmt: skip


def planes(format: Format) -> np.ndarray:
    """Where a file has the bits of each block: (planes, 18) int64.

    A row: the bits of the plane, its run, and for each of the 8 blocks its first byte and how far its bits are
    from the low end of a byte.
    """
    if not format.layout.part_bits:
        return np.zeros((0, 2 + 2 * lay.SUPERBLOCK), np.int64)
    rows = []
    for field, bits in zip(("qs", "qh"), lay.PLANES[format.layout.bits]):
        start, run = format.block.fields[field][1], OTHER_RUNS.get((format.name, field), RUN)
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
        for vector in range(4):
            low = _gather(source, start + 4 * vector, shift, LOW_FOUR)
            high = _gather(source, start + 4 * vector + 16, shift, LOW_FOUR)
            write_int(low | (high << np.uint32(4)), target, place + 64 * vector)
    elif bits == 2:
        for vector in range(2):
            word = np.uint32(0)
            for i in range(4):
                part = _gather(source, start + 4 * vector + 8 * i, shift, LOW_TWO)
                word |= part << np.uint32(2 * i)
            write_int(word, target, place + 64 * vector)
    else:
        word = np.uint32(0)
        for i in range(8):
            word |= _gather(source, start + 4 * i, shift, LOW_BIT) << np.uint32(i)
        write_int(word, target, place)


@jit()
def _minus_32(word):
    """Subtract 32 from each of four bytes below 64."""
    is_below = ~word & BIT_5
    return (word ^ BIT_5) | (is_below << np.uint32(1)) | (is_below << np.uint32(2))


@jit()
def _iq4_xs_scales(low, high):
    """Four of them: the low four bits of each are in 16 bits, two more in 8 bits."""
    low = (low | (low << np.uint32(8))) & np.uint32(0x00FF00FF)
    low = (low | (low << np.uint32(4))) & LOW_FOUR
    high = (high | (high << np.uint32(12))) & np.uint32(0x000F000F)
    high = (high | (high << np.uint32(6))) & LOW_TWO
    return _minus_32(low | (high << np.uint32(4)))


@jit()
def _scales_of(source, at, kind):
    """The integers of the parts, 16 bytes in order; those of 8 parts are followed by those of their minima."""
    if kind == SCALES_IQ4_XS:
        high, low, zero = np.uint32(read_short(source, at)), read_int(source, at + 2), np.uint32(0)
        first = _iq4_xs_scales(low & np.uint32(0xFFFF), high & np.uint32(0xFF))
        return first, _iq4_xs_scales(low >> np.uint32(16), high >> np.uint32(8)), zero, zero
    a, b, c = read_int(source, at), read_int(source, at + 4), read_int(source, at + 8)
    if kind == SCALES_Q4_K:
        scales = (c & LOW_FOUR) | ((a >> np.uint32(2)) & BITS_4_5)
        minima = ((c >> np.uint32(4)) & LOW_FOUR) | ((b >> np.uint32(2)) & BITS_4_5)
        return a & LOW_SIX, scales, b & LOW_SIX, minima
    if kind == SCALES_Q3_K:
        return (
            _minus_32((a & LOW_FOUR) | ((c << np.uint32(4)) & BITS_4_5)),
            _minus_32((b & LOW_FOUR) | ((c << np.uint32(2)) & BITS_4_5)),
            _minus_32(((a >> np.uint32(4)) & LOW_FOUR) | (c & BITS_4_5)),
            _minus_32(((b >> np.uint32(4)) & LOW_FOUR) | ((c >> np.uint32(2)) & BITS_4_5)),
        )
    return a, b, c, read_int(source, at + 12)


@jit()
def _put_pairs(words, kind, block_bytes, head, target, place, row):
    """Write the scales of both parts of each block, side by side."""
    for block in range(lay.SUPERBLOCK):
        both = words[block // 2] >> np.uint32(16 * (block % 2))
        first, second = both & np.uint32(0xFF), (both >> np.uint32(8)) & np.uint32(0xFF)
        pair = second | (first << np.uint32(8))
        if kind == SCALES_Q2_K:
            # From s1 m1 s0 m0, four bits each, to s1 s0 m1 m0.
            to_low, to_high = (pair >> np.uint32(4)) & np.uint32(0x00F0), (pair << np.uint32(4)) & np.uint32(0x0F00)
            pair = (pair & np.uint32(0xF00F)) | to_low | to_high
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
            write_short(read_short(source, start + m) ^ np.uint16(MINUS), target, place + 2 * (TILE_ROWS + row))
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

"""Convert float32 vectors to what the tile kernels read: int8 quants with a scale per 32 values (layout.py).

The scale is the largest magnitude of the block / 127, as in rwkv.cpp, but kept as float32.
FP16 and FP32 matrices, and outliers, need the float32 values. These are stored in the same row.
Only the parts that a matrix reads are written.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.emit import BYTE_LANES, FLOATS, INTS, Emit

# Which parts of its input vectors a matrix reads.
WANTS_INT8, WANTS_FLOAT, WANTS_HALVES = 1, 2, 4
TINIEST = 1e-30


class Rows(NamedTuple):
    """Vectors in the scratch buffer, one per token, in the form that matrices read.

    start      where the first one begins; the next one is `row_bytes` further
    n_blocks   blocks of 32 numbers in a row
    wants      which parts of a row are written
    """

    start: int
    row_bytes: int
    n_blocks: int
    wants: int


def wants(layout: lay.Layout) -> int:
    """Which parts of a vector's row a matrix of this layout reads."""
    if layout.is_float:
        return WANTS_FLOAT
    return WANTS_INT8 | (WANTS_FLOAT if layout.has_outliers else 0) | (WANTS_HALVES if layout.n_parts == 2 else 0)


def quantize_reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition: (count, n_in) floats to int8 quants of that shape and (count, n_blocks) scales."""
    blocks = x.astype(np.float32).reshape(x.shape[0], -1, lay.BLOCK)
    scales = np.abs(blocks).max(axis=2) * np.float32(1 / 127)
    inverse = np.where(scales < TINIEST, np.float32(0), np.float32(1) / np.maximum(scales, np.float32(TINIEST)))
    quants = np.rint(blocks * inverse[:, :, None]).astype(np.int8)
    return quants.reshape(x.shape), scales


def emit_quantized(emit, halves, row, n_blocks, block, wanted):
    """Write quants, scale and sums of one block, given as two vectors of 16 floats."""
    magnitudes = [half.as_kind(INTS) & 0x7FFFFFFF for half in halves]
    # Non-negative floats sort like integers. An integer maximum avoids the NaN rules of a float maximum.
    largest = emit.largest((magnitudes[0] >= magnitudes[1]).choose(*magnitudes)).as_kind(FLOATS.element)
    scale = largest * (1 / 127)
    inverse = emit.splat((scale < TINIEST).choose(0.0, emit.constant(FLOATS.element, 1.0) / scale))
    nearest = []
    for i, half in enumerate(halves):
        # Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, on every target.
        nearest.append((half * inverse + 12582912.0).as_kind(INTS) - 0x4B400000)
        emit.store(nearest[i].converted("trunc", BYTE_LANES), row, block * lay.BLOCK + 16 * i)
    total = emit.sum(nearest[0] + nearest[1])
    emit.store(scale, row, n_blocks * lay.SCALES + block * 4)
    emit.store(total.converted("sitofp", FLOATS.element) * scale, row, n_blocks * lay.SUMS + block * 4)
    emit.store(total * -8, row, n_blocks * lay.ZEROS + block * 4)
    with emit.when((wanted & WANTS_HALVES) >= 1):
        first, second = (emit.sum(half) for half in nearest)
        emit.store((first << 16) + second, row, n_blocks * lay.HALVES + block * 4)


def emit_block(emit, halves, row, n_blocks, block, wanted):
    """Write the parts of one block that `wanted` names, given as two vectors of 16 floats."""
    with emit.when((wanted & WANTS_INT8) >= 1):
        emit_quantized(emit, halves, row, n_blocks, block, wanted)
    with emit.when((wanted & WANTS_FLOAT) >= 1):
        for i, half in enumerate(halves):
            emit.store(half, row, n_blocks * lay.VALUES + block * (4 * lay.BLOCK) + 64 * i)


@intrinsic
def put_vector(typingctx, x, n_blocks, wanted, row):
    """Write n_blocks * 32 float32 at `x` into the vector row at `row`."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        n_blocks, wanted = emit.value(args[1]), emit.value(args[2])
        with emit.loop(n_blocks) as block:
            halves = [emit.load(args[0], block * (4 * lay.BLOCK) + 64 * i, FLOATS) for i in range(2)]
            emit_block(emit, halves, args[3], n_blocks, block, wanted)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, row), codegen

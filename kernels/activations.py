"""Convert float32 vectors to what the tile kernels read: int8 quants with a scale per 32 values (layout.py).

The scale is the largest magnitude of the block / 127, as in rwkv.cpp, but kept as float32.
FP16 and FP32 matrices, and outliers, need the float32 values. These are stored in another place.
Only the parts that a matrix reads are written.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.emit import BYTE_LANES, FLOATS, I1, I64, INTS, Emit
from rwkv_np.kernels.pointers import number

# Which parts of its input vectors a matrix reads.
WANTS_INT8, WANTS_FLOAT, WANTS_HALVES = 1, 2, 4
TINIEST = 1e-30


class Rows(NamedTuple):
    """Vectors in the scratch buffer, one per token, in the form that matrices read.

    start     where the first group begins
    values    where the float32 values of the first vector begin; those of the next are `stride` bytes further
    n_blocks  blocks of 32 numbers in a vector
    wants     which parts are written
    together  vectors of a full group: as many as the kernels of this path multiply at once
    """

    start: int
    values: int
    stride: int
    n_blocks: int
    wants: int
    together: int


# The indices of these numbers where an op reads them.
START, VALUES, STRIDE, N_BLOCKS, WANTS, TOGETHER = range(len(Rows._fields))
ROWS_SIZE = len(Rows._fields)


def wants(layout: lay.Layout) -> int:
    """Which parts of a vector a matrix of this layout reads."""
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


def parts_reference(memory: np.ndarray, rows: Rows, n_vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """The definition of the groups: the parts that vectors have in `memory`, a flat uint8 buffer.

    Returns  quants (n_vectors, n_in) int8; numbers (lay.N_NUMBERS, n_vectors, n_blocks) int32, the first two are floats
    """
    quants, numbers = [], []
    for vector in range(n_vectors):
        first, count = lay.group_of(vector, n_vectors, rows.together)
        start = rows.start + first * lay.vector_bytes(rows.n_blocks)
        blocks = memory[start : start + count * lay.vector_bytes(rows.n_blocks)].reshape(rows.n_blocks, -1)
        at = lay.quants_at(vector - first)
        quants.append(blocks[:, at : at + lay.BLOCK].reshape(-1))
        places = [lay.number_at(which, vector - first, count) for which in range(lay.N_NUMBERS)]
        numbers.append([np.ascontiguousarray(blocks[:, at : at + 4]).view(np.int32)[:, 0] for at in places])
    return np.array(quants).view(np.int8), np.array(numbers).swapaxes(0, 1)


class Target:
    """Where one vector of `n_vectors` is written; `rows` points to the numbers of its Rows."""

    def __init__(self, emit, rows, memory, vector, n_vectors):
        self.emit, self.memory = emit, memory
        start, values, stride, n_blocks, self.wanted, together = (
            emit.load(rows, 8 * i, I64) for i in range(ROWS_SIZE)
        )  # fmt: skip
        first, count = self._group(vector, n_vectors, together)
        lane, few = vector - first, _smaller(count, emit.constant(I64, lay.NUMBERS_TOGETHER))
        group = start + first * n_blocks * lay.VECTOR_BLOCK
        self._block_bytes, self._apart = count * lay.VECTOR_BLOCK, few * 4
        self._quants = group + lane * lay.BLOCK
        within = lane & (few - 1)
        self._numbers = group + count * lay.BLOCK + (lane - within) * (4 * lay.N_NUMBERS) + within * 4
        self._values = values + stride * vector

    def _group(self, vector, n_vectors, together):
        """As layout.group_of."""
        emit = self.emit
        zeros = emit.call("llvm.ctlz.i64", I64, vector ^ n_vectors, emit.constant(I1, 1))
        count = _smaller(together, emit.constant(I64, 1) << (emit.constant(I64, 63) - zeros))
        return vector & (emit.constant(I64, 0) - count), count

    def put_quants(self, quants, block, at):
        """Write 16 quants, from the number `at` of a block on."""
        self.emit.store(quants, self.memory, self._quants + block * self._block_bytes + at)

    def put_number(self, which, number, block):
        """Write one of the four numbers of a block."""
        self.emit.store(number, self.memory, self._numbers + block * self._block_bytes + self._apart * which)

    def put_values(self, values, block, at):
        """Write 16 floats, from the number `at` of a block on."""
        self.emit.store(values, self.memory, self._values + block * (4 * lay.BLOCK) + 4 * at)


def _smaller(a, b):
    return (a < b).choose(a, b)


def emit_quantized(emit, halves, target, block):
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
        target.put_quants(nearest[i].converted("trunc", BYTE_LANES), block, 16 * i)
    total = emit.sum(nearest[0] + nearest[1])
    target.put_number(lay.SCALES, scale, block)
    target.put_number(lay.SUMS, total.converted("sitofp", FLOATS.element) * scale, block)
    target.put_number(lay.ZEROS, total * -8, block)
    with emit.when((target.wanted & WANTS_HALVES) >= 1):
        first, second = (emit.sum(half) for half in nearest)
        target.put_number(lay.HALVES, (first << 16) + second, block)


def emit_block(emit, halves, target, block):
    """Write the parts of one block that the Target wants, given as two vectors of 16 floats."""
    with emit.when((target.wanted & WANTS_INT8) >= 1):
        emit_quantized(emit, halves, target, block)
    with emit.when((target.wanted & WANTS_FLOAT) >= 1):
        for i, half in enumerate(halves):
            target.put_values(half, block, 16 * i)


@intrinsic
def put_blocks(typingctx, x, first, n_blocks, rows, memory, vector, n_vectors):
    """Write n_blocks * 32 float32 at `x` into a vector, from its block `first` on."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        first, n_blocks = emit.value(args[1]), emit.value(args[2])
        target = Target(emit, args[3], args[4], emit.value(args[5]), emit.value(args[6]))
        with emit.loop(n_blocks) as block:
            halves = [emit.load(args[0], block * (4 * lay.BLOCK) + 64 * i, FLOATS) for i in range(2)]
            emit_block(emit, halves, target, first + block)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(x, intp, intp, rows, memory, intp, intp), codegen


@jit()
def put_vector(x, rows, memory, vector, n_vectors):
    """Write all float32 numbers of a vector, at `x`, into its place."""
    put_blocks(x, 0, number(rows, N_BLOCKS), rows, memory, vector, n_vectors)

"""The product of a matrix that is stored by columns with all vectors of a pass, and what is done with it.

The vectors are mostly zero and never negative: the squared ReLU of a feed-forward layer. One vector is multiplied
with its active columns only, if that reads less (SPARSE_BELOW); the choice is made for each vector and layer, and does
not change a bit. Several vectors have other active columns each, and all columns are read once for all of them.

Every item counts the active columns itself: that takes a hundredth of the time of its product, and less than
another phase would. The first item of a job adds the counts to a record (COUNTS_SIZE numbers), for measurements.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import batch as b
from rwkv_np.kernels import products as p
from rwkv_np.kernels.activations import N_BLOCKS, START
from rwkv_np.kernels.amx_columns import AmxColumnTile
from rwkv_np.kernels.amx_tile import LEAST
from rwkv_np.kernels.cache import compile_c, jit
from rwkv_np.kernels.column_tile import ColumnTile
from rwkv_np.kernels.columns import ROWS
from rwkv_np.kernels.emit import FLOATS, Emit
from rwkv_np.kernels.formats import FORMATS
from rwkv_np.kernels.layout import BLOCK, TILE_ROWS
from rwkv_np.kernels.matmul import multiply_tile
from rwkv_np.kernels.mixing import Floats
from rwkv_np.kernels.pointers import KERNEL_ARGS, beyond, call_kernel, number, write_long
from rwkv_np.kernels.program import Job, compile_op
from rwkv_np.kernels.sparse_tile import SparseTile, emit_count
from rwkv_np.kernels.tiles import COUNTS, allow_features, most_together, vector_path

LANES = 4 * ROWS  # bytes of the products of a tile with one vector
# Above this share of active columns, reading all of them is faster: a token of a 1.5B model in Q4_1 takes .86 of the
# time of all columns with 11 % active, and 1.08 with 44 % (vnni; avx2: .85 and 1.06; neon was not measured).
SPARSE_BELOW = {"amx": 0.3, "vnni": 0.3, "avx2": 0.3, "neon": 0.3, "generic": 0.3}
# The record of a matrix: how many vectors were multiplied alone; their active columns; the blocks of those; the
# columns and blocks that were read.
COUNTS_SIZE = 5


# --- kernels ----------------------------------------------------------------------------------------


def emit_column_product(builder, layout, path, count, tile, x, values, stride, n_blocks, out, out_stride):
    """Emit the product of a tile with `count` vectors, or with the active columns of one if count is 0."""
    allow_features(builder.function, path)
    emit = Emit(builder)
    stride, n_blocks, out_stride = (emit.value(number) for number in (stride, n_blocks, out_stride))
    args = tile, x, values, stride, n_blocks
    if not count:
        found = SparseTile(emit, layout, vector_path(path), args)
    else:
        kind = AmxColumnTile if count >= LEAST else ColumnTile
        found = kind(emit, layout, vector_path(path), count, args)
    found.emit_product(out, out_stride)


@intrinsic(prefer_literal=True)
def _column_product(typingctx, format, path, count, tile, x, values, stride, n_blocks, out, out_stride):
    def codegen(context, builder, signature, args):
        layout = FORMATS[format.literal_value].layout
        emit_column_product(builder, layout, path.literal_value, count.literal_value, *args[3:])
        return context.get_dummy_value()

    return types.void(format, path, count, *KERNEL_ARGS), codegen


@functools.cache
def _compiled_kernel(format, path, count):
    @compile_c(types.void(*KERNEL_ARGS), nopython=True)
    def column_kernel(tile, x, values, stride, n_blocks, out, out_stride):
        _column_product(format, path, count, tile, x, values, stride, n_blocks, out, out_stride)

    return column_kernel


def column_kernel_addresses(format: str, path: str) -> np.ndarray:
    """Compile a format's kernels, or load them: an address for each of COUNTS, or 0, and that of active columns."""
    built = [count for count in COUNTS if count <= most_together(path)]
    addresses = [_compiled_kernel(format, path, count).address for count in built]
    sparse = _compiled_kernel(format, path, 0).address
    return np.array([*addresses, *[0] * (len(COUNTS) - len(built)), sparse], np.int64)


# --- op ---------------------------------------------------------------------------------------------


@intrinsic
def count_active(typingctx, x, n_blocks):
    """(active columns, blocks with active columns) of the vector at `x`, a group of its own."""

    def codegen(context, builder, signature, args):
        found = emit_count(builder, *args)
        return context.make_tuple(builder, signature.return_type, [value.llvm for value in found])

    return types.UniTuple(types.int64, 2)(x, types.intp), codegen


@intrinsic(prefer_literal=True)
def _end_columns(typingctx, ending, lanes, n_tokens, tile, args, scratch):
    """Apply the `ending`, a literal, to the products (n_tokens, ROWS) of a tile."""

    def codegen(context, builder, signature, llvm):
        emit, end = Emit(builder), p.TO_FLOATS[ending.literal_value]
        tile = emit.value(llvm[3]) * (ROWS // TILE_ROWS)
        with emit.loop(emit.value(llvm[2])) as token:
            for part in range(ROWS // TILE_ROWS):
                for half in p.HALVES:
                    x = emit.load(llvm[1], token * LANES + (4 * TILE_ROWS * part + half), FLOATS)
                    end(emit, x, p.Place(emit, llvm[4], llvm[5], tile + part, token, half))
        return context.get_dummy_value()

    return types.void(ending, lanes, types.intp, types.intp, args, scratch), codegen


# The numbers of a job after those of its ending, which are up to four.
SPARSE, LIMIT, RECORD = range(p.ENDING + 4, p.ENDING + 7)


@jit()
def _record(counts, n_columns, n_active, all_blocks, is_sparse):
    """Add to a matrix's record."""
    added = (
        1, n_columns, n_active, n_columns if is_sparse else all_blocks * BLOCK, n_active if is_sparse else all_blocks
    )  # fmt: skip
    for i in range(COUNTS_SIZE):
        write_long(number(counts, i) + added[i], counts, 8 * i)


@jit()
def _is_sparse(args, x, n_blocks, item, scratch):
    """Whether the active columns of a single vector are few."""
    n_columns, n_active = count_active(x, n_blocks)
    is_sparse = n_columns < number(args, LIMIT)
    if item == 0:
        _record(beyond(scratch, number(args, RECORD)), n_columns, n_active, n_blocks, is_sparse)
    return is_sparse


@functools.cache
def _compiled(ending):
    def column_product(args, weights, scratch, states, logits, batch, item, rank):
        n_tokens, n_blocks = number(batch, b.N_TOKENS), number(args, p.ROWS + N_BLOCKS)
        x = beyond(scratch, number(args, p.ROWS + START))
        lanes = beyond(scratch, number(args, p.LANES_START) + rank * number(args, p.LANES_STRIDE))
        tile = beyond(weights, number(args, p.START) + item * number(args, p.STRIDE))
        if n_tokens == 1 and _is_sparse(args, x, n_blocks, item, scratch):
            call_kernel(number(args, SPARSE), tile, x, x, 0, n_blocks, lanes, ROWS)
        else:
            rows = beyond(args, 8 * p.ROWS)
            multiply_tile(beyond(args, 8 * p.KERNELS), tile, rows, scratch, n_tokens, lanes, ROWS)
        _end_columns(ending, lanes, n_tokens, item, args, scratch)

    return compile_op(column_product)


class ColumnMatrix(NamedTuple):
    """A matrix that is stored by columns.

    matrix   its tiles of ROWS rows, and the kernels for all columns
    sparse   the address of the kernel for active columns
    path     that of the kernels
    record   where its COUNTS_SIZE counts (int64) are in the scratch buffer
    """

    matrix: p.Matrix
    sparse: int
    path: str
    record: int


def _job(ending, found, vectors, numbers):
    matrix = found.matrix
    limit = int(SPARSE_BELOW[found.path] * vectors.rows.n_blocks * BLOCK)
    numbers = (*numbers, *(4 - len(numbers)) * (0,), found.sparse, limit, found.record)
    return Job(_compiled(ending).address, (*matrix.numbers, *vectors.numbers, *numbers), items=matrix.n_tiles)


def add_job(matrix: ColumnMatrix, vectors: p.Vectors, out: Floats) -> Job:
    """out += matrix @ vectors, which are never negative"""
    return _job("add", matrix, vectors, out)


def add_gated_job(matrix: ColumnMatrix, vectors: p.Vectors, out: Floats, gate: Floats) -> Job:
    """out += gate * (matrix @ vectors), which are never negative"""
    return _job("add_gated", matrix, vectors, (*out, *gate))

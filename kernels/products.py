"""Multiply a tile of a matrix with all vectors of a pass, and process the result at once.

When a product is done, its 32 channels of all tokens are still in the cache. So the next step is
done there: add to the residual, gate, square, or write the input vector of the next matrix.
Only this ending differs; the product is `matmul.multiply_tile`.

References: `matmul.matmul_reference`, `equations.sigmoid`, `equations.squared_relu`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import batch as b
from rwkv_np.kernels.activations import ROWS_SIZE, Rows, Target, emit_block
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.emit import FLOATS, I64, LANES, Emit
from rwkv_np.kernels.exponential import sigmoid, tanh
from rwkv_np.kernels.layout import TILE_ROWS
from rwkv_np.kernels.matmul import multiply_tile
from rwkv_np.kernels.mixing import Floats
from rwkv_np.kernels.pointers import beyond, number
from rwkv_np.kernels.program import Job, compile_op
from rwkv_np.kernels.tiles import COUNTS

HALVES = (0, 4 * LANES)
# Tiles that a thread takes at once. At the end of a product the processor requests little of the next tile:
# where memory gives 36 GB/s, ffn.key of 2048 x 8192 takes 304 us with two endings together and 312 with one.
PAIR = 2
FEW = 8  # up to this many tokens, a thread has room for the products of a pair
HEAD_TILES = 4  # there are hundreds, and they have no ending


class Matrix(NamedTuple):
    """A packed matrix among the weights.

    start    where the first tile begins; `stride` bytes from one to the next
    kernels  the addresses of the kernels of its format, one for each of tiles.COUNTS
    """

    start: int
    stride: int
    n_tiles: int
    n_blocks: int
    kernels: tuple[int, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers in the order that `multiply` reads."""
        return self.start, self.stride, self.n_tiles, *self.kernels


START, STRIDE, N_TILES, KERNELS = range(4)
MATRIX_SIZE = KERNELS + len(COUNTS)


class Vectors(NamedTuple):
    """The input of a product, and space for its results: 32 floats per token, for each thread."""

    rows: Rows
    lanes: Floats

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers in the order that `product` reads."""
        return *self.rows, *self.lanes


ROWS = MATRIX_SIZE
LANES_START, LANES_STRIDE, ENDING = range(ROWS + ROWS_SIZE, ROWS + ROWS_SIZE + 3)  # ENDING: its numbers begin there


@jit()
def multiply(matrix, weights, tile, rows, scratch, n_vectors, out, out_stride):
    """out[v, :32] = a tile of the matrix times the vectors, v < n_vectors.

    `matrix` and `rows` point to the values of Matrix.numbers and of a Rows, which are places in the arrays.
    """
    start = beyond(weights, number(matrix, START) + tile * number(matrix, STRIDE))
    multiply_tile(beyond(matrix, 8 * KERNELS), start, rows, scratch, n_vectors, out, out_stride)


# --- endings: each takes 16 products and the position of their channels -------------------------------


class Place:
    """Where an ending reads and writes: a token's 16 channels in arrays of the scratch buffer."""

    def __init__(self, emit, args, scratch, tile, token, half):
        self.emit, self.args, self.scratch = emit, args, scratch
        self.token, self.at = token, tile * (4 * TILE_ROWS) + half

    def _offset(self, which):
        """Offset in the `which`-th array of floats among the ending's numbers."""
        start, stride = (self.emit.load(self.args, 8 * (ENDING + 2 * which + i), I64) for i in range(2))
        return start + stride * self.token + self.at

    def load(self, which):
        """Load the 16 channels from an array."""
        return self.emit.load(self.scratch, self._offset(which), FLOATS)

    def store(self, value, which=0):
        """Store 16 channels to an array."""
        self.emit.store(value, self.scratch, self._offset(which))


def _add(emit, x, place):
    place.store(place.load(0) + x)


def _add_gated(emit, x, place):
    place.store(emit.fma(place.load(1), x, place.load(0)))


def _sigmoid(emit, x, place):
    place.store(sigmoid(emit, x))


def _tanh(emit, x, place):
    place.store(tanh(emit, x))


def _squared_relu(emit, x):
    x = (x < 0.0).choose(0.0, x)
    return x * x


def _put(emit, x, place):
    place.store(x)


TO_FLOATS = {"add": _add, "add_gated": _add_gated, "sigmoid": _sigmoid, "tanh": _tanh, "put": _put}
TO_ROWS = {
    "squared_relu": _squared_relu, "rows": lambda emit, x: x, "tanh_rows": tanh, "sigmoid_rows": sigmoid
}  # fmt: skip


def _emit_to_floats(emit, ending, lanes, args, scratch, tile, token, n_tokens):
    for half in HALVES:
        x = emit.load(lanes, token * (4 * TILE_ROWS) + half, FLOATS)
        TO_FLOATS[ending](emit, x, Place(emit, args, scratch, tile, token, half))


def _emit_to_rows(emit, ending, lanes, args, scratch, tile, token, n_tokens):
    halves = [emit.load(lanes, token * (4 * TILE_ROWS) + half, FLOATS) for half in HALVES]
    rows = emit.builder.gep(args, [I64(8 * ENDING)])
    target = Target(emit, rows, scratch, token, n_tokens)
    emit_block(emit, [TO_ROWS[ending](emit, x) for x in halves], target, tile)


@intrinsic(prefer_literal=True)
def end_product(typingctx, ending, lanes, n_tokens, tile, args, scratch):
    """Apply the `ending`, a literal, to the products (n_tokens, 32) of a tile."""

    def codegen(context, builder, signature, llvm):
        emit, name = Emit(builder), ending.literal_value
        write = _emit_to_floats if name in TO_FLOATS else _emit_to_rows
        n_tokens, tile = emit.value(llvm[2]), emit.value(llvm[3])
        with emit.loop(n_tokens) as token:
            write(emit, name, llvm[1], llvm[4], llvm[5], tile, token, n_tokens)
        return context.get_dummy_value()

    return types.void(ending, lanes, types.intp, types.intp, args, scratch), codegen


# --- ops -------------------------------------------------------------------------------------------


@jit()
def _multiply(args, weights, scratch, tile, n_vectors, out, out_stride):
    multiply(args, weights, tile, beyond(args, 8 * ROWS), scratch, n_vectors, out, out_stride)


@functools.cache
def _compiled(ending):
    def product(args, weights, scratch, states, logits, batch, item, rank):
        n_tokens = number(batch, b.N_TOKENS)
        lanes = beyond(scratch, number(args, LANES_START) + rank * number(args, LANES_STRIDE))
        size = n_tokens * (4 * TILE_ROWS)
        together = PAIR if n_tokens <= FEW else 1
        behind = min((item + 1) * PAIR, number(args, N_TILES))
        for first in range(item * PAIR, behind, together):
            tiles = min(together, behind - first)
            for i in range(tiles):
                _multiply(args, weights, scratch, first + i, n_tokens, beyond(lanes, i * size), TILE_ROWS)
            for i in range(tiles):
                end_product(ending, beyond(lanes, i * size), n_tokens, first + i, args, scratch)

    return compile_op(product)


def _job(ending, matrix, vectors, numbers):
    args = (*matrix.numbers, *vectors.numbers, *numbers)
    return Job(_compiled(ending).address, args, items=-(-matrix.n_tiles // PAIR))


def add_job(matrix: Matrix, vectors: Vectors, out: Floats) -> Job:
    """out += matrix @ vectors"""
    return _job("add", matrix, vectors, out)


def add_gated_job(matrix: Matrix, vectors: Vectors, out: Floats, gate: Floats) -> Job:
    """out += gate * (matrix @ vectors)"""
    return _job("add_gated", matrix, vectors, (*out, *gate))


def sigmoid_job(matrix: Matrix, vectors: Vectors, out: Floats) -> Job:
    """out = sigmoid(matrix @ vectors)"""
    return _job("sigmoid", matrix, vectors, out)


def squared_relu_job(matrix: Matrix, vectors: Vectors, rows: Rows) -> Job:
    """rows = max(matrix @ vectors, 0)^2, as input of the next matrix"""
    return _job("squared_relu", matrix, vectors, rows)


def tanh_job(matrix: Matrix, vectors: Vectors, out: Floats) -> Job:
    """out = tanh(matrix @ vectors)"""
    return _job("tanh", matrix, vectors, out)


def put_job(matrix: Matrix, vectors: Vectors, out: Floats) -> Job:
    """out = matrix @ vectors"""
    return _job("put", matrix, vectors, out)


def rows_job(matrix: Matrix, vectors: Vectors, rows: Rows, ending: str = "") -> Job:
    """rows = matrix @ vectors, or "tanh" or "sigmoid" of it, as input of the next matrix"""
    return _job(f"{ending}_rows" if ending else "rows", matrix, vectors, rows)


LOGITS_STRIDE = ENDING


def _logits(args, weights, scratch, states, logits, batch, item, rank):
    n_wanted, stride = number(batch, b.N_WANTED), number(args, LOGITS_STRIDE)
    for tile in range(item * HEAD_TILES, min(number(args, N_TILES), (item + 1) * HEAD_TILES)):
        _multiply(args, weights, scratch, tile, n_wanted, beyond(logits, tile * TILE_ROWS * 4), stride)


@functools.cache
def _compiled_logits():
    return compile_op(_logits)


def logits_job(matrix: Matrix, rows: Rows) -> Job:
    """logits = matrix @ rows, for the requested rows; logits (n_wanted, 32 * n_tiles) float32"""
    n_items = -(-matrix.n_tiles // HEAD_TILES)
    args = (*matrix.numbers, *Vectors(rows, Floats(0, 0)).numbers, matrix.n_tiles * TILE_ROWS)
    return Job(_compiled_logits().address, args, "wanted", items=n_items)

"""A packed matrix times vectors: decoding with one, a prompt with many.

A model multiplies inside its own parallel region (program.py, products.py). Here products run alone,
for tests, for benchmarks, and for a program with a single matrix.

Up to eight vectors are multiplied with a tile at once: the tile is read from memory for the first
eight, and from a cache for all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import numpy as np
from numba import prange
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import (
    N_BLOCKS,
    START,
    STRIDE,
    VALUES,
    WANTS_INT8,
    Rows,
    parts_reference,
    put_vector,
    quantize_reference,
    wants,
)
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.dispatch import choose
from rwkv_np.kernels.formats import FORMATS
from rwkv_np.kernels.pack import pack, place_alone, unpack_reference
from rwkv_np.kernels.pointers import address, beyond, call_kernel, number
from rwkv_np.kernels.region import one_at_a_time, region
from rwkv_np.kernels.tiles import COUNTS, kernel_addresses


@jit()
def multiply_tile(kernels, tile, rows, memory, n_vectors, out, out_stride):
    """out[v, :32] = tile @ vector v, for every v. Takes pointers; `out_stride` is in floats.

    kernels  the addresses of the format's kernels, one for each of COUNTS
    rows     the numbers of activations.Rows, which are places in `memory`
    """
    n_blocks, stride = number(rows, N_BLOCKS), number(rows, STRIDE)
    vector = 0
    for i in range(len(COUNTS) - 1, -1, -1):
        kernel = number(kernels, i)
        while kernel != 0 and n_vectors - vector >= COUNTS[i]:
            x = beyond(memory, number(rows, START) + vector * n_blocks * lay.VECTOR_BLOCK)
            values = beyond(memory, number(rows, VALUES) + vector * stride)
            call_kernel(kernel, tile, x, values, stride, n_blocks, beyond(out, vector * out_stride * 4), out_stride)
            vector += COUNTS[i]


@region()
def _put_vectors(x, rows, memory):
    for v in prange(x.shape[0]):
        put_vector(address(x, v * x.shape[1] * 4), address(rows, 0), address(memory, 0), v, x.shape[0])


@region()
def _multiply(kernels, tiles, rows, memory, out):
    for t in prange(tiles.shape[0]):
        tile, result = address(tiles, t * tiles.shape[1]), address(out, t * lay.TILE_ROWS * 4)
        n_vectors, out_stride = out.shape
        multiply_tile(
            address(kernels, 0), tile, address(rows, 0), address(memory, 0), n_vectors, result, out_stride
        )  # fmt: skip


class PackedVectors(NamedTuple):
    """Vectors in the form that a matrix reads: their places in `memory`, a flat uint8 buffer."""

    rows: Rows
    memory: np.ndarray
    count: int

    @classmethod
    def of(cls, x: np.ndarray, wants: int, together: int) -> PackedVectors:
        """Convert float32 vectors (count, n_in), n_in a multiple of 32."""
        count, n_in = x.shape
        n_blocks = n_in // lay.BLOCK
        values = lay.round_up(count * lay.vector_bytes(n_blocks), 64)
        rows = Rows(0, values, 4 * n_in, n_blocks, wants, together)
        memory = np.zeros(values + count * rows.stride, np.uint8)
        with one_at_a_time:
            _put_vectors.enter(np.ascontiguousarray(x, np.float32), np.array(rows), memory)
        return cls(rows, memory, count)


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix in tiles, and the kernels of one path to multiply it with."""

    layout: lay.Layout
    n_rows: int
    n_in: int
    tiles: np.ndarray
    kernels: np.ndarray

    @classmethod
    def from_file(cls, raw: np.ndarray, format: str, n_in: int, path: str | None = None) -> PackedMatrix:
        """Pack the uint8 rows of a file (pack.pack) for `path`, by default the fastest of this processor."""
        row = FORMATS[format]
        place = place_alone(row.layout, raw.shape[0], n_in)
        tiles = np.empty((place.n_tiles, place.tile_bytes), np.uint8)
        pack(raw, row, n_in, tiles.reshape(-1), place)
        return cls(row.layout, raw.shape[0], n_in, tiles, kernel_addresses(format, path or choose().path))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a packed matrix contains addresses in this process; pack it in the process that uses it")

    @property
    def n_blocks(self) -> int:
        """Blocks of 32 columns in a row."""
        return lay.n_blocks_of(self.n_in)

    @property
    def together(self) -> int:
        """How many vectors its largest kernel multiplies at once."""
        return max(count for count, kernel in zip(COUNTS, self.kernels) if kernel)


def vectors_for(matrix: PackedMatrix, x: np.ndarray) -> PackedVectors:
    """What `matrix` reads for float32 vectors (count, n_in)."""
    padded = np.zeros((len(x), matrix.n_blocks * lay.BLOCK), np.float32)
    padded[:, : matrix.n_in] = x
    return PackedVectors.of(padded, wants(matrix.layout), matrix.together)


def quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert float32 rows (count, n_in) to int8 quants of that shape and float32 scales (count, n_in / 32)."""
    vectors = PackedVectors.of(x, WANTS_INT8, max(COUNTS))
    quants, numbers = parts_reference(vectors.memory, vectors.rows, len(x))
    return quants, numbers[lay.SCALES].view(np.float32)


def multiply(matrix: PackedMatrix, vectors: PackedVectors, out: np.ndarray) -> None:
    """Only the product: from `vectors_for` to out (count, rows in whole tiles) float32."""
    with one_at_a_time:
        _multiply.enter(matrix.kernels, matrix.tiles, np.array(vectors.rows), vectors.memory, out)


def matmul(matrix: PackedMatrix, x: np.ndarray) -> np.ndarray:
    """x (count, n_in) float32 times the matrix: (count, n_rows) float32.

    Raises   ValueError: x has another shape
    """
    if x.ndim != 2 or x.shape[1] != matrix.n_in:
        raise ValueError(f"the vectors have the shape {x.shape}; the matrix needs (count, {matrix.n_in})")
    out = np.empty((len(x), matrix.tiles.shape[0] * lay.TILE_ROWS), np.float32)
    multiply(matrix, vectors_for(matrix, x), out)
    return out[:, : matrix.n_rows]


def matmul_reference(raw: np.ndarray, format: str, n_in: int, x: np.ndarray) -> np.ndarray:
    """The definition, in float64: the file's weights times the vectors, rounded as the format rounds them."""
    row = FORMATS[format]
    weights = unpack_reference(raw, row, n_in)
    if row.layout.is_float:
        return x.astype(np.float64) @ weights.T
    quants, scales = quantize_reference(x)
    rounded = quants * np.repeat(scales.astype(np.float64), lay.BLOCK, axis=1)
    if not row.layout.has_outliers:
        return rounded @ weights.T
    plain = unpack_reference(raw, row, n_in, outliers=False)
    return rounded @ plain.T + x.astype(np.float64) @ (weights - plain).T

"""The memory layout of a model: packed weights, and the scratch buffer of a pass.

This is the only module that knows both the names of parameters and offsets in arrays. Weights are placed
in the order in which a program (build.py) asks for them, which is the order in which a pass reads
them. An intermediate result gets space for the maximum number of tokens of a pass. Nothing is packed
here: `engine.py` does that once all places are known.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rwkv_np.files.opened import InMemory
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import DATA_TYPES
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import WANTS_FLOAT, WANTS_INT8, Rows, wants
from rwkv_np.kernels.batch import MOST, MOST_KEPT, WorkAreas
from rwkv_np.kernels.column_products import COUNTS_SIZE, ColumnMatrix, column_kernel_addresses
from rwkv_np.kernels.column_products import LANES as COLUMN_LANES
from rwkv_np.kernels.columns import Columns, fits, place_columns
from rwkv_np.kernels.mixing import Floats, Norm
from rwkv_np.kernels.pack import Place, place_alone
from rwkv_np.kernels.products import Matrix
from rwkv_np.kernels.tiles import kernel_addresses, most_together

_FP32 = DATA_TYPES[0]
LINE = 64  # bytes of a cache line; everything is aligned to it
LANES = 3 * MOST * 4 * lay.TILE_ROWS  # bytes of the products of three tiles
KEPT_LANES = LANES // MOST * MOST_KEPT


class Record(NamedTuple):
    """Where the counts of active columns of a matrix are in the scratch buffer (column_products.py)."""

    start: int
    n_tiles: int
    n_blocks: int
    columns: Columns


class Places:
    """Places for the weights and the scratch buffer of one model.

    matrices   (parameter, its place) for each matrix in the order of the weights; the head is the last
    records    of each matrix that is stored by columns
    vectors    (parameter, start of its float32 values, end of its place, numbers of a row) for each vector
    n_weights  bytes of all weights; n_scratch  bytes of the scratch buffer
    x          the residual stream, (tokens, n_embd); at the start of the scratch buffer
    normed     two rows of n_embd floats for each thread
    lanes      the products of up to three tiles for each thread
    last       a row of n_embd floats for each sequence
    """

    def __init__(self, parameters: Mapping[str, Parameter], path: str, n_embd: int, n_threads: int) -> None:
        self._parameters, self._path, self._n_embd, self._n_threads = parameters, path, n_embd, n_threads
        self.matrices: list[tuple[Parameter, Place]] = []
        self.records: list[Record] = []
        self.vectors: list[tuple[Parameter, int, int, int]] = []
        self.n_weights = self.n_scratch = 0
        self.x, self.last = self.floats(n_embd), self.floats(n_embd)
        self.normed = self.per_thread(2 * self.x.stride)
        self.lanes = self.per_thread(LANES)

    # --- scratch

    def floats(self, n: int) -> Floats:
        """A buffer of n float32 numbers for each token or sequence."""
        # One line more than the numbers take: otherwise, with 1024 or 2048 channels, the same channels of
        # all tokens would compete for the same few sets of the cache.
        stride = lay.round_up(4 * lay.round_up(n, lay.BLOCK), LINE) + LINE
        return Floats(self._take(MOST * stride), stride)

    def rows(self, *matrices: str) -> Rows:
        """The input vectors of the matrices with those names, shared by all layers."""
        found = [p for name, p in self._parameters.items() if _without_layer(name) in matrices]
        n_blocks, parts = lay.n_blocks_of(found[0].shape[1]), 0
        for parameter in found:
            parts |= wants(parameter.data_type.format.layout)
        start = self._take(MOST * lay.vector_bytes(n_blocks) if parts & WANTS_INT8 else 0)
        values = self.floats(lay.BLOCK * n_blocks) if parts & WANTS_FLOAT else Floats(0, 0)
        return Rows(start, *values, n_blocks, parts, most_together(self._path))

    def per_thread(self, n_bytes: int) -> Floats:
        """A buffer of that many bytes, rounded up to whole cache lines, for each thread."""
        n_bytes = lay.round_up(n_bytes, LINE)
        return Floats(self._take(self._n_threads * n_bytes), n_bytes)

    def kept_rows(self, n: int) -> Floats:
        """A row of n float32 numbers for each token of a pass that may be cut. Only such a pass touches it."""
        stride = 4 * lay.round_up(n, lay.BLOCK)
        return Floats(self._take(MOST_KEPT * stride), stride)

    def kept_areas(self, per_thread: Floats, n_items: int, n_bytes: int) -> WorkAreas:
        """The work areas of the threads, and for passes that may be cut n_bytes for each item of one layer."""
        n_bytes = lay.round_up(n_bytes, LINE)
        return WorkAreas(*per_thread, self._take(n_items * n_bytes), n_bytes)

    def _take(self, n_bytes: int) -> int:
        start = self.n_scratch
        self.n_scratch += lay.round_up(n_bytes, LINE)
        return start

    # --- weights

    def matrices_together(self, *names: str) -> list[Matrix]:
        """Place matrices with the same number of rows so that their tiles are interleaved.

        A thread that reads one tile of each then reads memory in address order.
        """
        return self._place_together([self._matrix(name) for name in names])

    def by_columns(self, name: str) -> ColumnMatrix | None:
        """Place a matrix by columns (kernels/columns.py); None if it has another format, or too few tiles."""
        parameter = self._matrix(name)
        layout, (n_rows, n_in) = parameter.data_type.format.layout, parameter.shape
        place = place_columns(layout, n_rows, n_in, self.n_weights)
        if not fits(layout, n_rows, n_in) or place.n_tiles < self._n_threads:
            return None
        self.matrices.append((parameter, place))
        self.n_weights += place.n_tiles * place.stride
        record = Record(self._take(8 * COUNTS_SIZE), place.n_tiles, lay.n_blocks_of(n_in), Columns(layout))
        self.records.append(record)
        kernels = column_kernel_addresses(parameter.data_type.format.name, self._path).tolist()
        matrix = Matrix(place.start, place.stride, place.n_tiles, record.n_blocks, tuple(kernels[:-1]))
        return ColumnMatrix(matrix, kernels[-1], self._path, record.start)

    @functools.cached_property
    def column_lanes(self) -> Floats:
        """The products of a tile that is stored by columns, for each thread."""
        return self.per_thread(MOST * COLUMN_LANES)

    def slices_together(self, name: str) -> list[Matrix]:
        """The matrices in a parameter of three dimensions."""
        p = self._parameters[name]
        return self._place_together([p.part(i) for i in range(p.shape[0])])

    def _matrix(self, name: str) -> Parameter:
        """The matrix with that name; most names end in "weight", those of thin matrices do not."""
        return self._parameters.get(f"{name}.weight") or self._parameters[name]

    def _place_together(self, found: list[Parameter]) -> list[Matrix]:
        places = [place_alone(p.data_type.format.layout, *p.shape) for p in found]
        stride, start = sum(place.tile_bytes for place in places), self.n_weights
        placed = []
        for parameter, place in zip(found, places):
            self.matrices.append((parameter, Place(start, stride, place.n_tiles, place.tile_bytes)))
            kernels = kernel_addresses(parameter.data_type.format.name, self._path).tolist()
            placed.append(Matrix(start, stride, place.n_tiles, lay.n_blocks_of(parameter.shape[1]), tuple(kernels)))
            start += place.tile_bytes
        self.n_weights += stride * places[0].n_tiles
        return placed

    def vector(self, name: str, n_row: int = 0) -> int:
        """Where a vector's float32 values begin. Each row of `n_row` values, or the whole, is zero-padded to blocks."""
        return self._place_vector(self._parameters[name], n_row)

    def vector_of_channels(self, name: str, n: int) -> int:
        """The same with n values: a value per head is repeated for each of its channels."""
        parameter = self._parameters[name]
        values = parameter.array().reshape(-1).repeat(n // parameter.n_weights)
        return self._place_vector(Parameter(name, values.shape, _FP32, InMemory(values.view(np.uint8))), n)

    def _place_vector(self, parameter: Parameter, n_row: int) -> int:
        start = self.n_weights
        n_row = n_row or parameter.n_weights
        n_rows = parameter.n_weights // n_row
        self.n_weights += lay.round_up(n_rows * 4 * lay.round_up(n_row, lay.BLOCK), LINE)
        self.vectors.append((parameter, start, self.n_weights, n_row))
        return start

    def norm(self, name: str) -> Norm:
        """A layer norm over n_embd channels."""
        weight, bias = (self.vector(f"{name}.{part}") for part in ("weight", "bias"))
        return Norm(weight, bias, self._n_embd, lay.round_up(self._n_embd, lay.BLOCK))


def _without_layer(name: str) -> str:
    """ "blocks.3.att.key.weight" -> "att.key" """
    return re.sub(r"^blocks\.\d+\.", "", name).removesuffix(".weight")

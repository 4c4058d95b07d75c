"""One parameter of a model file: a named matrix or vector, as the bytes of the file.

Only requested rows are read and decoded, when they are requested: a 7B model has parameters of half a
gigabyte, too large for a laptop to keep a float32 copy of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rwkv_np.errors import FormatError
from rwkv_np.files.opened import Extent, InMemory
from rwkv_np.files.quants import DataType
from rwkv_np.files.scaling import multiplied


@dataclass(frozen=True)
class Parameter:
    """A part of an opened file, or of memory. What reads it raises FormatError where the file was cut meanwhile.

    shape     PyTorch's order: (n_out, n_in) for a matrix
    stored    its bytes
    exponent  the weights are the stored ones times 2 ** exponent: some files contain divided matrices. They are
              multiplied when they are read
    """

    name: str
    shape: tuple[int, ...]
    data_type: DataType
    stored: Extent | InMemory
    exponent: int = 0

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.stored.size

    @property
    def n_rows(self) -> int:
        """Rows of the last dimension's length; a vector is one."""
        return self.n_weights // self.shape[-1]

    @property
    def row_bytes(self) -> int:
        return self.data_type.format.n_bytes(self.shape[-1])

    def part(self, i: int) -> Parameter:
        """The matrix `i` of those that a parameter of three dimensions holds one behind the other."""
        size = self.n_bytes // self.shape[0]
        return Parameter(
            f"{self.name}[{i}]", self.shape[1:], self.data_type, self.stored.part(i * size, size), self.exponent
        )

    @property
    def data(self) -> np.ndarray:
        """All its bytes, uint8."""
        return self._scaled(self.stored.read(0, self.n_bytes))

    def raw_rows(self, start: int, stop: int, room: np.ndarray | None = None) -> np.ndarray:
        """The bytes of those rows, (n, bytes of a row) uint8; read into `room` if they are not in memory."""
        size = self.row_bytes
        return self._scaled(self.stored.read(start * size, (stop - start) * size, room)).reshape(-1, size)

    def blocks(self, rows: slice = slice(None), room: np.ndarray | None = None) -> np.ndarray:
        """(n, blocks in a row) of the type's block; a vector is one row. `room` as in `raw_rows`."""
        start, stop, _ = rows.indices(self.n_rows)
        return self.raw_rows(start, stop, room).view(self.data_type.format.block)

    def rows(self, rows: slice) -> np.ndarray:
        """Those rows, (n, n_in) float32."""
        return self._decoded(self.blocks(rows))

    def chosen(self, indices: np.ndarray) -> np.ndarray:
        """Rows of any indices, in their order, (n, n_in) float32; each is read on its own."""
        raw = self._scaled(self.stored.rows(indices, self.row_bytes))
        return self._decoded(raw.view(self.data_type.format.block))

    def array(self) -> np.ndarray:
        """The whole parameter in its shape, float32."""
        return self.rows(slice(None)).reshape(self.shape)

    def chunks(self, n_weights: int = 2**20) -> Iterator[tuple[slice, np.ndarray]]:
        """The rows in groups of about `n_weights`: (slice of rows, (n, n_in) float32)."""
        step = max(1, n_weights // self.shape[-1])
        room = np.empty(min(step, self.n_rows) * self.row_bytes, np.uint8)
        for start in range(0, self.n_rows, step):
            part = slice(start, start + step)
            yield part, self._decoded(self.blocks(part, room))

    def _decoded(self, blocks: np.ndarray) -> np.ndarray:
        return self.data_type.format.decode(blocks).reshape(-1, self.shape[-1])

    def _scaled(self, raw: np.ndarray) -> np.ndarray:
        """Stored bytes as those of the weights: exact. Raises FormatError: too large for their type."""
        if not self.exponent:
            return raw
        found, is_kept = multiplied(raw.view(self.data_type.format.block), self.exponent)
        if not is_kept:
            raise FormatError(
                self.stored.file.path if isinstance(self.stored, Extent) else self.name,
                f"{self.name} is stored divided by {2**self.exponent}, and is too large for {self.data_type.name} when "
                "it is multiplied again. Get the model in another type",
            )
        return found.view(np.uint8)

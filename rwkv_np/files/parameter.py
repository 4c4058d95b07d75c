"""One parameter of a model file: a named matrix or vector, as the bytes of the file.

Only requested rows are decoded, when they are requested: a 7B model has parameters of half a
gigabyte, too large for a laptop to keep a float32 copy of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rwkv_np.errors import FormatError
from rwkv_np.files.mapped import MappedFile
from rwkv_np.files.quants import DataType
from rwkv_np.files.scaling import multiplied


@dataclass(frozen=True)
class Parameter:
    """A view of a mapped file, or of memory.

    shape     PyTorch's order: (n_out, n_in) for a matrix
    raw       its bytes, uint8, read-only and possibly unaligned; read them through `data`
    file      the mapped file that contains them; None: they are in memory
    exponent  the weights are those of `raw` times 2 ** exponent: some files contain divided matrices. They are
              multiplied when they are read, so that a mapped matrix needs no memory
    """

    name: str
    shape: tuple[int, ...]
    data_type: DataType
    raw: np.ndarray
    file: MappedFile | None = None
    exponent: int = 0

    def check(self) -> None:
        """Raise FormatError if the file was truncated since it was mapped: called before each read."""
        if self.file is not None:
            self.file.check()

    @property
    def data(self) -> np.ndarray:
        """The bytes, after checking that the file still has them. Raises FormatError."""
        self.check()
        if not self.exponent:
            return self.raw
        return self._scaled(self.raw.view(self.data_type.format.block)).view(np.uint8)

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.raw.size

    def blocks(self, index: slice | np.ndarray = slice(None)) -> np.ndarray:
        """The blocks of the data type of the selected rows, (n_rows, blocks per row); a vector is one row."""
        self.check()
        n_rows = self.n_weights // self.shape[-1]
        found = self.raw.view(self.data_type.format.block).reshape(n_rows, -1)[index]
        return self._scaled(found) if self.exponent else found

    def rows(self, index: slice | np.ndarray) -> np.ndarray:
        """The selected rows, (n, n_in) float32."""
        x = self.data_type.format.decode(self.blocks(index))
        return x.reshape(-1, self.shape[-1])

    def array(self) -> np.ndarray:
        """The whole parameter in its shape, float32."""
        return self.rows(slice(None)).reshape(self.shape)

    def chunks(self, n_weights: int = 2**20) -> Iterator[tuple[slice, np.ndarray]]:
        """The rows in groups of about `n_weights`: (slice of rows, (n, n_in) float32)."""
        step = max(1, n_weights // self.shape[-1])
        for start in range(0, self.n_weights // self.shape[-1], step):
            part = slice(start, start + step)
            yield part, self.rows(part)

    def _scaled(self, blocks: np.ndarray) -> np.ndarray:
        """A copy of the blocks, multiplied by 2 ** exponent: exact. Raises FormatError: too large for their type."""
        found, is_kept = multiplied(blocks, self.exponent)
        if not is_kept:
            raise FormatError(
                self.file.path if self.file else self.name,
                f"{self.name} is stored divided by {2**self.exponent}, and is too large for {self.data_type.name} when "
                "it is multiplied again. Get the model in another type",
            )
        return found

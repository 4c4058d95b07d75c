"""A checkpoint's tensor, mapped from its file and read as float32 a few rows at a time.

Its values are a NumPy view of the mapped bytes. The storages of an old checkpoint can start at any byte, and torch
cannot view values that are not at a multiple of their size; NumPy can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

# A bfloat16 is the upper half of a float32; NumPy does not have this type, so its bits are used.
TYPES: dict[str, np.dtype[Any]] = {
    "torch.bfloat16": np.dtype("<i2"), "torch.float16": np.dtype("<f2"), "torch.float32": np.dtype("<f4")
}  # fmt: skip


@dataclass(frozen=True)
class MappedTensor:
    """A tensor of a type that can be converted.

    dtype   a key of TYPES
    values  in the tensor's shape, of that NumPy type, mapped
    check   raises an error if the file was truncated meanwhile
    verify  raises an error if the bytes differ from those that were written, if the file has a checksum
    """

    dtype: str
    values: np.ndarray
    check: Callable[[], None]
    verify: Callable[[], None] = lambda: None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def n_rows(self) -> int:
        """Rows of the last dimension's length; a vector is one."""
        return math.prod(self.shape[:-1])

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """The rows `start` to `stop`, (n, n_in) float32."""
        rows = self.values if self.values.ndim == 2 else self.values.reshape(self.n_rows, self.shape[-1])
        return self._float32(rows[start:stop])

    def whole(self) -> torch.Tensor:
        """The whole tensor in its own shape, float32."""
        return self._float32(self.values)

    def _float32(self, values: np.ndarray) -> torch.Tensor:
        import torch

        self.check()
        found = torch.from_numpy(np.require(values, requirements=["C", "A", "W"]))
        floats: torch.Tensor = (found.view(torch.bfloat16) if self.dtype == "torch.bfloat16" else found).float()
        return floats

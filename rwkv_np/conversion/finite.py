"""Check that weights can be stored in a model file: not NaN, not infinite, not too large for the type.

One such weight turns every answer into nonsense, without an error. rwkv.cpp's converter writes them: a float32 above
65504 becomes infinite in its FP16 files. Here the conversion fails instead, and reports the first such value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_LARGEST = {"FP16": 65504.0, "FP32": float(np.finfo(np.float32).max)}


def are_finite(values: np.ndarray, stored: str) -> bool:
    """Whether all of the float32 `values` are finite numbers in the type called `stored`.

    The sum of squares is a bound for all of them, and takes half the time of a minimum and a maximum. It may be
    infinite although no value is; then every value is checked.
    """
    x = values.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):  # the processor may signal a NaN
        squares = float(np.dot(x, x))
    return squares < _LARGEST[stored] ** 2 or not _bad(values, stored).any()


def _bad(values: np.ndarray, stored: str) -> np.ndarray:
    # Numbers up to half a step beyond the largest one are rounded to it. Comparisons with NaN are false.
    return ~(np.abs(values) < 65520) if stored == "FP16" else ~np.isfinite(values)


@dataclass
class Unfit:
    """The values of a tensor that cannot be written: how many, and where the first one is."""

    n_nan: int = 0
    n_infinite: int = 0
    n_beyond: int = 0
    largest: float = 0.0
    first: tuple[int, ...] = ()

    @classmethod
    def among(cls, pieces: Iterable[tuple[int, np.ndarray]], stored: str) -> Unfit:
        """Count in `pieces` of (number of the first row, rows as float32, transformed as they would be written)."""
        found = cls()
        for start, values in pieces:
            found._count(start, values, _bad(values, stored))
        return found

    def _count(self, start: int, values: np.ndarray, bad: np.ndarray) -> None:
        is_nan, is_infinite = np.isnan(values), np.isinf(values)
        beyond = bad & ~is_nan & ~is_infinite
        self.n_nan += int(is_nan.sum())
        self.n_infinite += int(is_infinite.sum())
        self.n_beyond += int(beyond.sum())
        self.largest = max(self.largest, float(np.abs(values[beyond]).max(initial=0)))
        if not self.first and bad.any():
            row, *others = (int(i) for i in np.argwhere(bad)[0])
            self.first = (start + row, *others)

    def describe(self, name: str, stored: str, source: str, destination: str) -> str:
        """The message for the tensor called `name`, and how to fix it; the paths are quoted for a shell."""
        kinds = ((self.n_nan, "NaN"), (self.n_infinite, "infinite"))
        if broken := [f"{n:,} {words}" for n, words in kinds if n]:
            return (
                f"{name} contains values that are not finite: {' and '.join(broken)}, the first at {self.first}. "
                "The checkpoint is damaged: download it again"
            )
        return (
            f"{name} contains values beyond {_LARGEST[stored]:g}, the largest number of {stored}: {self.n_beyond:,} of "
            f"them, the first at {self.first}, the largest {self.largest:g}. Convert it to FP32: "
            f"rwkv-np convert {source} {destination} FP32"
        )

"""Multiply stored weights by a power of two, without decoding them: only the floating-point numbers change.

This is exact for every type, unless a number becomes too large for it: the scale (and minimum) of a block
multiplies all of its weights.
"""

from __future__ import annotations

import numpy as np


def multiplied(blocks: np.ndarray, exponent: int) -> tuple[np.ndarray, bool]:
    """(the blocks times 2 ** exponent, whether all finite numbers stayed finite); uint16 numbers are bfloat16."""
    found = blocks.copy()
    return found, all([_multiply(values, exponent) for values in floats_of(found)])


def floats_of(blocks: np.ndarray) -> list[np.ndarray]:
    """Views of the floating-point numbers of blocks: the scales and minima, or the weights themselves."""
    return [blocks[name] for name in ("d", "m") if name in (blocks.dtype.names or ())] or [blocks]


def _multiply(values: np.ndarray, exponent: int) -> bool:
    """The same in place, for an array of floating-point numbers."""
    # A bfloat16 is the upper half of a float32.
    floats = (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values
    with np.errstate(over="ignore", invalid="ignore"):
        after = np.ldexp(floats, exponent)
    is_kept = not (np.isfinite(floats) & ~np.isfinite(after)).any()
    values[...] = after.view(np.uint32) >> 16 if values.dtype == np.uint16 else after
    return bool(is_kept)

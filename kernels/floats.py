"""Large arrays of float16 (as the bits in files) and float32: convert, check, sum.

Numba has no float16 on the CPU, so both directions are integer arithmetic, written without branches
so that LLVM vectorizes it. One call uses one thread and releases the GIL.
"""

from __future__ import annotations

import numpy as np
from rwkv_np.kernels.cache import jit

FROM_HALF = np.float32(2.0**112)  # between the exponent biases of float16 and float32
LANES = 128  # independent partial sums, so that the addition is vectorized

_jit = jit(nogil=True, error_model="numpy")


def widen_reference(halves, x):
    """x (n,) float32 = the float16 values whose bits are `halves` (n,) uint16; returns how many are not finite."""
    x[:] = halves.view(np.float16)
    return int(np.count_nonzero(~np.isfinite(x)))


@_jit
def widen(halves, x):
    """As `widen_reference`, with integer arithmetic. Infinities come out as 65536."""
    bits = x.view(np.uint32)
    n_infinite = 0
    for i in range(halves.size):
        bits[i] = np.uint32(halves[i] & 0x7FFF) << 13
        n_infinite += (halves[i] & 0x7C00) == 0x7C00
    for i in range(x.size):
        x[i] *= FROM_HALF  # exact, subnormal numbers included
    for i in range(halves.size):
        bits[i] |= np.uint32(halves[i] & 0x8000) << 16
    return n_infinite


def count_not_finite_reference(x):
    """How many of x (n,) float32 are infinite or NaN."""
    return int(np.count_nonzero(~np.isfinite(x)))


@_jit
def count_not_finite(x):
    """As `count_not_finite_reference`, without a temporary array."""
    bits = x.view(np.uint32)
    n = 0
    for i in range(bits.size):
        n += (bits[i] & 0x7F800000) == 0x7F800000
    return n


def sum_of_squares_reference(x):
    """The sum of the squares of x (n,) float32."""
    return float(np.square(x, dtype=np.float64).sum())


@_jit
def sum_of_squares(x):
    """As `sum_of_squares_reference`, accurate to about 1e-5: each lane sums in float32."""
    lanes, total = np.zeros(LANES, np.float32), 0.0
    n_whole = x.size // LANES * LANES
    for start in range(0, n_whole, LANES):
        part = x[start : start + LANES]
        for lane in range(LANES):
            lanes[lane] += part[lane] * part[lane]
    for lane in range(LANES):
        total += lanes[lane]
    for i in range(n_whole, x.size):
        total += x[i] * x[i]
    return total


def narrow_reference(x, halves):
    """halves (n,) uint16 = the bits of x (n,) float32 rounded to float16, to nearest, ties to even."""
    with np.errstate(over="ignore"):
        halves[:] = x.astype(np.float16).view(np.uint16)


@_jit
def narrow(x, halves):
    """As `narrow_reference`, without branches. No number may be NaN."""
    bits = x.view(np.int32)
    small = np.empty(x.size, np.float32)
    for i in range(x.size):
        small[i] = np.abs(x[i]) + np.float32(0.5)  # rounds to 2^-24, the unit of subnormal halves
    for i in range(x.size):
        magnitude = bits[i] & 0x7FFFFFFF
        normal = (min(magnitude, 0x47800000) - (112 << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13
        subnormal = small.view(np.int32)[i] - 0x3F000000
        half = subnormal if magnitude < 0x38800000 else normal
        halves[i] = half | ((bits[i] >> 16) & 0x8000)

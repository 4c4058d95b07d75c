"""How likely a token is, as a whole number: 2^40 for the likeliest, and less for the others.

Floats add up to something else in each order, and at an edge that decides which token is chosen.
Whole numbers do not, so vectors, threads and NumPy give the same sums, and the same token. This one
function is both the definition, on arrays, and what Numba compiles, on scalars: it multiplies and
adds in float64, each rounded by itself (no fused multiply-add), which every processor does alike.

A weight is exact to 3e-12 of itself and half a unit, 4.5e-13 of the largest; what is less likely
than that has weight 0. The weights of four million tokens still fit into an int64.
"""

from __future__ import annotations

import numpy as np

LARGEST_BITS = 40
LOG2_E = 1.4426950408889634
# 2^f on |f| <= 1/2, times 2^40: interpolated at Chebyshev's nodes, with f^0 exact; error 2.1e-12.
C8, C7, C6, C5, C4, C3, C2, C1, C0 = (
    2.0**LARGEST_BITS * c
    for c in (
        1.325080551750225e-06, 1.5303700711365693e-05, 0.00015403475186530786, 0.0013333478473685416,
        0.00961812913523614, 0.055504109063258665, 0.24022650695888503, 0.6931471805568324, 1.0,
    )
)  # fmt: skip
WHOLE = 2.0**52  # added to a float below it, the low bits are that float rounded to a whole number
WHOLE_BITS = int(np.float64(WHOLE).view(np.int64))
ROUND = 1.5 * 2.0**52  # the same where the number may be negative
LOWEST = -42.0  # 2^-42 of the largest is already less than half a unit
COLDEST = 1e-200  # of a smaller temperature no difference of logits is small: the likeliest alone has a weight


def weights(x, largest, scale):
    """2^40 e^((x - largest) scale / LOG2_E), rounded to even: int64 of x's shape.

    x        logits, float64, no NaN; -inf gives 0
    largest  the largest of them, finite
    scale    from `scale_of`, > 0
    """
    y = np.maximum((x - largest) * scale, LOWEST)
    n = y + ROUND
    f = y - (n - ROUND)
    p = (((((((C8 * f + C7) * f + C6) * f + C5) * f + C4) * f + C3) * f + C2) * f + C1) * f + C0
    # n sits in the low bits of the sum; moved to the exponent it multiplies by 2^n. (The names of
    # types are for Numba, which views only what is called by one; for arrays they change nothing.)
    bits = np.float64(p).view(np.int64) + (np.float64(n).view(np.int64) << 52)
    return np.float64(np.int64(bits).view(np.float64) + WHOLE).view(np.int64) - WHOLE_BITS


def scale_of(temperature: float) -> float:
    """What a temperature > 0 multiplies differences of logits by, for powers of two; 1 gives LOG2_E."""
    return LOG2_E / max(temperature, COLDEST)

"""How likely a token is, as a whole number: 2^40 for the most likely, less for the others.

A sum of floats depends on the order of addition, and near a threshold that changes which token is
chosen. Sums of whole numbers do not, so vector code, threads and NumPy give the same sums and the same
token. This one function is both the definition, on arrays, and what Numba compiles, on scalars. It
multiplies and adds in float64, each rounded separately (no fused multiply-add), the same on every processor.

A weight is exact to 3e-12 of itself plus half a unit, 4.5e-13 of the largest. A token that is less likely
than that has weight 0. The sum of the weights of four million tokens still fits in an int64.
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
WHOLE = 2.0**52  # added to a float below it, the low bits are then that float rounded to a whole number
WHOLE_BITS = int(np.float64(WHOLE).view(np.int64))
ROUND = 1.5 * 2.0**52  # the same where the number may be negative
LOWEST = -42.0  # 2^-42 of the largest is already less than half a unit
COLDEST = 1e-200  # at a lower temperature only the most likely token has a weight


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
    # n is in the low bits of the sum; shifted into the exponent it multiplies by 2^n. (The type calls are
    # for Numba, which only supports `view` on typed values; for arrays they change nothing.)
    bits = np.float64(p).view(np.int64) + (np.float64(n).view(np.int64) << 52)
    return np.float64(np.int64(bits).view(np.float64) + WHOLE).view(np.int64) - WHOLE_BITS


def scale_of(temperature: float) -> float:
    """The factor of logit differences for a temperature > 0, as exponents of two; temperature 1 gives LOG2_E."""
    return LOG2_E / max(temperature, COLDEST)

"""exp, sigmoid and tanh on vectors.

Numba has no vector math library: `math.exp` in a loop is one call per lane, and took more than half
of the time of a WKV step. RWKV only needs exp of numbers <= 0: the time mix subtracts the larger
exponent first, and a sigmoid can be computed from exp(-|x|). So nothing overflows.

Accuracy: 1.2e-7 relative (two units in the last place) for -87 <= x <= 0, and 0 below.
"""

from rwkv_np.kernels.emit import FLOATS, INTS

LOG2_E = 1.4426950408889634
# ln 2 in two parts: the first has so few bits that n * LN2_HIGH is exact.
LN2_HIGH = 0.693359375
LN2_LOW = -2.12194440e-4
# Minimax polynomial for (exp(f) - 1 - f) / f^2 on |f| <= ln(2) / 2: Cephes' expf (S. Moshier).
COEFFICIENTS = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
)  # fmt: skip
# Adding 1.5 * 2^23 leaves the nearest integer in the low bits of a float32, on every target.
ROUND = 12582912.0
SMALLEST = -87.0


def exp_negative(emit, x):
    """exp(x) of 16 floats that are <= 0."""
    nearest = emit.fma(x, emit.constant(FLOATS, LOG2_E), emit.constant(FLOATS, ROUND))
    n = nearest - ROUND
    f = emit.fma(n, emit.constant(FLOATS, -LN2_HIGH), x)
    f = emit.fma(n, emit.constant(FLOATS, -LN2_LOW), f)
    poly = emit.constant(FLOATS, COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        poly = emit.fma(poly, f, emit.constant(FLOATS, coefficient))
    mantissa = emit.fma(poly * f, f, f) + 1.0
    # n is in the low bits of `nearest`; shifted into the exponent field it multiplies by 2^n.
    power = nearest.as_kind(INTS) << 23
    scaled = (mantissa.as_kind(INTS) + power).as_kind(FLOATS)
    return (x < SMALLEST).choose(0.0, scaled)


def sigmoid(emit, x):
    """1 / (1 + exp(-x)) of 16 floats, computed from exp(-|x|)."""
    e = exp_negative(emit, (x < 0.0).choose(x, x * -1.0))
    return (x < 0.0).choose(e, emit.constant(FLOATS, 1.0)) / (e + 1.0)


def exp(emit, x):
    """exp(x) of 16 floats of either sign; infinite where x > 87."""
    e = exp_negative(emit, (x < 0.0).choose(x, x * -1.0))
    return (x < 0.0).choose(e, emit.constant(FLOATS, 1.0) / e)


# tanh(x) = x + x^3 P(x^2) for |x| < 0.625, where the formula below would lose digits: Cephes' tanhf (S. Moshier).
TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
TANH_SMALL = 0.625


def tanh(emit, x):
    """tanh(x) of 16 floats: 2e-7 relative."""
    sign = x.as_kind(INTS) & -0x80000000
    size = (x.as_kind(INTS) & 0x7FFFFFFF).as_kind(FLOATS)
    e = exp_negative(emit, size * -2.0)
    large = (emit.constant(FLOATS, 1.0) - e) / (e + 1.0)
    square = x * x
    poly = emit.constant(FLOATS, TANH[0])
    for coefficient in TANH[1:]:
        poly = emit.fma(poly, square, emit.constant(FLOATS, coefficient))
    small = emit.fma(poly * square, x, x)
    return (size < TANH_SMALL).choose(small, (large.as_kind(INTS) | sign).as_kind(FLOATS))

"""Find a threshold among numbers without sorting: for the k largest, or for a share of the total mass.

The numbers are put into buckets, then those of the bucket with the threshold again, and so on, until
all that are left are equal. Each round reads the remaining numbers once. (Buckets by value, not by bits
or by halving: logits follow a bell curve, and after two rounds only a few remain.)

All arrays are arguments, since this runs inside parallel regions: it allocates and raises nothing.
"""

import numpy as np
from rwkv_np.kernels.cache import jit

BUCKETS = 256
MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits of a float32 except the sign

_jit = jit(nogil=True, error_model="numpy")


@_jit
def _range(values):
    """The smallest and the largest of finite values, compared as integers: floats did not vectorize."""
    bits = values.view(np.int32)
    low = high = bits[0] ^ ((bits[0] >> 31) & MAGNITUDE)
    for i in range(bits.size):
        key = bits[i] ^ ((bits[i] >> 31) & MAGNITUDE)
        low, high = min(low, key), max(high, key)
    return _float(low ^ ((low >> 31) & MAGNITUDE)), _float(high ^ ((high >> 31) & MAGNITUDE))


@_jit
def _float(bits):
    return np.int32(bits).view(np.float32)


@_jit
def edge_of_mass(values, masses, needed, left, buckets):
    """The largest value such that all values at least as large have a total mass of at least `needed`.

    values  (n,), finite, n > 0; `masses`, `left` (n,) and `buckets` are overwritten
    Returns (the value, the total mass of larger ones)
    """
    above, n, source = 0, values.size, values
    while True:
        low, high = _range(source[:n])
        if low == high:
            return low, above
        per_unit = BUCKETS / (np.float64(high) - np.float64(low))
        for bucket in range(BUCKETS):
            buckets[bucket] = 0
        for i in range(n):
            buckets[_bucket(source[i], low, per_unit)] += masses[i]
        bucket = BUCKETS - 1
        while bucket > 0 and above + buckets[bucket] < needed:
            above += buckets[bucket]
            bucket -= 1
        n, source = _keep_bucket(source, masses, n, low, per_unit, bucket, left), left


@_jit
def _bucket(value, low, per_unit):
    return min(int((np.float64(value) - low) * per_unit), BUCKETS - 1)


@_jit
def _keep_bucket(values, masses, n, low, per_unit, bucket, left):
    """Copy the values of one bucket to `left` and their masses to the front of `masses`; returns how many."""
    n_left = 0
    for i in range(n):
        value, mass = values[i], masses[i]
        left[n_left], masses[n_left] = value, mass
        n_left += _bucket(value, low, per_unit) == bucket
    return n_left


@_jit
def nth_largest(values, n, left, masses, buckets):
    """The n-th largest of at least n values, and how many are larger."""
    for i in range(values.size):
        masses[i] = 1
    return edge_of_mass(values, masses[: values.size], n, left, buckets)

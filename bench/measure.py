"""How fast NumPy multiplies matrices: the baseline for the speed of a prompt.

The timer and the measurement of memory speed are in the package: `rwkv_np.evaluation.speed`.
"""

from __future__ import annotations

import time

import numpy as np

from rwkv_np.evaluation.speed import median_seconds


def float32_rate(n_rows: int, n_in: int, n_vectors: int) -> float:
    """Operations per second of NumPy's float32 matrix product of that shape."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((n_rows, n_in), np.float32), rng.standard_normal((n_vectors, n_in), np.float32)
    rate = 2 * n_rows * n_in * n_vectors / median_seconds(lambda: x @ w.T, 15)
    time.sleep(0.3)  # OpenBLAS leaves its threads spinning: without a pause the next timing took four times as long
    return rate

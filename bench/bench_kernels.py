"""Time every kernel with pytest-benchmark, on the same cases that the tests check.

Each row has, under "extra_info", its rate, its share of the limit on this machine (sequential memory
reads for one vector, NumPy's float32 product for many), and its largest error against the reference,
relative to the largest result.

    pytest bench/bench_kernels.py --benchmark-columns=median,iqr
    RWKV_NP_BENCH=short pytest bench/bench_kernels.py     (small shapes, a few rounds: for CI)
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from kernel_cases import CASES, FORMATS, TIMED_SHAPES, matmul_reference, random_rows
from measure import float32_rate
from rwkv_np.kernels import dispatch
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.bandwidth import read_rate
from rwkv_np.kernels.matmul import PackedMatrix, matmul, multiply, vectors_for
from rwkv_np.kernels.threads import default_threads

IS_SHORT = os.environ.get("RWKV_NP_BENCH") == "short"
SHAPES = ((512, 512),) if IS_SHORT else TIMED_SHAPES
ROUNDS = 3 if IS_SHORT else 11
# Weights of one timing: more than fits in any cache, so that with one vector they are read from memory.
COLD_BYTES = 2**24 if IS_SHORT else 2**28
COUNTS = (1, 8, 128)


def _cold_matrix(format, n_rows, n_in, path, rng):
    """A matrix repeated until it fits in no cache, and the raw rows of its first repetition."""
    raw = random_rows(format, n_rows, n_in, rng)
    matrix = PackedMatrix.from_file(raw, format, n_in, path)
    repeats = max(1, COLD_BYTES // matrix.tiles.size)
    tiles = np.tile(matrix.tiles, (repeats, 1))
    return raw, PackedMatrix(matrix.layout, n_rows * repeats, n_in, tiles, matrix.kernels)


def _error(raw, format, n_in, matrix, x):
    expected = matmul_reference(raw, format, n_in, x)
    found = matmul(matrix, x)[:, : len(raw)]
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("path", dispatch.available_paths()[-1:] if IS_SHORT else dispatch.available_paths())
@pytest.mark.parametrize("format", FORMATS)
def test_product(benchmark, format, path, shape, count):
    rng = np.random.default_rng(0)
    (n_rows, n_in), n_threads = shape, default_threads()
    raw, matrix = _cold_matrix(format, n_rows, n_in, path, rng)
    x = rng.standard_normal((count, n_in)).astype(np.float32)
    error = _error(raw, format, n_in, matrix, x[:8])
    if count > 16:
        matrix = PackedMatrix.from_file(raw, format, n_in, path)
    vectors, out = (
        vectors_for(matrix, x),
        np.empty((count, matrix.tiles.shape[0] * lay.TILE_ROWS), np.float32),
    )
    benchmark.pedantic(lambda: multiply(matrix, vectors, out), rounds=ROUNDS, warmup_rounds=1)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["error"] = error
    benchmark.extra_info["gb_s"] = matrix.tiles.size / seconds / 1e9
    if count == 1:
        limit = np.median([read_rate(matrix.tiles.reshape(-1), n_threads) for _ in range(5)])
        benchmark.extra_info["of_bandwidth"] = matrix.tiles.size / seconds / limit
    elif count > 16:
        rate = 2 * matrix.n_rows * n_in * count / seconds
        benchmark.extra_info["gop_s"] = rate / 1e9
        benchmark.extra_info["of_numpy_float32"] = rate / float32_rate(n_rows, n_in, count)


@pytest.mark.parametrize("name", CASES)
def test_kernel(benchmark, name):
    case = CASES[name]
    for shape in case.timed[:1] if IS_SHORT else case.timed[-1:]:
        inputs = case.make(shape, np.random.default_rng(0))
        expected = case.reference(*inputs)
        out = benchmark.pedantic(lambda: case.run(*inputs), rounds=ROUNDS, warmup_rounds=1)
        error = float(np.abs(out - expected).max() / np.abs(expected).max())
        benchmark.extra_info |= {"shape": shape, "error": error}

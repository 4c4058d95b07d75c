"""Check and time the AMX kernels against those of VNNI, on a machine that has both.

    python bench/amx.py [--formats Q4_0,Q4_1] [--threads 1,2] [--vectors 128]

Needs NumPy and Numba only, and no installation. First every format and many numbers of vectors: all bits must be equal.
Then matrices of a 1.5B model, Q4_0 unless other formats are given: rates of both paths, measured in turn. The last
line is one JSON document; the exit status is 1 if bits differ, and 2 if AMX cannot be used here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
import types
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
if importlib.util.find_spec("rwkv_np") is None:
    # The kernels know nothing of the rest, so a package with nothing else in it is enough.
    package = types.ModuleType("rwkv_np")
    package.__path__ = [str(ROOT)]
    sys.modules["rwkv_np"] = package

import numba  # noqa: E402
from rwkv_np.kernels import amx, dispatch  # noqa: E402
from rwkv_np.kernels.formats import FORMATS  # noqa: E402
from rwkv_np.kernels.matmul import PackedMatrix, matmul, multiply, vectors_for  # noqa: E402

PATHS = ("vnni", "amx")
# Rows, columns, and how many a layer of RWKV-4 of 1.5B has.
SHAPES = ((2048, 2048, 5), (8192, 2048, 1), (2048, 8192, 1))
COUNTS = (1, 7, 15, 16, 17, 31, 32, 33, 47, 48, 64, 79, 127)
ROUNDS = 7


def random_rows(format: str, n_rows: int, n_in: int, rng: np.random.Generator) -> np.ndarray:
    """Random rows as in a file; scales of order one."""
    row = FORMATS[format]
    raw = rng.integers(0, 256, (n_rows, row.n_bytes(n_in)), np.uint8)
    if not row.is_quantized:
        raw[:, row.block.itemsize - 1 :: row.block.itemsize] &= 0x3F  # below the exponents of NaN and infinity
        return raw
    blocks = raw.view(row.block)
    for name in set(row.block.fields or ()) & {"d", "m", "outlier_value"}:
        blocks[name] = rng.standard_normal(blocks.shape)
    if row.layout.has_outliers:
        blocks["outlier_index"] = rng.integers(0, 32, blocks.shape)
    return raw


def processor() -> str:
    """The processor's name, as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def both(format: str, n_rows: int, n_in: int, rng: np.random.Generator) -> list[PackedMatrix]:
    """The same matrix for each of PATHS."""
    raw = random_rows(format, n_rows, n_in, rng)
    return [PackedMatrix.from_file(raw, format, n_in, path) for path in PATHS]


def differing(format: str, rng: np.random.Generator) -> list[str]:
    """The cases whose bits differ."""
    found = []
    for n_rows, n_in in ((40, 256), (100, 512), (32, 2048)):
        matrices = both(format, n_rows, n_in, rng)
        for count in COUNTS:
            x = rng.standard_normal((count, n_in)).astype(np.float32)
            expected, got = (matmul(matrix, x) for matrix in matrices)
            if not np.array_equal(expected.view(np.uint32), got.view(np.uint32)):
                found.append(f"{format} {n_rows} x {n_in}, {count} vectors")
    return found


def rates(format: str, n_vectors: int, n_threads: int, rng: np.random.Generator) -> dict:
    """Median seconds of each path for a layer's matrices, alternating, and the rates of each shape."""
    numba.set_num_threads(n_threads)
    totals, shapes = dict.fromkeys(PATHS, 0.0), {}
    for n_rows, n_in, n_matrices in SHAPES:
        matrices = both(format, n_rows, n_in, rng)
        x, out = rng.standard_normal((n_vectors, n_in)).astype(np.float32), np.empty((n_vectors, n_rows), np.float32)
        vectors, taken = [vectors_for(matrix, x) for matrix in matrices], {path: [] for path in PATHS}
        for _ in range(ROUNDS + 1):
            for path, matrix, of_path in zip(PATHS, matrices, vectors):
                begin = time.perf_counter()
                multiply(matrix, of_path, out)
                taken[path].append(time.perf_counter() - begin)
        medians = {path: float(np.median(seconds[1:])) for path, seconds in taken.items()}
        operations = 2 * n_rows * n_in * n_vectors
        shapes[f"{n_rows}x{n_in}"] = {path: operations / seconds / 1e9 for path, seconds in medians.items()}
        for path in PATHS:
            totals[path] += n_matrices * medians[path]
    return {"gop_s": shapes, "ratio": totals["vnni"] / totals["amx"]}


def main() -> int:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", default="Q4_0", help="to time, with commas between")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--vectors", type=int, default=128)
    options = parser.parse_args()
    features = sorted(amx.FEATURES & dispatch.cpu_features())
    print(f"{processor()}, Numba {numba.__version__}, features {features}, paths {dispatch.available_paths()}")
    if "amx" not in dispatch.available_paths():
        why = "the system refuses the registers" if amx.FEATURES <= set(features) else "the processor lacks it"
        print(f"AMX cannot be used here: {why}")
        return 2
    rng = np.random.default_rng(0)
    wrong = [case for format in FORMATS for case in differing(format, rng)]
    print(f"{len(FORMATS)} formats, bits differ in: {', '.join(wrong) or 'no case'}", flush=True)
    found = {}
    for format in options.formats.split(","):
        for n_threads in map(int, options.threads.split(",")):
            name = f"{format}, {n_threads} threads, {options.vectors} vectors"
            found[name] = measured = rates(format, options.vectors, n_threads, rng)
            for shape, of_paths in measured["gop_s"].items():
                print(f"{name}, {shape}: " + ", ".join(f"{path} {rate:.0f} Gop/s" for path, rate in of_paths.items()))
            print(f"{name}: a layer's matrices, AMX / VNNI {measured['ratio']:.2f}", flush=True)
    print(json.dumps({"differing": wrong, "measured": found}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

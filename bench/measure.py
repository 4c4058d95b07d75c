"""How fast this machine can read memory and multiply, and how a time is taken.

A speed is worth knowing only next to what bounds it, measured in the same process, with the
same threads, at the same time: on a shared machine the memory's speed changes by a factor of two
within minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from numba import prange, types
from numba.extending import intrinsic
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.pointers import address
from rwkv_np.kernels.threads import one_at_a_time
from rwkv_np.kernels.vector import INTS, Emit, Variable

LINE = 64
AHEAD = 6144  # as the kernels do: without asking ahead, memory looks slower than it is


@intrinsic
def _read_lines(typingctx, place, n_bytes):
    """Read all bytes, in lines of 64; the result only keeps LLVM from leaving it out."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        sums = [Variable(emit, emit.constant(INTS, 0)) for _ in range(8)]
        with emit.loop(emit.value(args[1]).shifted_right(9)) as turn:
            for i, total in enumerate(sums):
                at = turn * (8 * LINE) + LINE * i
                emit.prefetch(args[0], at + AHEAD)
                total.set(total.get() + emit.load(args[0], at, INTS))
        whole = sums[0].get()
        for total in sums[1:]:
            whole = whole + total.get()
        return emit.sum(whole).llvm

    return types.int32(place, types.intp), codegen


@jit(parallel=True, nogil=True)
def _read(data, n_threads, out):
    size = data.size // n_threads
    for i in prange(n_threads):
        out[i] = _read_lines(address(data, i * size), size)


def seconds(call: Callable[[], object]) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_seconds(call: Callable[[], object], repeat: int = 7) -> float:
    """The median of several calls, after one to warm up."""
    call()
    return float(np.median([seconds(call) for _ in range(repeat)]))


def read_rate(data: np.ndarray, n_threads: int) -> float:
    """Bytes a second at which `data` (uint8, flat) can be read in straight lines, once."""
    out = np.zeros(n_threads, np.int32)
    with one_at_a_time:
        numba.set_num_threads(n_threads)
        return data.size / seconds(lambda: _read(data, n_threads, out))


def float32_rate(n_rows: int, n_in: int, n_vectors: int) -> float:
    """Operations a second of NumPy's float32 matrix product of that shape."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((n_rows, n_in), np.float32), rng.standard_normal((n_vectors, n_in), np.float32)
    rate = 2 * n_rows * n_in * n_vectors / median_seconds(lambda: x @ w.T, 15)
    time.sleep(0.3)  # OpenBLAS leaves its threads spinning: what runs next took four times as long
    return rate


def resident_anonymous() -> int | None:
    """Bytes of memory that belong to this process alone, mapped files left out; None where unknown."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), None)


def processor() -> str:
    """The processor's name, as well as it can be known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'} ({numba.config.CPU_NAME or 'host'}), {len(names)} processors"

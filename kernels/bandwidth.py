"""How fast this machine reads memory. This limits decoding, which reads every weight once per token.

Measure it in the process that uses it, with the same threads, just before the work it limits:
on a shared machine the memory speed changes by a factor of two within minutes.
"""

from __future__ import annotations

import time

import numba
import numpy as np
from numba import prange, types
from numba.extending import intrinsic
from rwkv_np.kernels.emit import INTS, Emit, Variable
from rwkv_np.kernels.pointers import address
from rwkv_np.kernels.region import one_at_a_time, region

LINE = 64
AHEAD = 6144  # prefetch distance, as in the kernels: without prefetching, memory looks slower than it is


@intrinsic
def _read_lines(typingctx, place, n_bytes):
    """Read all bytes, one 64-byte line at a time; the result only stops LLVM from removing the loop."""

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


@region()
def _read(data, n_threads, out):
    size = data.size // n_threads
    for i in prange(n_threads):
        out[i] = _read_lines(address(data, i * size), size)


def read_rate(data: np.ndarray, n_threads: int) -> float:
    """Bytes per second when `data` (uint8, flat) is read once, in address order."""
    out = np.zeros(n_threads, np.int32)
    with one_at_a_time:
        numba.set_num_threads(n_threads)
        start = time.perf_counter()
        _read.enter(data, n_threads, out)
        return data.size / (time.perf_counter() - start)

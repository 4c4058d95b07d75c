"""How fast this machine reads memory: the limit of decoding, which reads every weight once a token.

It is measured where it is used, in the same process, with the same threads, just before what it
bounds: on a shared machine the memory's speed changes by a factor of two within minutes.
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


@region()
def _read(data, n_threads, out):
    size = data.size // n_threads
    for i in prange(n_threads):
        out[i] = _read_lines(address(data, i * size), size)


def read_rate(data: np.ndarray, n_threads: int) -> float:
    """Bytes a second at which `data` (uint8, flat) can be read in straight lines, once."""
    out = np.zeros(n_threads, np.int32)
    with one_at_a_time:
        numba.set_num_threads(n_threads)
        start = time.perf_counter()
        _read.enter(data, n_threads, out)
        return data.size / (time.perf_counter() - start)

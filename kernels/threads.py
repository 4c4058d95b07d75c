"""Threads that work on one token together: how many, and how they synchronize.

Starting Numba's parallel loops costs as much as a small matrix, so a model starts one for a whole
token (program.py). Its work is a sequence of phases, each with a number of items. Threads take items,
and continue with the next phase when all items are done. A barrier would wait for all threads instead:
when another program used one of two processors, a token took seven times as long; without it, twice.

Which thread computes an item is left to chance; the result never depends on it. The threading layer
must meet two conditions: threads run at the same time (TBB may run them one after the other), and
only one call runs in it at a time (`workqueue` ends the process otherwise). region.py explains what
happens to threads in a forked process.
"""

from __future__ import annotations

import functools
import os

import numba
import numpy as np
from numba import prange, types
from numba.extending import intrinsic
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.region import is_alone, one_at_a_time, region

# TBB last: see above. Numba decides at the first parallel call of the process. If another module
# made that call first, `check_team` finds out.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "workqueue", "tbb"]

SLOT = 8  # int64s from one shared counter to the next: one cache line each, against false sharing
SPINS = 2000  # rounds of waiting, about 20 microseconds, before a thread yields its processor


def most_threads() -> int:
    """The number of threads Numba was started with; NUMBA_NUM_THREADS changes it."""
    return int(numba.config.NUMBA_NUM_THREADS)


def what_stops_threads() -> str | None:
    """Why Numba cannot start its threads, and how to fix it, in one line; None if they have started."""
    try:
        numba.get_num_threads()
    except (ValueError, RuntimeError, ImportError) as error:
        layer = numba.config.THREADING_LAYER
        return (
            f"the variable NUMBA_THREADING_LAYER is {layer!r}: {str(error).splitlines()[0]} Expected a layer that is "
            f"installed here: unset NUMBA_THREADING_LAYER" + ("" if layer != "tbb" else ", or: pip install tbb")
        )
    return None


def default_threads() -> int:
    """Physical cores that this process may use: a second thread on the same core makes decoding slower."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS and Windows do not have this function
        return max(1, min(os.cpu_count() or 1, most_threads()))
    cores = {_core_of(cpu) for cpu in allowed}
    return max(1, min(len(cores), most_threads()))


@functools.cache
def _core_of(cpu):
    try:
        with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", encoding="ascii") as file:
            return file.read()
    except OSError:
        return cpu


@intrinsic
def _fetch_add(typingctx, counters, place, amount):
    """Add to counters[place] atomically; returns the value before."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.gep(data, [args[1]])
        return builder.atomic_rmw("add", pointer, args[2], "seq_cst")

    return types.int64(counters, types.intp, types.int64), codegen


@intrinsic
def _read(typingctx, counters, place):
    """Atomic read of counters[place]."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "seq_cst", 8)

    return types.int64(counters, types.intp), codegen


_yield_processor = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())


def new_team(n_phases: int, n_threads: int) -> np.ndarray:
    """The shared counters, all zero: for each phase one per thread, and one for the items done."""
    return np.zeros((n_phases, SLOT * (n_threads + 1)), np.int64)


@jit(error_model="numpy")
def next_items(team, phase, rank, n_items):
    """Take some items of the phase: returns the first one and the last one + 1; or -1, -1 if none is left.

    A thread begins with its own share, which is contiguous so that memory is read in address order,
    and then helps the others with theirs. It takes half of what is left each time: before a processor
    can take, it must finish all work in progress, and it reads no memory meanwhile. This costs about
    0.4 microseconds, a third of the time of an item. Near the end it takes items one by one, so that
    threads finish together.
    """
    n_threads = team.shape[1] // SLOT - 1
    for i in range(n_threads):
        owner = rank + i if rank + i < n_threads else rank + i - n_threads
        first, end = owner * n_items // n_threads, (owner + 1) * n_items // n_threads
        place = phase * team.shape[1] + SLOT * owner
        amount = max((end - first - _read(team, place)) // 2, 1)
        item = first + _fetch_add(team, place, amount)
        if item < end:
            return item, min(item + amount, end)
    return -1, -1


@jit()
def finish(team, phase, n_done, n_items):
    """Report how many items this thread has done, and wait until all items are done."""
    place = (phase + 1) * team.shape[1] - SLOT
    _fetch_add(team, place, n_done)
    spins = 0
    while _read(team, place) < n_items:
        spins += 1
        if spins > SPINS:
            _yield_processor()


@region()
def _gather(team, n_threads, seen, patience):
    for rank in prange(n_threads):
        _fetch_add(team, 0, 1)
        turns = 0
        while _read(team, 0) < n_threads and turns < patience:
            turns += 1
            _yield_processor()
        seen[rank] = _read(team, 0)


def check_team(n_threads: int) -> bool:
    """Whether `n_threads` threads really run at the same time in this process; if not, one thread is faster."""
    if is_alone():
        return False
    seen = np.zeros(n_threads, np.int64)
    with one_at_a_time:
        numba.set_num_threads(n_threads)
        _gather.enter(new_team(1, n_threads), n_threads, seen, 200_000)
    return bool((seen == n_threads).all())

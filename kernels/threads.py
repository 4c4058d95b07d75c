"""Threads that work on one token together: how many, and how they meet.

A launch of Numba's parallel loops costs as much as a small matrix, so a model enters one for a
whole token (program.py). Its work is a row of phases, each a number of items; threads take items,
and go on to the next phase when all items are done. A barrier would wait for all threads instead: where
another program had one of two processors, a token took seven times as long; so it takes twice.

Which thread computes what is left to chance; what is computed never depends on it. Two things
are asked of the threading layer: that threads run at once (TBB may run them one after the
other), and that only one call is in there at a time (`workqueue` ends the process otherwise).
What becomes of threads in a process that is forked, region.py says.
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

# TBB last: see above. Numba decides at the first parallel call of the process; where that was
# someone else's, `check_team` finds out.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "workqueue", "tbb"]

SLOT = 8  # int64s from one shared counter to the next: a cache line, or cores would fight over it
SPINS = 2000  # turns of waiting, some 20 microseconds, before the processor is offered to others


def most_threads() -> int:
    """What Numba was started with; NUMBA_NUM_THREADS changes it."""
    return int(numba.config.NUMBA_NUM_THREADS)


def what_stops_threads() -> str | None:
    """Why Numba cannot start its threads, and what mends it, in a line; None once they are there."""
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
    """Physical cores that this process may use: a second thread on a core only gets in the way."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS and Windows
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
    """Add to counters[place] as one step; what it held before."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.gep(data, [args[1]])
        return builder.atomic_rmw("add", pointer, args[2], "seq_cst")

    return types.int64(counters, types.intp, types.int64), codegen


@intrinsic
def _read(typingctx, counters, place):
    """counters[place] as other threads left it."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "seq_cst", 8)

    return types.int64(counters, types.intp), codegen


_yield_processor = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())


def new_team(n_phases: int, n_threads: int) -> np.ndarray:
    """The counters that threads share, all zero: for each phase one a thread, and one of items done."""
    return np.zeros((n_phases, SLOT * (n_threads + 1)), np.int64)


@jit(error_model="numpy")
def next_items(team, phase, rank, n_items):
    """The first of some items of the phase that no thread has taken yet, and the one behind the last; or -1, -1.

    A thread begins with its own share, which is contiguous so that memory is read in straight
    lines, and then helps the others with theirs. It takes half of what is left at a time: a processor
    finishes all that it has begun before it takes, and reads no memory meanwhile, which costs some
    0.4 microseconds, a third of the time of an item. Towards the end it takes one by one, so that
    threads end together.
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
    """Say how many items this thread has done, and wait until all are."""
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
    """Whether `n_threads` threads run at once in this process; else one does better alone."""
    if is_alone():
        return False
    seen = np.zeros(n_threads, np.int64)
    with one_at_a_time:
        numba.set_num_threads(n_threads)
        _gather.enter(new_team(1, n_threads), n_threads, seen, 200_000)
    return bool((seen == n_threads).all())

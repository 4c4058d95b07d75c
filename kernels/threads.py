"""Threads that work on one token together: how many, and how they meet.

A launch of Numba's parallel loops costs as much as a small matrix, so a model enters one for a
whole token, and inside it the threads meet at barriers. That asks two things of the threading
layer: that all threads run at once (so not TBB, which may run them one after the other), and
that only one call is in there at a time (the `workqueue` layer ends the process otherwise).

Which thread computes what is left to chance, so that a slow one does not hold up the others;
what is computed never depends on it.
"""

from __future__ import annotations

import os
import threading

import numba
import numpy as np
from numba import prange, types
from numba.extending import intrinsic

from rwkv_np.kernels.cache import jit

# TBB last: see above. Numba decides at the first parallel call of the process; where that was
# someone else's, `check_team` finds out.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "workqueue", "tbb"]

# Every parallel call of this package holds it: see above.
one_at_a_time = threading.RLock()

SLOT = 8  # int64s from one shared counter to the next: a cache line, or cores would fight over it
ARRIVED, ROUND, WORK = 0, SLOT, 2 * SLOT  # places in a team's array; WORK: one counter a thread
SPINS = 2000  # turns of waiting, some 20 microseconds, before the processor is offered to others


def default_threads() -> int:
    """Physical cores that this process may use: a second thread on a core only gets in the way."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS and Windows
        return max(1, min(os.cpu_count() or 1, numba.config.NUMBA_NUM_THREADS))
    cores = {_core_of(cpu) for cpu in allowed}
    return max(1, min(len(cores), numba.config.NUMBA_NUM_THREADS))


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


@intrinsic
def _write(typingctx, counters, place, value):
    """Set counters[place]; all writes before it are seen by who reads it."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        builder.store_atomic(args[2], builder.gep(data, [args[1]]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(counters, types.intp, types.int64), codegen


_yield_processor = types.ExternalFunction(
    "SwitchToThread" if os.name == "nt" else "sched_yield", types.int32()
)


def new_team(n_threads: int) -> np.ndarray:
    """The counters that `n_threads` threads share."""
    return np.zeros(WORK + SLOT * n_threads, np.int64)


@jit()
def meet(team, n_threads):
    """Wait until every thread is here. The last one to come deals the work anew."""
    if n_threads == 1:
        team[WORK] = 0
        return
    now = _read(team, ROUND)
    if _fetch_add(team, ARRIVED, 1) == n_threads - 1:
        for rank in range(n_threads):
            team[WORK + SLOT * rank] = 0
        team[ARRIVED] = 0
        _write(team, ROUND, now + 1)
        return
    spins = 0
    while _read(team, ROUND) == now:
        spins += 1
        if spins > SPINS:
            _yield_processor()


@jit()
def next_item(team, rank, n_threads, n_items):
    """An item that no thread has taken since they last met, or -1.

    A thread begins with its own share, which is contiguous so that memory is read in straight
    lines, and then helps the others with theirs.
    """
    for i in range(n_threads):
        owner = (rank + i) % n_threads
        first, end = owner * n_items // n_threads, (owner + 1) * n_items // n_threads
        item = first + _fetch_add(team, WORK + SLOT * owner, 1)
        if item < end:
            return item
    return -1


@jit(parallel=True, nogil=True)
def _gather(team, n_threads, seen, patience):
    for rank in prange(n_threads):
        _fetch_add(team, ARRIVED, 1)
        turns = 0
        while _read(team, ARRIVED) < n_threads and turns < patience:
            turns += 1
            _yield_processor()
        seen[rank] = _read(team, ARRIVED)


def check_team(n_threads: int) -> bool:
    """Whether `n_threads` threads run at once in this process, as barriers need."""
    seen = np.zeros(n_threads, np.int64)
    with one_at_a_time:
        numba.set_num_threads(n_threads)
        _gather(new_team(n_threads), n_threads, seen, 200_000)
    return bool((seen == n_threads).all())

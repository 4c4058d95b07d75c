"""A model's work as a table: phases of jobs, run by one parallel region.

Starting Numba's parallel loops costs as much as a small matrix, so a model starts one for a whole
pass of tokens. The work in it is data: a phase is a list of jobs, and a job is one op on a number of
items. Threads take items; a phase begins when all items of the phase before are done. This file
does not depend on the architecture: `models/build.py` writes the table, and the ops are in modules
beside this one (mixing, products, wkv4). The loop that takes items is written here, once.

An op is a function that is compiled separately and called by its address. So a model compiles only
the ops that it uses, and a new architecture adds only its own:

    op(args, weights, scratch, states, logits, batch, item, rank)

`args` points to the int64 numbers of its job, which only the op's own file interprets; the next
four point to the arrays of the model, and `batch` to this pass's input (batch.py). An op must not
raise: Numba would print the error and continue with wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numba
import numpy as np
from numba import prange, types
from rwkv_np.kernels.batch import N_SEQUENCES, N_TOKENS, N_WANTED
from rwkv_np.kernels.cache import compile_c, jit
from rwkv_np.kernels.pointers import OP_ARGS, address, call_op
from rwkv_np.kernels.region import one_at_a_time, region
from rwkv_np.kernels.threads import finish, new_team, next_items

COUNTED = {"tokens": N_TOKENS, "sequences": N_SEQUENCES, "wanted": N_WANTED}
# Columns of `Program.jobs`.
OP, COUNT, PER, FIXED, ARGS = range(5)


class Job(NamedTuple):
    """One kind of work inside a phase.

    op     address of the compiled op
    args   its int64 numbers
    count  what is counted: "tokens", "sequences" or "wanted" (rows of logits); a count of 0 means no work
    per    how many of these make one item; 0 if the number of items is fixed
    items  that fixed number
    """

    op: int
    args: tuple[int, ...]
    count: str = "tokens"
    per: int = 0
    items: int = 0


class Program(NamedTuple):
    """Phases as arrays for Numba.

    phases  (n_phases, 2): index of its first job, and of its last job + 1
    jobs    (n_jobs, 5)
    args    (n,): the numbers of all jobs; each job's start at a multiple of 8
    """

    phases: np.ndarray
    jobs: np.ndarray
    args: np.ndarray


def compile_op(function: Callable) -> object:
    """The op, compiled or loaded from the cache; it has an `address`. The caller must keep a reference to it."""
    return compile_c(types.void(*OP_ARGS), nopython=True, error_model="numpy")(function)


def assemble(phases: Sequence[Sequence[Job]]) -> Program:
    """Convert phases of jobs to tables."""
    spans, jobs, args = [], [], []
    for phase in phases:
        spans.append((len(jobs), len(jobs) + len(phase)))
        for job in phase:
            jobs.append((job.op, COUNTED[job.count], job.per, job.items, len(args)))
            args += [*job.args, *(-len(job.args) % 8) * (0,)]
    return Program(*(np.array(table, np.int64) for table in (spans, jobs, args)))


class Team:
    """The threads that run a program, and the counters that they share."""

    def __init__(self, program: Program, n_threads: int) -> None:
        self.program, self.n_threads = program, n_threads
        self._counters = new_team(len(program.phases), n_threads)
        self._items = np.zeros(len(program.jobs), np.int64)

    def run(self, weights, scratch, states, logits, batch) -> None:
        """One pass over C-contiguous arrays; `batch` is an int64 table of batch.py.

        The caller must hold the lock `region.one_at_a_time`.
        """
        self._counters[:] = 0
        _run.enter(self._counters, self.n_threads, *self.program, self._items, weights, scratch, states, logits, batch)

    def __enter__(self) -> Team:
        one_at_a_time.acquire()
        numba.set_num_threads(self.n_threads)
        return self

    def __exit__(self, *exception: object) -> None:
        one_at_a_time.release()


@jit(error_model="numpy")
def _count_items(jobs, batch, items):
    for job in range(len(jobs)):
        n, per = batch[jobs[job, COUNT]], jobs[job, PER]
        if per > 0:
            items[job] = (n + per - 1) // per
        else:
            items[job] = jobs[job, FIXED] if n > 0 else 0


@jit(error_model="numpy")
def _work(rank, team, phases, jobs, args, items, weights, scratch, states, logits, batch):
    """The work of one thread, in all phases."""
    for phase in range(len(phases)):
        first, end = phases[phase]
        n_items = 0
        for job in range(first, end):
            n_items += items[job]
        n_done, (item, behind) = 0, next_items(team, phase, rank, n_items)
        while item >= 0:
            job, before = first, 0
            for i in range(item, behind):
                while i - before >= items[job]:
                    before += items[job]
                    job += 1
                place = address(args, 8 * jobs[job, ARGS])
                call_op(jobs[job, OP], place, weights, scratch, states, logits, batch, i - before, rank)
            n_done += behind - item
            item, behind = next_items(team, phase, rank, n_items)
        finish(team, phase, n_done, n_items)


@region(error_model="numpy")
def _run(team, n_threads, phases, jobs, args, items, weights, scratch, states, logits, batch):
    _count_items(jobs, batch, items)
    for i in prange(n_threads):
        rank = np.int64(i)  # Numba's loop index is unsigned, and everything would be compiled twice
        _work(
            rank, team, phases, jobs, args, items, address(weights, 0), address(scratch, 0), address(states, 0),
            address(logits, 0), address(batch, 0),
        )  # fmt: skip

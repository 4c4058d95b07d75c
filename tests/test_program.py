"""The loop that does all of a model's work: every item once, and phases in order."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import batch as b
from rwkv_np.kernels.emit import I64, Emit
from rwkv_np.kernels.pointers import beyond, number
from rwkv_np.kernels.program import Job, Team, assemble, compile_op

SLOW = 300_000  # iterations that a slow thread waits in each item: about 0.1 ms


@intrinsic
def _add(typingctx, pointer, amount):
    """Add to an int64 atomically; returns the value before."""

    def codegen(context, builder, signature, args):
        place = builder.bitcast(args[0], I64.as_pointer())
        return builder.atomic_rmw("add", place, args[1], "seq_cst")

    return types.int64(pointer, types.int64), codegen


@intrinsic
def _put(typingctx, value, pointer):
    def codegen(context, builder, signature, args):
        Emit(builder).store(Emit(builder).value(args[0]), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, pointer), codegen


# Arguments of the op below: where its counts begin, the slow thread (-1: none). The scratch starts with a clock.
COUNTS, SLOW_RANK = range(2)


def _record(args, weights, scratch, states, logits, batch, item, rank):
    """Count the item, and record when it began and which thread had it; a slow thread takes long for each."""
    now = _add(scratch, 1)
    place = beyond(scratch, number(args, COUNTS) + 24 * item)
    _add(place, 1)
    _put(now, beyond(place, 8))
    _put(rank, beyond(place, 16))
    if rank == number(args, SLOW_RANK):
        for _ in range(SLOW):
            _add(beyond(scratch, 8), 1)


RECORD = compile_op(_record)


class Recorder:
    """A program of recording jobs, and the records of their items."""

    def __init__(self, phases, n_threads, slow=-1):
        self.places, table, at = [], [], 2
        for phase in phases:
            jobs = []
            for count, per, items, most in phase:
                jobs.append(Job(RECORD.address, (8 * at, slow), count, per, items))
                self.places.append((at, most))
                at += 3 * most
            table.append(jobs)
        self.scratch = np.zeros(at, np.int64)
        self.team = Team(assemble(table), n_threads)

    def run(self, batch):
        """For each job: an array (items, 3) how often, when last, and by which thread."""
        self.scratch[:] = 0
        nothing = np.zeros(1)
        with self.team as team:
            team.run(nothing, self.scratch, nothing, nothing, batch)
        return [self.scratch[at : at + 3 * most].reshape(most, 3) for at, most in self.places]


def batch_of(n_tokens, n_sequences=1, n_wanted=0):
    lengths = np.diff(np.linspace(0, n_tokens, n_sequences + 1).astype(int))
    runs = [(length, 8 * i, min(length, n_wanted) if i == 0 else 0, 8 * i) for i, length in enumerate(lengths)]
    batch = b.new_batch()
    b.fill(batch, np.array(runs, np.int64).reshape(-1, 4))
    return batch


def threads_or_skip(n_threads):
    if n_threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"Numba was started with {numba.config.NUMBA_NUM_THREADS} threads")
    return n_threads


def test_five_threads_on_fewer_processors():
    """Numba starts as many threads as there are processors, so these tests run in a child process with five."""
    if numba.config.NUMBA_NUM_THREADS >= 5:
        return  # the tests above ran with five threads
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "once or begins_when"]
    child = subprocess.run(command, env=os.environ | {"NUMBA_NUM_THREADS": "5"}, capture_output=True, text=True)
    assert child.returncode == 0 and "skipped" not in child.stdout, child.stdout
    assert "39 passed" in child.stdout, child.stdout  # 4 x 3 x 3 for items, 3 for phases


FIXED = ("tokens", 0)


@pytest.mark.parametrize("slow", [-1, 0, 1], ids=["even", "the first is slow", "the second is slow"])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_items", [0, 1, 3, 40])
def test_every_item_is_done_once(n_items, n_threads, slow):
    recorder = Recorder([[(*FIXED, n_items, n_items)]], threads_or_skip(n_threads), slow)
    for _ in range(3):
        (items,) = recorder.run(batch_of(1))
        np.testing.assert_array_equal(items[:, 0], 1)


def test_a_slow_thread_leaves_its_share_to_others():
    recorder = Recorder([[(*FIXED, 200, 200)]], threads_or_skip(2), slow=0)
    (items,) = recorder.run(batch_of(1))
    # Half of them are the slow thread's share; the other thread takes the rest of it.
    assert (items[:, 2] == 1).sum() > 100


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_a_phase_begins_when_the_one_before_is_done(n_threads):
    phases = [[(*FIXED, 7, 7)], [(*FIXED, 0, 0)], [(*FIXED, 3, 3), (*FIXED, 2, 2)], [(*FIXED, 9, 9)]]
    for slow in (-1, 0):
        first, _, second, third, last = Recorder(phases, threads_or_skip(n_threads), slow).run(batch_of(1))
        both = np.concatenate([second, third])
        assert first[:, 1].max() < both[:, 1].min() and both[:, 1].max() < last[:, 1].min()


def test_jobs_of_a_phase_each_get_their_own_items():
    jobs = [(*FIXED, 3, 3), (*FIXED, 0, 0), (*FIXED, 1, 1), (*FIXED, 5, 5)]
    for items in Recorder([jobs], 1).run(batch_of(1)):
        np.testing.assert_array_equal(items[:, 0], 1)


@pytest.mark.parametrize(
    ("count", "per", "batch", "n_items"),
    [
        ("tokens", 4, (9, 1, 0), 3), ("tokens", 4, (8, 1, 0), 2), ("sequences", 4, (9, 5, 0), 2),
        ("wanted", 1, (9, 1, 3), 3), ("wanted", 1, (9, 1, 0), 0),
    ],
)  # fmt: skip
def test_items_are_counted_from_what_a_pass_reads(count, per, batch, n_items):
    (items,) = Recorder([[(count, per, 0, 10)]], 1).run(batch_of(*batch))
    np.testing.assert_array_equal(items[:, 0], np.arange(10) < n_items)


def test_a_count_of_zero_means_no_work():
    wanted, tokens = Recorder([[("wanted", 0, 5, 5)], [("tokens", 0, 5, 5)]], 1).run(batch_of(3))
    assert not wanted[:, 0].any() and tokens[:, 0].all()


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(0, 10**9), st.integers(0, 16)), min_size=1, max_size=8))
def test_a_batch_says_what_each_sequence_reads(runs):
    runs = [(n_tokens, state, min(n_tokens, n_wanted), state + 8) for n_tokens, state, n_wanted in runs]
    batch = b.new_batch()
    assert b.fill(batch, np.array(runs)) == sum(run[0] for run in runs)
    ends = np.cumsum([run[0] for run in runs])
    wanted = [end - n + i for end, (_, _, n, _) in zip(ends, runs) for i in range(n)]
    assert batch[: b.N_WANTED + 1].tolist() == [ends[-1], len(runs), len(wanted)]
    sequences = np.repeat(np.arange(len(runs)), [run[0] for run in runs])
    np.testing.assert_array_equal(batch[b.SEQUENCE : b.SEQUENCE + ends[-1]], sequences)
    np.testing.assert_array_equal(batch[b.FIRST : b.FIRST + len(runs) + 1], [0, *ends])
    np.testing.assert_array_equal(batch[b.STATE : b.STATE + len(runs)], [run[1] for run in runs])
    np.testing.assert_array_equal(batch[b.AFTER : b.AFTER + len(runs)], [run[3] for run in runs])
    np.testing.assert_array_equal(batch[b.WANTED : b.WANTED + len(wanted)], wanted)

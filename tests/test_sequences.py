"""Several sequences in one pass: each has the same result, to the last bit, alone and with others."""

import numpy as np
import pytest
from conftest import random_parameters, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rwkv_np.kernels import dispatch
from rwkv_np.kernels.threads import most_threads

import rwkv_np
from rwkv_np.errors import InputError
from rwkv_np.models import Run, StatePool

N_SLOTS = 6
WANTS = ("none", "last", "all")
# (kernel path, type): all paths of this processor, and rows that do not fill whole blocks.
ENDS = ("Q4_1.bin", "FP16.bin", "v100-Q4_1_O.bin", "v5.2", "v6", "v7")
CASES = [(path, end) for path in dispatch.available_paths() for end in ENDS]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Random models of other versions: heads that do not fill whole blocks, and thin matrices of various ranks."""
    ranks = {"v5.2": (), "v6": (12, 32), "v7": (16, 4, 12, 40)}
    found, folder = {}, tmp_path_factory.mktemp("others")
    for name, of in ranks.items():
        arrays = random_parameters(np.random.default_rng(0), 3, 96, 64, 101, name, head_size=48, ranks=of)
        found[name] = write_model(folder / f"{name}.bin", arrays, "Q4_1")
    return found


def load(golden, others, path, end, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(dispatch.ENV, path)
        return rwkv_np.load(others.get(end) or golden(end), threads=threads)


@st.composite
def passes(draw):
    """Passes in sequence: each reads some of the slots, each slot with some tokens."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        slots = draw(st.lists(st.integers(0, N_SLOTS - 1), min_size=1, max_size=N_SLOTS, unique=True))
        lengths = st.one_of(st.just(1), st.integers(1, 12), st.integers(100, 150))
        found.append([(slot, draw(lengths), draw(st.sampled_from(WANTS))) for slot in slots])
    return found


@pytest.mark.parametrize(("path", "end"), CASES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(passes=passes(), seed=st.integers(0, 2**32 - 1), threads=st.sampled_from([1, min(2, most_threads())]))
def test_other_sequences_and_cuts_change_no_bit(golden, others, path, end, passes, seed, threads):
    model, alone = (load(golden, others, path, end, n) for n in (threads, 1))
    rng = np.random.default_rng(seed)
    pool = model.new_pool(N_SLOTS)
    slots = [pool.take() for _ in range(N_SLOTS)]
    read = [[] for _ in slots]
    expected = []
    found = []
    for runs in passes:
        tokens = [rng.integers(0, model.config.vocab_size, length) for _, length, _ in runs]
        runs = [Run(ids, slots[slot], wants) for (slot, _, wants), ids in zip(runs, tokens)]
        found.append(model.read(runs, pool))
        for run, ids in zip(runs, tokens):
            i = slots.index(run.slot)
            rows, _ = alone.forward([*read[i], *ids], full_output=True)
            read[i].extend(ids)
            n_wanted = {"none": 0, "last": 1, "all": len(ids)}[run.wants]
            expected.append(rows[len(rows) - n_wanted :])
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))
    for slot, ids in zip(slots, read):
        state = alone.forward(ids)[1] if ids else alone.initial_state()
        np.testing.assert_array_equal(pool.state(slot).data, state.data)


@pytest.mark.parametrize("engine", ["fused", "numpy"])
@pytest.mark.parametrize("n_embd", [32, 40])
def test_both_engines_read_what_forward_reads(tmp_path, engine, n_embd):
    path = write_model(tmp_path / "odd.bin", random_parameters(np.random.default_rng(0), n_embd=n_embd))
    model = rwkv_np.load(path, engine=engine)
    start = model.forward([9, 8, 7])[1]
    pool = model.new_pool(3)
    first, second = pool.take(), pool.take(start)
    logits = model.read([Run([1, 2, 3], second, "all"), Run(4, first)], pool)
    expected, state = model.forward([1, 2, 3], start, full_output=True)
    other, other_state = model.forward(4)
    np.testing.assert_allclose(logits, [*expected, other], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pool.state(second).wkv, state.wkv, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pool.state(first).shift, other_state.shift, rtol=1e-5, atol=1e-5)


def test_advance_changes_the_state_as_forward_would(tiny_model):
    model = rwkv_np.load(tiny_model)
    state = model.forward([1, 2])[1]
    expected, after = model.forward([3, 4], state, full_output=True)
    place = state.data.ctypes.data
    np.testing.assert_array_equal(model.advance([3, 4], state, full_output=True), expected)
    np.testing.assert_array_equal(state.data, after.data)
    assert state.data.ctypes.data == place


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "runs is empty"),
        ([Run([1], 0), Run([2], 0)], "two runs have the same slot"),
        ([Run([1], 0), Run([2], 2)], "slot 2 is not taken; the pool has 3 slots, 1 free"),
        ([Run([1], 0), Run([2], -1)], "slot -1 is not taken"),
        ([Run([1], 0, "some")], "a run wants 'some'; expected one of none, last, all"),
        ([Run([1], 0), Run([999], 1)], "token id 999 at position 0"),
        ([Run([], 0)], r"tokens have shape \(0,\)"),
    ],
)  # fmt: skip
def test_a_pass_that_is_refused_changes_no_state(tiny_model, runs, message):
    model = rwkv_np.load(tiny_model)
    pool = model.new_pool(3)
    pool.take(), pool.take(model.forward([5])[1])
    before = pool.data.copy()
    with pytest.raises(InputError, match=message):
        model.read(runs, pool)
    np.testing.assert_array_equal(pool.data, before)


def test_the_pool_of_another_model_is_refused(tiny_model, golden):
    model, other = rwkv_np.load(tiny_model), rwkv_np.load(golden("FP32.bin"))
    pool = other.new_pool(1)
    with pytest.raises(InputError, match="belongs to another model"):
        model.read([Run([1], pool.take())], pool)
    with pytest.raises(InputError, match="the state belongs to another model"):
        model.new_pool(1).take(other.initial_state())


def test_slots_are_taken_and_given_back(tiny_model):
    model = rwkv_np.load(tiny_model)
    pool = StatePool(model.state_layout, 2)
    slots = {pool.take(), pool.take()}
    assert slots == {0, 1} and pool.n_free == 0
    with pytest.raises(InputError, match="all 2 slots of the pool are taken"):
        pool.take()
    model.read([Run([1, 2, 3], 1)], pool)
    pool.release(1)
    with pytest.raises(InputError, match="slot 1 is not taken"):
        pool.release(1)
    np.testing.assert_array_equal(pool.state(pool.take()).data, model.initial_state().data)
    with pytest.raises(InputError, match="n_slots is 0; expected at least 1"):
        model.new_pool(0)

"""Taking back tokens that were read: `Model.cut` gives the state as if they had never been read, to the last bit."""

import numpy as np
import pytest
from rwkv_np.kernels.batch import MOST_KEPT
from versions import converted, random_checkpoint, two_threads

import rwkv_np
from rwkv_np.errors import InputError
from rwkv_np.models import Run

VERSIONS = ("v4", "v5.1", "v5.2", "v6", "v7")
RANKS = {"v6": (8, 16), "v7": (8, 8, 8, 16)}


@pytest.fixture(scope="module", params=VERSIONS)
def path(request, tmp_path_factory):
    # 3 heads of 24: a head that fills no whole blocks, and one that shares an item with another.
    head_size, ranks = (24 if request.param == "v7" else 32), RANKS.get(request.param, ())
    tensors = random_checkpoint(request.param, 1, n_embd=3 * head_size, head_size=head_size, ranks=ranks)
    return converted(tensors, tmp_path_factory.mktemp(request.param))


def after(model, start, tokens):
    return model.forward(tokens, start)[1].data if len(tokens) else start.data


def check_cuts(model, seed, other_pass=False):
    """Passes with guesses over random sequences, each cut at a random token, next to others that are not cut."""
    rng = np.random.default_rng(seed)
    pool = model.new_pool(8)
    pairs = [[pool.take(), pool.take()] for _ in range(3)]
    states = [model.initial_state() for _ in pairs]
    for _ in range(6):
        lengths = rng.integers(1, 1 + MOST_KEPT // len(pairs), len(pairs))
        ids = [rng.integers(0, model.config.vocab_size, n) for n in lengths]
        in_place = rng.integers(0, len(pairs) + 1)  # one of them reads no guesses; or none
        runs = [Run(t, a, "all", None if i == in_place else b) for i, (t, (a, b)) in enumerate(zip(ids, pairs))]
        model.read(runs, pool)
        counting = [0 if i == in_place else int(rng.integers(0, n + 1)) for i, n in enumerate(lengths)]
        if other_pass:
            model.forward(rng.integers(0, model.config.vocab_size, 5))
        model.cut(runs, counting, pool)
        for i, (tokens, n) in enumerate(zip(ids, counting)):
            if i != in_place:
                np.testing.assert_array_equal(pool.state(pairs[i][0]).data, states[i].data)  # the old state stays
                pairs[i].reverse()
            states[i].data[:] = after(model, states[i], tokens[: n or len(tokens)])
            np.testing.assert_array_equal(pool.state(pairs[i][0]).data, states[i].data)


@pytest.mark.parametrize("seed", range(3))
def test_the_state_after_a_cut_is_that_of_the_tokens_that_count(path, seed):
    check_cuts(rwkv_np.load(path, threads=two_threads()), seed)


def test_a_cut_after_another_pass_reads_the_tokens_again(path):
    check_cuts(rwkv_np.load(path), 5, other_pass=True)


def test_the_numpy_graph_cuts_by_reading_again(path):
    check_cuts(rwkv_np.load(path, engine="numpy"), 7)


def test_a_cut_does_not_read_the_matrices(path, monkeypatch):
    model = rwkv_np.load(path)
    pool = model.new_pool(2)
    runs = [Run([1, 2, 3, 4], pool.take(), "all", pool.take())]
    model.read(runs, pool)
    expected = after(model, model.initial_state(), [1, 2])
    model.read(runs, pool)
    monkeypatch.setattr(model, "_read", None)
    model.cut(runs, [2], pool)
    np.testing.assert_array_equal(pool.state(1).data, expected)


def test_the_state_at_several_places_of_a_run_can_be_fetched(path):
    model = rwkv_np.load(path)
    pool = model.new_pool(3)
    runs = [Run([1, 2, 3, 4], pool.take(), "all", pool.take())]
    model.read(runs, pool)
    third = pool.take()
    for n in (3, 1, 4, 2):
        model.cut([runs[0]._replace(after=third)], [n], pool)
        np.testing.assert_array_equal(pool.state(third).data, after(model, model.initial_state(), [1, 2, 3, 4][:n]))
    np.testing.assert_array_equal(pool.state(1).data, after(model, model.initial_state(), [1, 2, 3, 4]))


@pytest.mark.parametrize("n_tokens", [MOST_KEPT, MOST_KEPT + 1, 300])
def test_a_run_of_any_length_leaves_the_old_state_and_can_be_cut(path, n_tokens):
    model = rwkv_np.load(path)
    pool = model.new_pool(2)
    tokens = np.arange(n_tokens) % model.config.vocab_size
    runs = [Run(tokens, pool.take(), "last", pool.take())]
    logits = model.read(runs, pool)
    np.testing.assert_array_equal(logits[0], model.forward(tokens)[0])
    np.testing.assert_array_equal(pool.state(0).data, model.initial_state().data)
    np.testing.assert_array_equal(pool.state(1).data, after(model, model.initial_state(), tokens))
    model.read(runs, pool)
    model.cut(runs, [n_tokens - 1], pool)
    np.testing.assert_array_equal(pool.state(1).data, after(model, model.initial_state(), tokens[:-1]))


def test_a_cut_that_makes_no_sense_is_refused(path):
    model = rwkv_np.load(path)
    pool = model.new_pool(4)
    first, second, _ = pool.take(), pool.take(), pool.take()
    run = Run([1, 2], first, "all", second)
    for runs, lengths, problem in (
        ([run], [3], "a length"),
        ([run], [], "0 lengths for 1 runs"),
        ([run._replace(after=None)], [1], "cannot be cut"),
        ([run._replace(after=3)], [1], "slot 3 is not taken"),
        ([run, Run([1], second, after=2)], [1, 1], "two runs have the same slot"),
    ):
        with pytest.raises(InputError, match=problem):
            model.cut(runs, lengths, pool)


def test_a_run_that_is_not_cut_may_have_lost_its_slots(path):
    model = rwkv_np.load(path)
    pool = model.new_pool(4)
    runs = [Run([1, 2, 3], pool.take(), "all", pool.take()), Run([4, 5], pool.take(), "all", pool.take())]
    model.read(runs, pool)
    pool.release(0), pool.release(1)
    model.cut(runs, [0, 1], pool)
    np.testing.assert_array_equal(pool.state(3).data, after(model, model.initial_state(), [4]))
    with pytest.raises(InputError, match="slot 0 is not taken"):
        model.cut(runs, [1, 1], pool)

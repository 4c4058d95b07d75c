"""The fused engine against other programs' logits, the NumPy graph, and itself with other chunks."""

import threading
import weakref

import numba
import numpy as np
import pytest
from conftest import GOLDEN, random_parameters, write_model
from rwkv_np.kernels import dispatch
from synthetic import write_synthetic

from rwkv_np.errors import InputError
from rwkv_np.files.format import read_model_file
from rwkv_np.models import engine, model_config, packing
from rwkv_np.models.engine import CHUNK, Engine
from rwkv_np.models.v4 import RWKV4

# Mean |difference| from the official package's float32 logits: the limit for each type.
BOUNDS = {
    "FP32": 1e-6, "FP16": 4.1e-4, "Q8_0": 0.0172, "Q5_1": 0.0757, "Q5_0": 0.1046,
    "Q4_1": 0.165, "Q4_0": 0.217,
    "v100-FP16": 4.1e-4, "v100-Q4_1_O": 0.107, "v100-Q4_1": 0.208, "v100-Q4_0": 0.304,
}  # fmt: skip


def load(path, kind=Engine, **options):
    file = read_model_file(path)
    return kind(model_config(file), file.parameters, **options)


@pytest.fixture(scope="module")
def official():
    return np.load(GOLDEN / "logits.rwkv-pip-fp32.npz")


def one_by_one(model, tokens, state=None):
    rows = []
    for token in tokens:
        logits, state = model.forward(int(token), state)
        rows.append(logits)
    return np.stack(rows), state


def assert_same_state(state, expected):
    np.testing.assert_array_equal(state.shift, expected.shift)
    np.testing.assert_array_equal(state.wkv, expected.wkv)


@pytest.mark.parametrize("path", dispatch.available_paths())
@pytest.mark.parametrize("end", BOUNDS)
def test_each_type_costs_no_more_than_in_rwkv_cpp(golden, official, monkeypatch, end, path):
    monkeypatch.setenv(dispatch.ENV, path)
    model = load(golden(f"{end}.bin"))
    logits, _ = model.forward(official["tokens"], full_output=True)
    assert model.kernels.path == path
    assert np.abs(logits - official["logits"]).mean() <= BOUNDS[end]


@pytest.mark.parametrize("end", BOUNDS)
def test_any_cut_of_a_prompt_gives_the_same_bits(golden, official, end):
    model, tokens = load(golden(f"{end}.bin")), official["tokens"]
    together, state = model.forward(tokens, full_output=True)
    single, single_state = one_by_one(model, tokens)
    np.testing.assert_array_equal(together, single)
    assert_same_state(state, single_state)
    first, middle = model.forward(tokens[:19], full_output=True)
    second, cut_state = model.forward(tokens[19:], middle, full_output=True)
    np.testing.assert_array_equal(together, np.concatenate([first, second]))
    assert_same_state(cut_state, state)


def test_a_prompt_longer_than_a_chunk_gives_the_same_bits(tiny_model):
    model = load(tiny_model)
    tokens = np.arange(2 * CHUNK + 37) % 251
    every, state = model.forward(tokens, full_output=True)
    last, last_state = model.forward(tokens)
    np.testing.assert_array_equal(every[-1], last)
    assert_same_state(state, last_state)
    np.testing.assert_array_equal(every[-1], one_by_one(model, tokens)[0][-1])


@pytest.mark.parametrize("end", ["FP32", "Q4_1", "v100-Q4_1_O"])
def test_the_number_of_threads_does_not_change_a_bit(golden, official, end):
    expected, expected_state = load(golden(f"{end}.bin"), threads=1).forward(official["tokens"], full_output=True)
    for threads in range(2, numba.config.NUMBA_NUM_THREADS + 1):
        logits, state = load(golden(f"{end}.bin"), threads=threads).forward(official["tokens"], full_output=True)
        np.testing.assert_array_equal(logits, expected)
        assert_same_state(state, expected_state)


@pytest.mark.parametrize(
    ("n_layer", "n_embd", "dim_ffn", "vocab_size"),
    [(1, 8, 8, 3), (3, 40, 56, 11), (2, 72, 288, 130), (5, 24, 96, 257)],
)  # fmt: skip
def test_odd_sizes_agree_with_the_numpy_graph(tmp_path, n_layer, n_embd, dim_ffn, vocab_size):
    arrays = random_parameters(np.random.default_rng(n_embd), n_layer, n_embd, dim_ffn, vocab_size)
    path = write_model(tmp_path / "odd.bin", arrays)
    tokens = np.arange(20) % vocab_size
    expected, expected_state = load(path, RWKV4).forward(tokens, full_output=True)
    logits, state = load(path).forward(tokens, full_output=True)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(state.shift, expected_state.shift, rtol=1e-4, atol=1e-4)
    assert state.wkv.shape == expected_state.wkv.shape


def test_a_state_can_pass_between_both_graphs(golden, official):
    tokens = official["tokens"]
    numpy_graph, fused = load(golden("FP32.bin"), RWKV4), load(golden("FP32.bin"))
    _, state = numpy_graph.forward(tokens[:24])
    logits, _ = fused.forward(tokens[24:], state, full_output=True)
    np.testing.assert_allclose(logits, official["logits"][24:], rtol=0, atol=2e-5)


def test_forward_leaves_the_state_it_is_given(tiny_model):
    model = load(tiny_model)
    _, state = model.forward([1, 2, 3])
    before = state.copy()
    _, after = model.forward([4, 5], state)
    assert_same_state(state, before)
    assert not np.shares_memory(after.wkv, state.wkv) and (after.wkv != state.wkv).any()


def test_logits_belong_to_the_caller(tiny_model):
    model = load(tiny_model)
    first, _ = model.forward([1, 2])
    kept = first.copy()
    model.forward([3, 4])
    np.testing.assert_array_equal(first, kept)


def test_threads_of_python_may_share_models(golden, official):
    models = [load(golden("Q4_1.bin")), load(golden("Q8_0.bin"))]
    expected = [model.forward(official["tokens"], full_output=True)[0] for model in models]
    wrong = []

    def read(i):
        for _ in range(20):
            logits, _ = models[i % 2].forward(official["tokens"], full_output=True)
            if (logits != expected[i % 2]).any():
                wrong.append(i)

    workers = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_head_in_q8_0_is_close_and_smaller(golden, official):
    exact, small = load(golden("Q4_1.bin")), load(golden("Q4_1.bin"), head_q8_0=True)
    logits, _ = exact.forward(official["tokens"], full_output=True)
    rounded, _ = small.forward(official["tokens"], full_output=True)
    assert 0 < np.abs(rounded - logits).mean() < 0.01 * np.abs(logits).mean()
    assert small.n_bytes_per_token < exact.n_bytes_per_token


def test_a_head_made_in_q8_0_is_let_go_once_it_is_packed(golden, official, monkeypatch):
    """It takes 285 MB in a 7.2B model, in addition to all packed weights."""
    kept, alive = [], []
    pack, loaded = packing.pack, engine.head.loaded

    def watched_pack(raw, *args):
        alive.append(kept[0]() is not None)
        pack(raw, *args)

    def watched_head(*args):
        head = loaded(*args)
        kept.append(weakref.ref(head.stored.data))
        return head

    monkeypatch.setattr(packing, "pack", watched_pack)
    monkeypatch.setattr(engine.head, "loaded", watched_head)
    load(golden("Q4_1.bin"), head_q8_0=True)
    assert alive[0] and not any(alive[1:])


def test_huge_keys_do_not_overflow(tmp_path):
    arrays = random_parameters(np.random.default_rng(3))
    for name in arrays:
        if name.endswith("att.key.weight"):
            arrays[name] *= 1e4
    logits, _ = load(write_model(tmp_path / "huge.bin", arrays)).forward(list(range(50)))
    assert np.isfinite(logits).all()


def test_loading_tells_how_far_it_is(golden):
    told = []
    load(golden("Q4_1.bin"), progress=lambda *step: told.append(step))
    assert told[0] == ("compiling kernels", 0, 2) and ("loading", 15, 15) in told


def test_impossible_thread_counts_are_refused(tiny_model):
    with pytest.raises(InputError, match="threads is 0"):
        load(tiny_model, threads=0)
    with pytest.raises(InputError, match="set NUMBA_NUM_THREADS=9999"):
        load(tiny_model, threads=9999)


@pytest.mark.parametrize(("type_name", "version"), [("Q4_1", 101), ("Q4_1_O", 100), ("FP16", 101)])
def test_synthetic_models_can_be_run(tmp_path, type_name, version):
    model = load(write_synthetic(tmp_path / "toy.bin", "toy", type_name, version))
    logits, _ = model.forward([1, 2, 3])
    assert model.config.data_type == type_name and np.isfinite(logits).all() and logits.std() > 0

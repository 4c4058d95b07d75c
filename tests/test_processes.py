"""Models in several processes: forked after loading, or passed as a path and options."""

import concurrent.futures
import copy
import itertools
import multiprocessing
import pickle
import subprocess
import sys
from multiprocessing import get_context

import numba
import numpy as np
import pytest
from rwkv_np.kernels import region
from rwkv_np.kernels.matmul import PackedMatrix
from rwkv_np.kernels.threads import most_threads

import rwkv_np
from rwkv_np import demo
from rwkv_np.errors import InputError
from rwkv_np.files.format import read_model_file
from rwkv_np.models import Run
from rwkv_np.sampler import Sampler, choose_many
from rwkv_np.sampling import SamplingParams

PATIENCE = 300  # seconds; a child may have to compile, and one that hangs never ends
THREADS = min(2, most_threads())

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12, processes with threads
can_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")

_MODEL = None  # inherited by forked children


def read_inherited(tokens):
    return _MODEL.forward(tokens)[0]


def load_and_read(path, tokens):
    return rwkv_np.load(path, threads=THREADS).forward(tokens)[0], region.is_alone()


def choose_rows(logits):
    return choose_many([Sampler(SamplingParams(seed=i)) for i in range(len(logits))], logits, THREADS)


def results(method, function, *arguments):
    """function(*each) for each of the arguments, by two processes."""
    with get_context(method).Pool(2) as pool:
        return pool.starmap_async(function, arguments).get(PATIENCE)


@pytest.fixture
def model(tiny_model, monkeypatch):
    """A model that has started threads in this process."""
    model = rwkv_np.load(tiny_model, threads=THREADS)
    model.forward([1, 2])
    assert numba.threading_layer()
    monkeypatch.setitem(globals(), "_MODEL", model)
    return model


PROMPTS = [[1], [2, 3], list(range(200))]


@can_fork
def test_a_forked_pool_reads_with_the_model_that_was_loaded_before(model):
    found = results("fork", read_inherited, *((prompt,) for prompt in PROMPTS))
    for prompt, logits in zip(PROMPTS, found):
        np.testing.assert_array_equal(logits, model.forward(prompt)[0])
    assert not region.is_alone()


@can_fork
def test_a_forked_child_can_load_a_model(model, tiny_model):
    for logits, is_alone in results("fork", load_and_read, (tiny_model, [1, 2])):
        np.testing.assert_array_equal(logits, model.forward([1, 2])[0])
        assert is_alone


@can_fork
def test_a_forked_child_chooses_the_same_tokens(model):
    logits = np.random.default_rng(0).standard_normal((4, 50_000)).astype(np.float32)
    assert results("fork", choose_rows, (logits,)) == [choose_rows(logits)]


@can_fork
def test_a_child_forked_before_threads_were_started_can_use_threads(tiny_model):
    code = f"""if True:
        import os, sys, rwkv_np
        from rwkv_np.kernels import region
        if os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
        rwkv_np.load({str(tiny_model)!r}, threads={THREADS}).forward(1)
        os._exit(10 + region.is_alone())
    """
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == 10


@can_fork
def test_a_fork_waits_for_the_pass_of_another_thread(model):
    """Otherwise the child would have a lock that is never released."""
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        reading = other.submit(lambda: [model.forward(list(range(256)) * 4) for _ in range(10)])
        found = results("fork", read_inherited, *[([1],)] * 4)
        reading.result(PATIENCE)
    for logits in found:
        np.testing.assert_array_equal(logits, model.forward([1])[0])


# --- passed to another process


def read_with(model, tokens):
    return model.forward(tokens)[0]


def go_on(model, state, tokens):
    return model.advance(tokens, state)


def encode_with(tokenizer, text):
    return tokenizer.encode(text), tokenizer.decode(tokenizer.encode(text))


METHODS = [name for name in ("spawn", "forkserver") if name in multiprocessing.get_all_start_methods()]


@pytest.mark.parametrize("method", METHODS)
def test_a_model_and_a_state_are_handed_to_another_process(model, method):
    _, state = model.forward([9, 8])
    expected = model.forward([1, 2], state)[0]
    with get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(go_on, (model, state, [1, 2])).get(PATIENCE), expected)


@pytest.mark.parametrize("options", [{}, {"engine": "numpy"}, {"head_q8_0": True, "threads": 1}])
def test_a_pickled_model_is_its_path_and_options(tiny_model, options, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    model = rwkv_np.load(tiny_model.name, **options)
    data = pickle.dumps(model)
    assert len(data) < 500
    monkeypatch.chdir("/")
    other = pickle.loads(data)
    assert type(other) is type(model) and other.config == model.config
    np.testing.assert_array_equal(read_with(other, [1, 2, 3]), read_with(model, [1, 2, 3]))
    assert pickle.dumps(other) == data


def test_a_copy_of_a_model_is_the_model(tiny_model):
    model = rwkv_np.load(tiny_model)
    assert copy.copy(model) is model and copy.deepcopy({"model": model})["model"] is model


def test_a_model_of_no_file_is_refused_in_one_line(tiny_model):
    model = rwkv_np.load(tiny_model)
    other = type(model)(model.config, read_model_file(tiny_model).parameters)
    with pytest.raises(InputError, match="a model not made by rwkv_np.load cannot be pickled"):
        pickle.dumps(other)


def test_a_packed_matrix_is_refused_in_one_line():
    matrix = PackedMatrix.from_file(np.zeros((32, 128), np.uint8), "FP32", 32)
    with pytest.raises(TypeError, match="contains addresses in this process"):
        pickle.dumps(matrix)


def other_by(how, value):
    return pickle.loads(pickle.dumps(value)) if how == "pickle" else getattr(copy, how)(value)


HOW = pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy"])


@HOW
def test_another_state_is_one_of_this_model_and_shares_nothing(tiny_model, how):
    model = rwkv_np.load(tiny_model)
    _, state = model.forward([1, 2])
    other = other_by(how, state)
    np.testing.assert_array_equal(model.advance(3, other), model.forward(3, state)[0])
    assert not np.shares_memory(other.data, state.data)


@HOW
def test_another_pool_has_the_same_slots_and_shares_nothing(tiny_model, how):
    model = rwkv_np.load(tiny_model)
    pool = model.new_pool(2)
    slot = pool.take(model.forward([1, 2])[1])
    other = other_by(how, pool)
    expected = model.forward(3, pool.state(slot))[0]
    np.testing.assert_array_equal(model.read([Run(3, slot)], other), [expected])
    np.testing.assert_array_equal(model.read([Run(3, slot)], pool), [expected])
    other.take()
    assert pool.n_free == 1 and other.n_free == 0


@HOW
@pytest.mark.parametrize("name", ["bytes", "world", "demo"])
def test_another_tokenizer_gives_the_same_ids(name, how):
    path = demo.MODEL.with_suffix(".tokenizer.json") if name == "demo" else name
    tokenizer = rwkv_np.load_tokenizer(path)
    other = other_by(how, tokenizer)
    text = "Grüße, 🦙!\n\n"
    assert encode_with(other, text) == encode_with(tokenizer, text)
    assert (other.name, other.vocab_size) == (tokenizer.name, tokenizer.vocab_size)


@pytest.mark.parametrize("name", ["world", str(demo.MODEL.with_suffix(".tokenizer.json"))])
def test_a_tokenizer_is_handed_to_another_process(name):
    tokenizer = rwkv_np.load_tokenizer(name)
    with get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(encode_with, (tokenizer, "Grüße!")).get(PATIENCE)
    assert found == encode_with(tokenizer, "Grüße!")


@HOW
def test_settings_and_configs_are_the_same_elsewhere(tiny_model, how):
    params = SamplingParams(seed=3, stop=("\n",), logit_bias={1: -np.inf})
    assert other_by(how, params) == params
    config = rwkv_np.load(tiny_model).config
    assert other_by(how, config) == config


@HOW
@pytest.mark.parametrize("n_pieces", [0, 2])
def test_a_completion_is_refused_in_one_line_and_goes_on(tiny_model, how, n_pieces):
    completion = rwkv_np.generate(
        rwkv_np.load(tiny_model), rwkv_np.load_tokenizer("bytes"), "Hello", SamplingParams(seed=1, max_tokens=20)
    )
    begun = list(itertools.islice(completion, n_pieces))
    with pytest.raises(InputError, match="a running completion cannot be copied or pickled"):
        other_by(how, completion)
    assert "".join([*begun, *completion]) == completion.text

"""Models in several processes: forked after they were loaded, or handed over as a path and options."""

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numba
import numpy as np
import pytest
from rwkv_np.kernels import region
from rwkv_np.kernels.threads import most_threads

import rwkv_np
from rwkv_np.sampling import Sampler, SamplingParams, choose_many

PATIENCE = 300  # seconds, in which a child may compile; one that hangs does so for ever
THREADS = min(2, most_threads())

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12, where there are threads
can_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing forks here")

_MODEL = None  # what forked children find


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
    """A model that has entered a parallel region in this process."""
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
def test_who_forks_before_any_thread_was_started_may_have_threads_of_its_own(tiny_model):
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
    """Else the child has a lock that nobody will ever release."""
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        reading = other.submit(lambda: [model.forward(list(range(256)) * 4) for _ in range(10)])
        found = results("fork", read_inherited, *[([1],)] * 4)
        reading.result(PATIENCE)
    for logits in found:
        np.testing.assert_array_equal(logits, model.forward([1])[0])

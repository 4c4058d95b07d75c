"""Every argument is accepted, or refused in one line that says what was expected; no other error occurs."""

import math
import warnings
import zipfile

import numpy as np
import pytest
from conftest import GOLDEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rwkv_np
from rwkv_np import SamplingParams
from rwkv_np.errors import InputError, RwkvError, StateFileError
from rwkv_np.models import Run
from rwkv_np.sampler import Sampler, choose_many

FP16 = GOLDEN / "golden-4v0.FP16.bin"


class Hostile:
    """Raises an error when converted to an array."""

    def __array__(self, *arguments, **options):
        raise RuntimeError("call detach() first")


def refuses(call, *arguments, match=None, **options):
    """The call raises one of our errors, in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=match) as caught:
            call(*arguments, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.fixture
def model(tiny_model):
    return rwkv_np.load(tiny_model)


@pytest.fixture
def tokenizer():
    return rwkv_np.load_tokenizer("bytes")


# --- ids

NO_IDS = {
    "nothing": None, "no ids": [], "float": 1.0, "floats": [1.0, 2.0], "rows": [[1], [2]], "ragged": [[1], [2, 3]],
    "bool": True, "bools": [True, False], "text": "abc", "bytes": b"abc", "huge": 2**70, "hugest": [1, 2**64],
    "mixed": [-1, 2**63], "negative": -1, "beyond": [1, 256], "uint64": np.uint64(2**63 + 5), "set": {1, 2},
    "objects": np.array([1, 2], object), "times": np.array([1], "m8[s]"), "complex": 1j, "foreign": Hostile(),
    "dict": {1: 2}, "generator": (i for i in [1]), "deep": np.zeros((1, 1, 1), int),
    "masked": np.ma.array([1, 999], mask=[0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("ids", NO_IDS.values(), ids=NO_IDS.keys())
def test_invalid_ids_are_refused_and_change_nothing(model, tokenizer, ids):
    state = model.forward([5])[1]
    pool = model.new_pool(1)
    pool.take(state)
    before = state.data.copy()
    refuses(model.forward, ids)
    refuses(model.advance, ids, state)
    refuses(model.read, [Run(ids, 0)], pool)
    if not isinstance(ids, str):
        refuses(lambda: list(rwkv_np.generate(model, tokenizer, ids)))
    np.testing.assert_array_equal(state.data, before)
    np.testing.assert_array_equal(pool.data[0], before)


IDS = [
    [3, 4], (3, 4), range(3, 5), np.array([3, 4], np.uint8), np.array([3, 4], np.uint64), np.array([3, 4], ">i2"),
    np.array([3, 0, 4, 0])[::2], np.array([4, 3], np.int8)[::-1], np.frombuffer(bytes([3, 4]), np.uint8),
    [np.int8(3), 4],
]  # fmt: skip


@pytest.mark.parametrize("ids", IDS, ids=lambda ids: type(ids).__name__)
def test_ids_of_every_kind_of_integers_are_read(model, tokenizer, ids):
    expected = model.forward([3, 4])[0]
    np.testing.assert_array_equal(model.forward(ids)[0], expected)
    completion = rwkv_np.generate(model, tokenizer, ids, SamplingParams(max_tokens=1, temperature=0, stop_ids=()))
    list(completion)
    assert completion.prompt == (3, 4) and all(type(token) is int for token in completion.prompt)
    for one in (4, np.int16(4), np.array(4, np.uint8)):
        np.testing.assert_array_equal(model.forward(one)[0], model.forward([4])[0])


# --- states and pools


@pytest.mark.parametrize("state", [{}, [], 5, "state", np.zeros(3, np.float32), object()], ids=repr)
def test_an_object_that_is_not_a_state_is_refused(model, tokenizer, state):
    for read in (model.forward, model.advance):
        refuses(read, 1, state, match="expected a State")
    refuses(model.new_pool(1).take, state, match="expected a State")
    refuses(rwkv_np.generate, model, tokenizer, "x", None, state, match="expected a State")
    refuses(model.advance, 1, None, match="expected a State")


def test_a_read_only_state_is_read_but_never_written_to(model):
    state = model.initial_state()
    state.data.flags.writeable = False
    np.testing.assert_array_equal(model.forward(1, state)[0], model.forward(1)[0])
    refuses(model.advance, 1, state, match="the state is read-only")
    pool = model.new_pool(1)
    pool.take(state)
    np.testing.assert_array_equal(model.read([Run(1, 0)], pool)[0], model.forward(1)[0])


CHANGES = {
    "float64": lambda x: x.astype(np.float64), "bytes": lambda x: x.view(np.uint8),
    "big-endian": lambda x: x.astype(">f4"), "list": lambda x: x.tolist(), "none": lambda x: None,
    "columns": lambda x: np.asfortranarray(np.repeat(x, 2, 0)), "strided": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "short": lambda x: x[:, :-1], "flat": lambda x: x.reshape(-1),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_pool_whose_memory_was_replaced_is_refused(model, change):
    pool = model.new_pool(2)
    pool.take()
    pool.data = change(pool.data)
    refuses(model.read, [Run(1, 0)], pool)


@pytest.mark.parametrize("slot", [1.0, "0", None, True, math.nan, [0], 2**70, -1, 3])
def test_an_invalid_slot_is_refused(model, slot):
    pool = model.new_pool(3)
    for _ in range(3):
        pool.take()
    refuses(model.read, [Run(1, slot)], pool, match="slot")
    for call in (pool.release, pool.state):
        refuses(call, slot, match="slot")
    assert pool.n_free == 0


def test_a_small_numpy_integer_selects_its_slot(model):
    """n_bytes * np.int8(2) would overflow to another place in memory."""
    pool = model.new_pool(3)
    for state in (None, None, model.forward([1, 2])[1]):
        pool.take(state)
    expected = model.forward(3, pool.state(2))[0]
    np.testing.assert_array_equal(model.read([Run(3, np.int8(2))], pool)[0], expected)


def test_invalid_runs_and_pools_are_refused(model):
    pool = model.new_pool(1)
    pool.take()
    for runs in (None, Run(1, 0), [(1, 0)], [5], 5, "runs"):
        refuses(model.read, runs, pool, match="run")
    for wants in (None, 1, ["last"], np.array(["last"])):
        refuses(model.read, [Run(1, 0, wants)], pool, match="wants")
    for other in (None, {}, pool.data):
        refuses(model.read, [Run(1, 0)], other, match="the pool is")
    for n_slots in (0, -1, 1.5, "2", None, True, 2**62):
        refuses(model.new_pool, n_slots, match="n_slots is")


def saved(path, layout, **changes):
    parts = {name: np.zeros(place.shape, np.float32) for name, place in layout.places.items()} | changes
    np.savez_compressed(path, **({"architecture": np.array("v4")} | parts))
    return path


def test_a_saved_state_of_other_values_is_refused(model, tmp_path):
    layout = model.state_layout
    saved(tmp_path / "good.npz", layout)
    rwkv_np.load_state(tmp_path / "good.npz", model.config)
    shape = layout.places["wkv"].shape
    for value in (math.nan, math.inf):
        wkv = np.full(shape, value, np.float32)
        with pytest.raises(StateFileError, match="wkv holds 192 values of [0-9]+ that are not finite"):
            rwkv_np.load_state(saved(tmp_path / "s.npz", layout, wkv=wkv), model.config)
    for wkv in (np.zeros(shape, "c8"), np.zeros(shape, "U3")):
        with pytest.raises(StateFileError, match="expected float32"):
            rwkv_np.load_state(saved(tmp_path / "s.npz", layout, wkv=wkv), model.config)
    for wkv in (np.array([{}]), np.zeros(shape, "V9000"), np.zeros((0,)), np.zeros(shape[1:], np.float32)):
        with pytest.raises(StateFileError):
            rwkv_np.load_state(saved(tmp_path / "s.npz", layout, wkv=wkv), model.config)


def test_an_array_with_a_huge_header_is_refused_unread(model, tmp_path):
    path = saved(tmp_path / "s.npz", model.state_layout)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["wkv.npy"] = members["wkv.npy"].replace(b"(2, 3, 32), ", b"(549755813888,), ")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(StateFileError):
        rwkv_np.load_state(path, model.config)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_saved_state_is_refused_or_finite(model, tmp_path, data):
    path = saved(tmp_path / "s.npz", model.state_layout)
    found = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(found[: data.draw(st.one_of(st.just(len(found)), st.integers(0, len(found))))])
    try:
        state = rwkv_np.load_state(path, model.config)
    except StateFileError:
        return
    assert np.isfinite(model.forward(1, state)[0]).all()


# --- load


@pytest.mark.parametrize(
    "options",
    [{"threads": "2"}, {"threads": 0}, {"threads": -1}, {"threads": 1.0}, {"threads": True}, {"threads": 10**6},
     {"engine": None}, {"engine": ["numpy"]}, {"engine": "cuda"}, {"head_q8_0": "no"}, {"head_q8_0": 1},
     {"head_epsilon": "1e-5"}, {"head_epsilon": math.nan}, {"head_epsilon": -1}],
    ids=str,
)  # fmt: skip
def test_options_of_load_are_checked(tiny_model, options):
    refuses(rwkv_np.load, tiny_model, match=f"{next(iter(options))} is", **options)


@pytest.mark.parametrize("path", [None, 5, b"m.bin", "", "a\0b", ["m.bin"]], ids=repr)
def test_an_invalid_path_is_refused(model, path, tmp_path):
    refuses(rwkv_np.load, path, match="path is")
    refuses(rwkv_np.load_state, path, model.config, match="path is")
    refuses(rwkv_np.load_time_state, path, model.config, match="path is")
    refuses(rwkv_np.convert, path, tmp_path / "x", match="source is")
    refuses(rwkv_np.quantize, tmp_path / "x", path, "Q4_1", match="destination is")
    if path is not None:
        refuses(rwkv_np.load_tokenizer, path, match="path is")


def test_a_model_in_place_of_its_config_is_refused(model, tmp_path):
    refuses(rwkv_np.load_state, tmp_path / "s", model, match="config is")
    refuses(rwkv_np.load_time_state, tmp_path / "s", model, match="config is")


# --- settings


@pytest.mark.parametrize(
    "options",
    [{"temperature": None}, {"temperature": "1"}, {"temperature": math.nan}, {"temperature": math.inf},
     {"temperature": -0.1}, {"temperature": True}, {"temperature": [1]}, {"temperature": 10**400},
     {"temperature": 10**5000}, {"seed": -(10**5000)}, {"top_p": None},
     {"top_p": 1.1}, {"top_p": math.nan}, {"top_k": 2.5}, {"top_k": -1}, {"top_k": "5"}, {"min_p": None},
     {"presence_penalty": math.nan}, {"frequency_penalty": "0"}, {"penalty_decay": 2}, {"max_tokens": 0},
     {"max_tokens": None}, {"max_tokens": 2.0}, {"max_tokens": math.inf}, {"seed": -1}, {"seed": 1.5}, {"seed": "1"},
     {"seed": True}, {"stop": ""}, {"stop": "text"}, {"stop": None}, {"stop": ("",)}, {"stop": [1]}, {"stop": (b"x",)},
     {"stop_ids": 0}, {"stop_ids": None}, {"stop_ids": (0.0,)}, {"stop_ids": (-1,)}, {"stop_ids": "0"},
     {"not_first": 5}, {"not_first": {"a"}}, {"logit_bias": None}, {"logit_bias": [(1, 1.0)]},
     {"logit_bias": {1: None}},
     {"logit_bias": {1: math.nan}}, {"logit_bias": {1: math.inf}}, {"logit_bias": {1: 1e300}}, {"logit_bias": {"a": 1}},
     {"logit_bias": {-1: 1}}, {"logit_bias": {2**70: 1}}, {"logit_bias": {1.5: 1}}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_settings_are_checked(options):
    refuses(SamplingParams, match=next(iter(options)), **options)


def test_settings_of_numpy_are_taken():
    params = SamplingParams(
        temperature=np.float32(0.5), top_k=np.int64(5), seed=np.uint8(3), stop=["\n"], stop_ids=[np.int32(1)],
        logit_bias={np.int64(2): -np.inf, 1: 5},
    )  # fmt: skip
    assert Sampler(params).choose(np.array([0, 1, 9], np.float32)) in (0, 1)


def test_generate_names_the_invalid_argument(model, tokenizer):
    refuses(rwkv_np.generate, tokenizer, model, "x", match="model is")
    refuses(rwkv_np.generate, model, model, "x", match="tokenizer is")
    refuses(rwkv_np.generate, model, tokenizer, "x", {"top_p": 1}, match="params is")
    refuses(rwkv_np.generate, model, tokenizer, "", match="the prompt is empty")


NO_LOGITS = [
    None, "logits", [], [[1.0, 2.0]], [[1.0], [2.0, 3.0]], np.zeros((0,), np.float32), np.zeros(3, "c8"), np.array(1.0),
    np.array([1, 2], object), np.array([True, False]), Hostile(), [math.nan, 1.0], [math.inf, 1.0], [-math.inf] * 2,
]  # fmt: skip


@pytest.mark.parametrize("logits", NO_LOGITS, ids=lambda logits: repr(logits)[:20])
def test_invalid_logits_are_refused(logits):
    refuses(Sampler(SamplingParams()).choose, logits)
    refuses(choose_many, [Sampler(SamplingParams())] * 2, logits)


KINDS = [list, lambda x: x.astype(">f4"), lambda x: np.repeat(x, 2)[::2], np.float64, np.float16]


@pytest.mark.parametrize("change", KINDS)
def test_logits_of_every_kind_are_read(change):
    logits = np.array([0.5, 3.0, 1.0, 2.5], np.float32)
    assert Sampler(SamplingParams(temperature=0)).choose(change(logits)) == 1


def test_arguments_of_samplers_are_checked():
    logits = np.zeros((1, 3), np.float32)
    for threads in (0, "2", 1.5, 10**6):
        refuses(choose_many, [Sampler(SamplingParams())], logits, threads, match="threads is")
    for said in ([1.5], ["a"], [2**80], [True]):
        refuses(Sampler, SamplingParams(), said, match="a token id that was said is")
    refuses(Sampler, {"top_p": 1}, match="params is")


# --- tokenizers


def test_arguments_of_tokenizers_are_checked(tokenizer):
    for size in (0, -1, 2.5, "256", True):
        refuses(rwkv_np.load_tokenizer, vocab_size=size, match="vocab_size is")
        refuses(rwkv_np.load_tokenizer, "bytes", size, match="vocab_size is")
    for text in (None, 5, b"abc", ["a"]):
        refuses(tokenizer.encode, text, match="the text is")
    for token in (1.0, "a", None, True, -1, 256, 2**80):
        refuses(tokenizer.token_bytes, token, match="token")
        refuses(tokenizer.decode, [1, token], match="token")
    refuses(tokenizer.decode, 5, match="tokens is 5")
    assert tokenizer.decode(np.array([72, 105], np.uint8)) == "Hi"


def test_bytes_of_every_kind_are_cut():
    world = rwkv_np.load_tokenizer("world")
    expected = world.encode_bytes(b"Hello")
    assert world.encode_bytes(bytearray(b"Hello")) == world.encode_bytes(memoryview(b"Hello")) == expected
    for data in ("Hello", 5, None, [1, 2]):
        refuses(world.encode_bytes, data, match="the data is")


# --- conversion and quantization


def test_arguments_of_conversions_are_checked(tmp_path):
    for data_type in ("Q4_1", "FP64", "fp16", None, 1, ["FP16"]):
        refuses(rwkv_np.convert, FP16, tmp_path / "x", data_type, match="data_type is")
    for options in ({"threads": 0}, {"threads": "2"}, {"overwrite": "no"}, {"keep": 5}, {"keep": ["head.weight"]},
                    {"keep": [("head.weight",)]}, {"keep": [(1, "Q8_0")]}):  # fmt: skip
        refuses(rwkv_np.quantize, FP16, tmp_path / "x", "Q4_1", match=next(iter(options)), **options)
    for data_type in (None, 9, ["Q4_1"], "Q9"):
        refuses(rwkv_np.quantize, FP16, tmp_path / "x", data_type, match="unknown data type")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(), inner, max_size=2), max_leaves=6,
))  # fmt: skip
def test_any_value_is_taken_or_refused(model, tokenizer, value):
    for call in (
        lambda: model.forward(value), lambda: tokenizer.decode(value), lambda: SamplingParams(stop_ids=value),
        lambda: SamplingParams(temperature=value, top_k=value, seed=value, logit_bias=value, stop=value),
        lambda: Sampler(SamplingParams()).choose(value), lambda: model.new_pool(1).release(value),
        lambda: list(rwkv_np.generate(model, tokenizer, value, SamplingParams(max_tokens=1))),
    ):  # fmt: skip
        try:
            call()
        except RwkvError:
            pass

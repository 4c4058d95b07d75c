"""The NumPy graph against logits that other programs computed."""

import warnings

import numpy as np
import pytest
from conftest import GOLDEN, official_package, random_parameters, shared_file, write_model
from rwkv_np.kernels.threads import most_threads

import rwkv_np
from rwkv_np.errors import FormatError, InputError
from rwkv_np.files.format import Header, write_header, write_parameter_header
from rwkv_np.files.quants import by_name

ENGINES = ("numpy", "fused")

# Mean |difference| from the official package's float32 logits: the limit for each type.
BOUNDS = {
    "FP16": 4.1e-4, "Q8_0": 0.0172, "Q5_1": 0.0757, "Q5_0": 0.1046, "Q4_1": 0.165, "Q4_0": 0.217,
    "v100-FP16": 4.1e-4, "v100-Q4_1_O": 0.107, "v100-Q4_1": 0.208, "v100-Q4_0": 0.304,
}  # fmt: skip


@pytest.fixture(scope="module")
def official():
    return np.load(GOLDEN / "logits.rwkv-pip-fp32.npz")


def token_by_token(model, tokens):
    rows, state = [], None
    for token in tokens:
        logits, state = model.forward(int(token), state)
        rows.append(logits)
    return np.stack(rows), state


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_agrees_with_the_official_package(golden, official, engine):
    logits, _ = token_by_token(rwkv_np.load(golden("FP32.bin"), engine=engine), official["tokens"])
    np.testing.assert_allclose(logits, official["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("end", BOUNDS)
def test_each_type_loses_no_more_than_in_rwkv_cpp(golden, official, end, engine):
    model = rwkv_np.load(golden(f"{end}.bin"), engine=engine, head_q8_0=False)  # as in rwkv.cpp
    logits, _ = token_by_token(model, official["tokens"])
    assert np.abs(logits - official["logits"]).mean() <= BOUNDS[end]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("end", ["FP32", *BOUNDS])
def test_a_sequence_gives_what_its_tokens_give_one_by_one(golden, official, end, engine):
    model = rwkv_np.load(golden(f"{end}.bin"), engine=engine)
    logits, state = model.forward(official["tokens"], full_output=True)
    expected, expected_state = token_by_token(model, official["tokens"])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(state.wkv, expected_state.wkv, rtol=0, atol=1e-4)
    np.testing.assert_allclose(state.shift, expected_state.shift, rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("end", "is_q8_0"), [("FP16", False), ("Q4_1", True), ("v100-Q4_1_O", True)])
def test_a_quantized_model_has_an_8_bit_head_by_default(golden, end, is_q8_0, engine):
    logits = {
        head_q8_0: rwkv_np.load(golden(f"{end}.bin"), engine=engine, head_q8_0=head_q8_0).forward([1, 2])[0]
        for head_q8_0 in (None, False, True)
    }
    np.testing.assert_array_equal(logits[None], logits[is_q8_0])
    assert (logits[True] != logits[False]).any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [1e7, 1e30, -np.inf, np.nan])
def test_a_head_too_large_for_q8_0_stays_as_in_the_file(tmp_path, engine, value):
    """The scale of its block would be infinite in FP16, and NumPy would warn."""
    arrays = random_parameters(np.random.default_rng(0))
    arrays["head.weight"][5, 3] = value
    path = write_model(tmp_path / "m.bin", arrays, "FP32")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        logits = [rwkv_np.load(path, engine=engine, head_q8_0=q).forward([1, 2])[0] for q in (True, False)]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("architecture", ["v5.1", "v5.2", "v6"])
def test_a_vector_of_heads_may_be_of_any_type(tmp_path, architecture):
    """rwkv.cpp's converter writes FP32; files of a program that writes FP16 are read, too."""
    sizes = {"head_size": 16} | ({"ranks": (32, 32)} if architecture == "v6" else {})
    arrays = random_parameters(np.random.default_rng(0), 1, architecture=architecture, **sizes)
    path = tmp_path / "m.bin"
    with open(path, "wb") as file:
        write_header(file, Header(101, 256, 32, 1, 0))
        for name, x in arrays.items():
            stored = by_name("FP16" if name.endswith("time_faaaa") else "FP32")
            write_parameter_header(file, name, x.shape, stored)
            file.write(stored.format.encode(x.reshape(-1, 1)).tobytes())
    logits = [rwkv_np.load(path, engine=engine).forward([1, 2, 3])[0] for engine in ENGINES]
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("end", "bound"), [("FP32", 0.001), ("FP16", 0.0143), ("Q5_1", 0.31)])
def test_the_trained_tiny_model_agrees_with_rwkv_cpp(end, bound, engine):
    path = shared_file(f"tiny-4v0/tiny-rwkv-4v0-660K-{end}.bin")
    expected = np.fromfile(shared_file("tiny-4v0/expected-logits-4v0-660K.bin"), "<f4")
    logits, _ = rwkv_np.load(path, engine=engine, head_q8_0=False).forward(list(b'"in'))
    assert abs((logits - expected).sum()) <= bound


@pytest.mark.parametrize(
    ("n_layer", "n_embd", "dim_ffn", "vocab_size"), [(1, 8, 8, 3), (3, 40, 56, 11), (2, 72, 288, 130), (5, 24, 96, 257)]
)  # fmt: skip
def test_fresh_random_checkpoints_agree_with_the_official_package(tmp_path, n_layer, n_embd, dim_ffn, vocab_size):
    torch = pytest.importorskip("torch")
    official = official_package()
    rng = np.random.default_rng(n_embd)
    arrays = random_parameters(rng, n_layer, n_embd, dim_ffn, vocab_size)
    tensors = {}
    for name, x in arrays.items():
        x = np.log(-x) if name.endswith("time_decay") else x
        tensors[name] = torch.from_numpy(x.reshape(1, 1, -1) if ".time_mix" in name else x)
    torch.save(tensors, tmp_path / "model.pth")
    rwkv_np.convert(tmp_path / "model.pth", tmp_path / "model.bin", "FP32")
    tokens = rng.integers(0, vocab_size, 20).tolist()

    expected, _ = official.RWKV(str(tmp_path / "model"), "cpu fp32", verbose=False).forward(
        tokens, None, full_output=True
    )
    for engine in ENGINES:
        logits, _ = rwkv_np.load(tmp_path / "model.bin", engine=engine).forward(tokens, full_output=True)
        np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-5, atol=2e-5)


def test_forward_leaves_the_state_it_is_given(tiny_model):
    model = rwkv_np.load(tiny_model)
    _, state = model.forward([1, 2, 3])
    before = state.copy()
    _, after = model.forward([4, 5], state)
    np.testing.assert_array_equal(state.wkv, before.wkv)
    np.testing.assert_array_equal(state.shift, before.shift)
    assert not np.shares_memory(after.wkv, state.wkv) and (after.wkv != state.wkv).any()


def test_logits_have_one_row_or_as_many_as_tokens(tiny_model):
    model = rwkv_np.load(tiny_model)
    one, _ = model.forward(7)
    last, _ = model.forward([7, 8, 9])
    every, _ = model.forward(np.array([7, 8, 9]), full_output=True)
    assert one.shape == last.shape == (256,) and every.shape == (3, 256)
    assert one.dtype == last.dtype == every.dtype == np.float32
    np.testing.assert_allclose(every[-1], last, atol=1e-5)


def test_huge_keys_do_not_overflow(tmp_path):
    arrays = random_parameters(np.random.default_rng(3))
    for name in arrays:
        if name.endswith("att.key.weight"):
            arrays[name] *= 1e4
    logits, _ = rwkv_np.load(write_model(tmp_path / "huge.bin", arrays)).forward(list(range(50)))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("tokens", [256, -1, [3, 256], [], [[1, 2]], 1.5, ["a"], None])
def test_tokens_that_cannot_be_are_refused(tiny_model, tokens):
    with pytest.raises(InputError, match="token"):
        rwkv_np.load(tiny_model).forward(tokens)


def test_a_token_out_of_range_is_named_with_its_place(tiny_model):
    with pytest.raises(InputError, match=r"token id 300 at position 1; this model's ids are 0 to 255"):
        rwkv_np.load(tiny_model).forward([1, 300])


def test_threads_must_be_positive_and_do_not_change_the_logits(tiny_model):
    with pytest.raises(InputError, match="threads is 0"):
        rwkv_np.load(tiny_model, threads=0)
    for engine in ENGINES:
        one, _ = rwkv_np.load(tiny_model, threads=1, engine=engine).forward([1, 2, 3])
        two, _ = rwkv_np.load(tiny_model, threads=min(2, most_threads()), engine=engine).forward([1, 2, 3])
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_an_unknown_engine_is_refused(tiny_model):
    with pytest.raises(InputError, match="engine is 'cuda'; expected fused or numpy"):
        rwkv_np.load(tiny_model, engine="cuda")


def test_config_tells_sizes_and_types(golden):
    config = rwkv_np.load(golden("Q4_1.bin")).config
    assert (config.n_layer, config.n_embd, config.dim_ffn, config.vocab_size) == (2, 64, 256, 101)
    assert (config.data_type, config.data_types, config.file_version) == ("Q4_1", ("FP32", "FP16", "Q4_1"), 101)


def broken(change):
    arrays = random_parameters(np.random.default_rng(0))
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("head.weight"), "lacks the parameter head.weight"),
        (lambda a: a.pop("blocks.1.att.key.weight"), "lacks the parameter blocks.1.att.key.weight"),
        (lambda a: a.update({"blocks.0.extra": np.zeros(4, np.float32)}), "contains the parameter blocks.0.extra"),
        (lambda a: a.update({"ln_out.bias": np.zeros(5, np.float32)}), r"ln_out.bias has the shape \(5,\); expected"),
        (lambda a: a.update({"blocks.0.att.ln_x.weight": np.zeros(4, np.float32)}), "lacks the parameter blocks.0.att"),
        (lambda a: a.update({"blocks.0.att.gate_w1": np.zeros(4, np.float32)}), "contains x060a"),
    ],
)
def test_wrong_parameters_are_named(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        rwkv_np.load(write_model(tmp_path / "broken.bin", broken(change)))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"n_layer": 3}, "the header says n_layer = 3, but the parameters have 2"),
        ({"n_layer": 2**31 - 1}, "the header says n_layer = 2147483647"),
        ({"n_embed": 64}, "the header says n_embed = 64, but the parameters have 32"),
        ({"n_vocab": 50277}, "the header says n_vocab = 50277, but the parameters have 256"),
        ({"n_layer": 0}, "the header has n_layer = 0"),
    ],
)
def test_a_header_that_disagrees_with_the_parameters_is_refused(tmp_path, header, message):
    arrays = random_parameters(np.random.default_rng(0))
    with pytest.raises(FormatError, match=message):
        rwkv_np.load(write_model(tmp_path / "broken.bin", arrays, **header))

"""RWKV-5.1 and 5.2 from the checkpoint to logits, against rwkv.cpp's files and the official package's logits."""

import json

import numpy as np
import pytest
import torch
from rwkv_np.kernels import dispatch
from versions import (
    ENGINES,
    FORMATS,
    Golden,
    check_agrees_with_the_official_package,
    check_both_engines_agree,
    check_company_and_cuts_change_no_bit,
    check_one_by_one_gives_the_same_bits,
    checksum,
    converted,
    extra,
    parameters,
    random_checkpoint,
    two_threads,
)

import rwkv_np
from rwkv_np.conversion.convert import convert
from rwkv_np.errors import CheckpointError, FormatError
from rwkv_np.evaluation import cost as costs
from rwkv_np.evaluation.candidate import candidate

VERSIONS = ("v5.1", "v5.2")
PATHS = dispatch.available_paths()
# (n_embd, head_size): heads that fill whole tiles, parts of a tile, or share tiles with others; a single head.
HEADS = [(128, 64), (96, 32), (40, 8), (144, 48), (60, 20), (21, 7), (48, 48)]


@pytest.fixture(scope="session", params=VERSIONS)
def golden(request, tmp_path_factory):
    return Golden(request.config.rootpath, tmp_path_factory.mktemp(request.param), request.param)


# --- convert and quantize --------------------------------------------------------------------------


@pytest.mark.parametrize("data_type", ["FP32", "FP16"])
def test_files_are_those_of_rwkv_cpp(golden, tmp_path, data_type):
    """The same bytes, except 5.2's decay: torch's exp differs in the last bit between processors."""
    path = tmp_path / "model.bin"
    convert(golden.checkpoint, path, data_type)
    data, theirs = path.read_bytes(), parameters(golden.file("FP16"))
    for name, p in parameters(path).items():
        if name.endswith("time_decay"):
            np.testing.assert_array_max_ulp(p.array(), theirs[name].array(), maxulp=1)
            data = data.replace(p.data.tobytes(), theirs[name].data.tobytes())
    assert checksum(data) == golden.sums[f"model-{data_type}.bin"]


def test_the_decay_is_what_torch_makes_of_it_here(golden, tmp_path):
    convert(golden.checkpoint, tmp_path / "model.bin")
    tensors = torch.load(golden.checkpoint, weights_only=True)
    for name, p in parameters(tmp_path / "model.bin").items():
        if name.endswith("time_decay"):
            expected = torch.exp(-torch.exp(tensors[name].float()))
            assert p.data.tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("data_type", FORMATS)
def test_quantized_files_are_those_of_rwkv_cpp(golden, data_type):
    assert checksum(golden.file(data_type).read_bytes()) == golden.sums[f"model-{data_type}.bin"]


def test_the_bytes_do_not_depend_on_how_many_rows_are_converted_at_a_time(golden, tmp_path, monkeypatch):
    convert(golden.checkpoint, tmp_path / "whole.bin")
    monkeypatch.setattr("rwkv_np.conversion.convert.CHUNK", 50)
    convert(golden.checkpoint, tmp_path / "pieces.bin")
    assert (tmp_path / "pieces.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()


def as_5_0_r2(seed=0, **sizes):
    """5.1 with a bonus that is not an exponent, under its other name."""
    tensors = random_checkpoint("v5.1", seed, **sizes)
    return {name.replace("time_first", "time_faaaa"): x for name, x in tensors.items()}


def as_official_5_1(seed=0, **sizes):
    """5.2 with one decay and one bonus for each head."""
    tensors = random_checkpoint("v5.2", seed, **sizes)
    return {n: x[:, 0].clone() if n.endswith(("time_decay", "time_faaaa")) else x for n, x in tensors.items()}


def test_the_bonus_of_5_0_r2_is_taken_as_it_is(tmp_path):
    tensors = as_5_0_r2()
    found = parameters(converted(tensors, tmp_path))
    bonus = found["blocks.1.att.time_first"]
    assert bonus.shape == (2, 1, 1)
    np.testing.assert_array_equal(bonus.array().reshape(-1), tensors["blocks.1.att.time_faaaa"])


def test_a_number_for_each_head_becomes_one_for_each_channel(tmp_path):
    tensors = as_official_5_1()
    found = parameters(converted(tensors, tmp_path, "FP16"))
    decay, bonus = (found[f"blocks.1.att.{name}"] for name in ("time_decay", "time_faaaa"))
    assert decay.shape == bonus.shape == (2, 32, 1) and decay.data_type.name == "FP32"
    expected = torch.exp(-torch.exp(tensors["blocks.1.att.time_decay"]))
    np.testing.assert_array_equal(decay.array()[..., 0], expected[:, None].expand(2, 32))
    np.testing.assert_array_equal(bonus.array()[..., 0], tensors["blocks.1.att.time_faaaa"][:, None].expand(2, 32))


def test_a_single_head_keeps_its_decay_when_the_rest_is_quantized(tmp_path, run_cli):
    source = converted(random_checkpoint("v5.2", n_embd=64, head_size=64), tmp_path, "FP16")
    assert parameters(source)["blocks.0.att.time_decay"].shape == (64, 1)  # as in rwkv.cpp's converter
    output = run_cli("quantize", source, tmp_path / "q.bin", "Q4_0").output
    assert "unchanged: rows of 1 are not a multiple of 32" in output
    types = {name: p.data_type.name for name, p in parameters(tmp_path / "q.bin").items()}
    assert types["blocks.0.att.time_decay"] == types["blocks.0.att.time_faaaa"] == "FP32"
    assert types["blocks.0.att.gate.weight"] == "Q4_0"
    rwkv_np.load(tmp_path / "q.bin").forward([1, 2, 3])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("n_head", [3, 5, 0])
def test_heads_that_cannot_share_the_channels_are_refused(tmp_path, version, n_head):
    tensors = random_checkpoint(version)
    for name in list(tensors):
        if name.endswith(("time_decay", "time_first", "time_faaaa")):
            tensors[name] = torch.zeros(n_head, *tensors[name].shape[1:])
    with pytest.raises(CheckpointError, match="time_decay has the shape"):
        converted(tensors, tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_missing_or_too_much_is_named(tmp_path, version):
    tensors = random_checkpoint(version)
    with pytest.raises(CheckpointError, match=rf"blocks.1.att.extra, which RWKV-{version[1:]} does not have"):
        converted(tensors | {"blocks.1.att.extra": torch.zeros(3)}, tmp_path)
    del tensors["blocks.1.att.ln_x.bias"]
    with pytest.raises(CheckpointError, match="lacks the parameter blocks.1.att.ln_x.bias"):
        converted(tensors, tmp_path)


def test_a_file_with_another_shape_is_refused(tmp_path):
    path = converted(random_checkpoint("v5.2"), tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"blocks.0.att.time_decay") - 12  # three numbers before the name: 1, 32, 2
    data[at : at + 12] = np.array([1, 16, 4], "<i4").tobytes()
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"time_decay has the shape \(4, 16, 1\)|time_faaaa has the shape"):
        rwkv_np.load(path)


# --- logits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("engine", ENGINES)
def test_float32_agrees_with_the_official_package(golden, monkeypatch, engine, path):
    monkeypatch.setenv(dispatch.ENV, path)
    model = rwkv_np.load(golden.file("FP32"), engine=engine)
    logits, state = model.forward(golden.logits["tokens"], full_output=True)
    np.testing.assert_allclose(logits, golden.logits["official"], rtol=0, atol=1.5e-5)
    expected = golden.state_parts(model.state_layout)
    for name, part in state.parts.items():
        np.testing.assert_allclose(part, expected[name], rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_with_its_epsilon_float32_agrees_with_rwkv_cpp(golden, engine):
    model = rwkv_np.load(golden.file("FP32"), engine=engine, head_epsilon=1e-5)
    logits, _ = model.forward(golden.logits["tokens"], full_output=True)
    np.testing.assert_allclose(logits, golden.logits["rwkvcpp_FP32"], rtol=0, atol=1.5e-5)
    assert np.abs(golden.logits["rwkvcpp_FP32"] - golden.logits["official"]).max() > 1e-3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("data_type", ["FP16", *FORMATS])
def test_each_type_loses_no_more_than_in_rwkv_cpp(golden, monkeypatch, data_type, path):
    monkeypatch.setenv(dispatch.ENV, path)
    model = rwkv_np.load(golden.file(data_type), head_q8_0=False)  # as in rwkv.cpp
    logits, _ = model.forward(golden.logits["tokens"], full_output=True)
    official = golden.logits["official"]
    theirs = np.abs(golden.logits[f"rwkvcpp_{data_type}"] - official).mean()
    assert np.abs(logits - official).mean() <= 1.05 * theirs


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["official-5.0-faaaa", "official-5.1"])
def test_the_other_kinds_of_checkpoint_agree_with_the_official_package(tmp_path, name, engine):
    source, expected = extra(name, tmp_path)
    convert(source, tmp_path / "model.bin", "FP32")
    logits, _ = rwkv_np.load(tmp_path / "model.bin", engine=engine).forward(expected["tokens"], full_output=True)
    np.testing.assert_allclose(logits, expected["official"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("n_embd", "head_size"), HEADS[:-1])  # the package loses the dimension of a single head
def test_fresh_random_checkpoints_agree_with_the_official_package(tmp_path, version, n_embd, head_size):
    sizes = dict(n_layer=3, n_embd=n_embd, head_size=head_size, dim_ffn=n_embd + 24, vocab_size=33)
    check_agrees_with_the_official_package(random_checkpoint(version, n_embd, **sizes), tmp_path)


@pytest.mark.parametrize("kind", [as_5_0_r2, as_official_5_1])
def test_fresh_checkpoints_of_the_other_kinds_agree_with_it_too(tmp_path, kind):
    check_agrees_with_the_official_package(kind(3, n_embd=96, head_size=32), tmp_path)


# --- the engine against itself and the NumPy graph --------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("n_embd", "head_size"), HEADS)
def test_heads_of_any_size_agree_with_the_numpy_graph(tmp_path, monkeypatch, version, n_embd, head_size, path):
    monkeypatch.setenv(dispatch.ENV, path)
    sizes = dict(n_embd=n_embd, head_size=head_size, dim_ffn=n_embd // 2, vocab_size=33)
    check_both_engines_agree(converted(random_checkpoint(version, 7, **sizes), tmp_path))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("data_type", ["FP32", "Q4_1"])
def test_other_sequences_cuts_and_threads_change_no_bit(golden, monkeypatch, data_type, path):
    monkeypatch.setenv(dispatch.ENV, path)
    models = [rwkv_np.load(golden.file(data_type), threads=threads) for threads in (two_threads(), 1)]
    for seed in range(4):
        check_company_and_cuts_change_no_bit(*models, seed)
    check_one_by_one_gives_the_same_bits(models[0], golden.logits["tokens"])


@pytest.mark.parametrize("version", VERSIONS)
def test_neither_do_they_where_heads_share_tiles(tmp_path, version):
    path = converted(random_checkpoint(version, n_embd=60, head_size=20), tmp_path)
    models = [rwkv_np.load(path, threads=threads) for threads in (two_threads(), 1)]
    check_company_and_cuts_change_no_bit(*models, 0)
    check_one_by_one_gives_the_same_bits(models[0], np.arange(13))


def test_a_state_can_pass_between_both_engines_and_a_file(golden, tmp_path):
    tokens = golden.logits["tokens"]
    numpy_graph, fused = (rwkv_np.load(golden.file("FP32"), engine=engine) for engine in ENGINES)
    _, state = numpy_graph.forward(tokens[:24])
    state.save(tmp_path / "s.state")
    state = rwkv_np.load_state(tmp_path / "s.state", fused.config)
    logits, _ = fused.forward(tokens[24:], state, full_output=True)
    np.testing.assert_allclose(logits, golden.logits["official"][24:], rtol=0, atol=2e-5)


# --- the epsilon of older models, by option ---------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """RWKV-5.2 with 256 tokens, where another epsilon makes a difference."""
    monkeypatch.setenv("RWKV_NP_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    return converted(random_checkpoint("v5.2", 3, vocab_size=256), tmp_path, "FP16")


def test_the_chat_takes_another_epsilon_and_its_chats_are_its_own(run_cli, small, tmp_path):
    """The cached opening, or a saved conversation, of one epsilon is not used with another."""

    def prompted(*options, code=0):
        arguments = ["-p", "x", "--json", "--max-tokens", 20, "--seed", 1, "--top-p", 1, "--system", "a"]
        result = run_cli("chat", small, *arguments, *options, code=code)
        return result.stderr if code else json.loads(result.stdout)["tokens"]

    plain, older = prompted(), prompted("--head-epsilon", 0.9, "--save", tmp_path / "older.chat")
    assert plain != older == prompted("--head-epsilon", "0.9") and plain == prompted("--head-epsilon", "64e-5")
    load = ("--load", tmp_path / "older.chat")
    assert "Start the chat with --head-epsilon 0.9" in prompted(*load, code=1)
    assert prompted(*load, "--head-epsilon", 0.9)
    prompted("--save", tmp_path / "plain.chat")
    load = ("--load", tmp_path / "plain.chat")
    assert "Start the chat without --head-epsilon" in prompted(*load, "--head-epsilon", 0.9, code=1)


def test_evaluate_takes_another_epsilon_for_all_that_it_measures(run_cli, small, words):
    arguments = ["evaluate", "--from", small, "--formats", "Q8_0", "--text", words, "--no-timing", "--json"]
    plain, older = (json.loads(run_cli(*arguments, *x).stdout) for x in ((), ("--head-epsilon", 0.9)))
    base, older_base = (report["rows"][0]["quality"]["perplexity"]["value"] for report in (plain, older))
    assert abs(base - older_base) > 0.1
    kl, older_kl = (report["rows"][1]["quality"]["kl"]["value"] for report in (plain, older))
    assert older_kl < 2 * kl  # the divergence of 8 bits, not of another epsilon
    assert older["conditions"]["head epsilon"] == 0.9 and "head epsilon" not in plain["conditions"]


def test_speed_and_memory_are_measured_with_it_too(small, monkeypatch):
    given = []
    monkeypatch.setattr(costs, "_measure_in_child", lambda path, options: given.append(json.loads(options)) or {})
    costs.cost(candidate(small, head_epsilon=1e-5), threads=1)
    assert given == [{"threads": 1, "head_q8_0": None, "head_epsilon": 1e-5}]


@pytest.mark.parametrize("words", [["chat", "-p", "x"], ["evaluate", "--no-timing"]])
def test_other_versions_refuse_another_epsilon_in_a_line(run_cli, words, tiny_model):
    stderr = run_cli(*words, tiny_model, "--head-epsilon", "1e-5", code=1).stderr
    assert stderr == f"Error: {tiny_model}: head_epsilon is only for RWKV-5, and this is RWKV-4; leave it out\n"

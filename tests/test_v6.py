"""RWKV-6 from the checkpoint to logits, against rwkv.cpp's files and the official package's logits."""

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
    parameters,
    random_checkpoint,
    two_threads,
)

import rwkv_np
from rwkv_np.conversion.convert import convert
from rwkv_np.errors import CheckpointError

PATHS = dispatch.available_paths()
# (n_embd, head_size, ranks of a mix and of the decay)
SHAPES = [
    (128, 64, (32, 64)), (96, 32, (5, 7)), (40, 8, (8, 24)), (144, 48, (33, 40)), (48, 48, (4, 4)), (60, 20, (1, 2))
]  # fmt: skip


@pytest.fixture(scope="session")
def golden(request, tmp_path_factory):
    return Golden(request.config.rootpath, tmp_path_factory.mktemp("v6"), "v6")


# --- convert and quantize --------------------------------------------------------------------------


@pytest.mark.parametrize("data_type", ["FP32", "FP16", *FORMATS])
def test_files_are_those_of_rwkv_cpp(golden, data_type):
    assert checksum(golden.file(data_type).read_bytes()) == golden.sums[f"model-{data_type}.bin"]


def test_the_bytes_do_not_depend_on_how_many_rows_are_converted_at_a_time(golden, tmp_path, monkeypatch):
    monkeypatch.setattr("rwkv_np.conversion.convert.CHUNK", 50)
    convert(golden.checkpoint, tmp_path / "pieces.bin")
    assert (tmp_path / "pieces.bin").read_bytes() == golden.file("FP16").read_bytes()


def test_thin_matrices_are_transposed_in_a_file(tmp_path):
    tensors = random_checkpoint("v6", ranks=(5, 7))
    found = parameters(converted(tensors, tmp_path))
    for name in ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2"):
        expected = tensors[f"blocks.1.att.{name}"].transpose(-1, -2)
        np.testing.assert_array_equal(found[f"blocks.1.att.{name}"].array(), expected)


def test_matrices_that_do_not_fill_blocks_stay_when_the_rest_is_quantized(tmp_path, run_cli):
    """rwkv.cpp writes a broken file here."""
    source = converted(random_checkpoint("v6", n_embd=64, head_size=64, ranks=(8, 24)), tmp_path, "FP16")
    output = run_cli("quantize", source, tmp_path / "q.bin", "Q4_0").output
    assert "unchanged: rows of 24 are not a multiple of 32" in output
    assert "unchanged: rows of 1 are not a multiple of 32" in output  # the bonus of a single head
    types = {name: p.data_type.name for name, p in parameters(tmp_path / "q.bin").items()}
    assert types["blocks.0.att.time_decay_w2"] == types["blocks.0.att.time_faaaa"] == "FP32"
    assert types["blocks.0.att.time_decay_w1"] == types["blocks.0.att.time_maa_w1"] == "Q4_0"
    assert types["blocks.0.att.time_maa_w2"] == "FP32"
    check_both_engines_agree_on_quantized(tmp_path / "q.bin")


def check_both_engines_agree_on_quantized(path):
    """Approximately: one of them rounds activations to 8 bits."""
    numpy_graph, fused = (rwkv_np.load(path, engine=engine) for engine in ENGINES)
    expected, _ = numpy_graph.forward(range(10), full_output=True)
    logits, _ = fused.forward(range(10), full_output=True)
    assert np.abs(logits - expected).mean() < 0.1 * np.abs(expected).mean()


@pytest.mark.parametrize(("name", "title"), [("gate_w1", "x060a"), ("gate_w2", "x060a"), ("time_maa_rkvw_w1", "x060b")])
def test_a_similar_model_that_computes_something_else_is_refused(tmp_path, name, title):
    tensors = random_checkpoint("v6", ranks=(4, 4)) | {f"blocks.0.att.{name}": torch.zeros(8, 8)}
    with pytest.raises(CheckpointError, match=f"contains {title}"):
        converted(tensors, tmp_path)


@pytest.mark.parametrize("name", ["time_maa_x", "time_maa_w2", "time_decay_w1", "time_decay", "time_faaaa"])
def test_a_missing_or_misshapen_parameter_is_named(tmp_path, name):
    for layer in range(2):
        whole = random_checkpoint("v6", ranks=(4, 4))
        full = f"blocks.{layer}.att.{name}"
        with pytest.raises(CheckpointError, match="has the shape"):
            converted(whole | {full: torch.zeros(3, 5, 2)}, tmp_path)
        del whole[full]
        with pytest.raises(CheckpointError, match=f"lacks the parameter {full}|has the shape"):
            converted(whole, tmp_path)


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


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("data_type", ["FP16", *FORMATS])
def test_each_type_loses_no_more_than_in_rwkv_cpp(golden, monkeypatch, data_type, path):
    monkeypatch.setenv(dispatch.ENV, path)
    model = rwkv_np.load(golden.file(data_type), head_q8_0=False)  # as in rwkv.cpp
    logits, _ = model.forward(golden.logits["tokens"], full_output=True)
    official = golden.logits["official"]
    theirs = np.abs(golden.logits[f"rwkvcpp_{data_type}"] - official).mean()
    assert np.abs(logits - official).mean() <= 1.05 * theirs


@pytest.mark.parametrize(("n_embd", "head_size", "ranks"), SHAPES[:-1])  # the package loses the dimension of rank 1
def test_fresh_random_checkpoints_agree_with_the_official_package(tmp_path, n_embd, head_size, ranks):
    sizes = dict(n_layer=3, n_embd=n_embd, head_size=head_size, dim_ffn=n_embd + 24, vocab_size=33, ranks=ranks)
    check_agrees_with_the_official_package(random_checkpoint("v6", n_embd, **sizes), tmp_path)


# --- the engine against itself and the NumPy graph --------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("n_embd", "head_size", "ranks"), SHAPES)
def test_shapes_of_all_kinds_agree_with_the_numpy_graph(tmp_path, monkeypatch, n_embd, head_size, ranks, path):
    monkeypatch.setenv(dispatch.ENV, path)
    sizes = dict(n_embd=n_embd, head_size=head_size, dim_ffn=n_embd // 2, vocab_size=33, ranks=ranks)
    check_both_engines_agree(converted(random_checkpoint("v6", 7, **sizes), tmp_path))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("data_type", ["FP32", "Q4_1"])
def test_other_sequences_cuts_and_threads_change_no_bit(golden, monkeypatch, data_type, path):
    monkeypatch.setenv(dispatch.ENV, path)
    models = [rwkv_np.load(golden.file(data_type), threads=threads) for threads in (two_threads(), 1)]
    for seed in range(4):
        check_company_and_cuts_change_no_bit(*models, seed)
    check_one_by_one_gives_the_same_bits(models[0], golden.logits["tokens"])


def test_neither_do_they_where_heads_share_tiles(tmp_path):
    path = converted(random_checkpoint("v6", n_embd=60, head_size=20, ranks=(5, 7)), tmp_path)
    models = [rwkv_np.load(path, threads=threads) for threads in (two_threads(), 1)]
    check_company_and_cuts_change_no_bit(*models, 0)
    check_one_by_one_gives_the_same_bits(models[0], np.arange(13))


def test_a_decay_of_any_size_keeps_the_memory_finite(tmp_path):
    tensors = random_checkpoint("v6", ranks=(4, 4))
    tensors["blocks.0.att.time_decay"] = torch.linspace(-200, 200, 64).reshape(1, 1, -1)
    for engine in ENGINES:
        with np.errstate(over="ignore"):
            logits, state = rwkv_np.load(converted(tensors, tmp_path), engine=engine).forward(range(40))
        assert np.isfinite(logits).all() and np.isfinite(state.data).all()

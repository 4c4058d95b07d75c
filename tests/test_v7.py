"""RWKV-7 from the checkpoint to logits, against rwkv.cpp's files and the official package's logits.

`data/golden-v7` has random weights, n_embd 128 in 2 heads, 3 layers. `logits.npz` has the logits of the official
package for its tokens (float32, one by one), and those of rwkv.cpp for each of its files.
"""

import hashlib
import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_parameters, shared_file, write_model
from rwkv_np.kernels import dispatch
from rwkv_np.kernels.threads import most_threads
from versions import as_checkpoint

import rwkv_np
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.quantize import quantize
from rwkv_np.errors import CheckpointError, FormatError
from rwkv_np.files.format import read_model_file
from rwkv_np.models import model_config

GOLDEN = Path(__file__).parent / "data" / "golden-v7"
FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
ENGINES = ("numpy", "fused")


def unpack(path, folder):
    target = folder / path.name.removesuffix(".xz")
    target.write_bytes(lzma.decompress(path.read_bytes()))
    return target


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The golden checkpoint as "pth", and a model file of each type by its name."""
    folder = tmp_path_factory.mktemp("v7")
    found = {"pth": unpack(GOLDEN / "model.pth.xz", folder)}
    for name in ("FP32", "FP16"):
        found[name] = folder / f"model-{name}.bin"
        convert(found["pth"], found[name], name)
    for name in FORMATS:
        found[name] = folder / f"model-{name}.bin"
        quantize(found["FP16"], found[name], name)
    return found


@pytest.fixture(scope="session")
def golden_logits():
    return np.load(GOLDEN / "logits.npz")


def sums(folder):
    """SHA-256 of the files that rwkv.cpp wrote, by name."""
    lines = (folder / "SHA256").read_text().splitlines()
    return {name: checksum for checksum, _, name in map(str.split, lines)}


def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parameter_bytes(path):
    return {name: p.data.tobytes() for name, p in read_model_file(path).parameters.items()}


def tensors_of(files):
    return torch.load(files["pth"], weights_only=True)


def converted(tensors, folder, data_type="FP32"):
    torch.save(tensors, folder / "other.pth")
    convert(folder / "other.pth", folder / "other.bin", data_type)
    return folder / "other.bin"


# --- convert and quantize --------------------------------------------------------------------------


@pytest.mark.parametrize("data_type", ["FP32", "FP16", *FORMATS])
def test_files_are_those_of_rwkv_cpp(files, data_type):
    expected = sums(GOLDEN)
    assert checksum(files[data_type]) == expected[f"model-{data_type}.bin"]


def test_the_bytes_do_not_depend_on_how_many_rows_are_converted_at_a_time(files, tmp_path, monkeypatch):
    monkeypatch.setattr("rwkv_np.conversion.convert.CHUNK", 100)
    convert(files["pth"], tmp_path / "model.bin")
    assert checksum(tmp_path / "model.bin") == checksum(files["FP16"])


@pytest.mark.parametrize("data_type", ["FP32", "FP16"])
def test_the_mixes_are_joined_by_name_in_any_order(files, tmp_path, data_type):
    tensors = tensors_of(files)
    path = converted({name: tensors[name] for name in sorted(tensors)}, tmp_path, data_type)
    assert parameter_bytes(path) == parameter_bytes(files[data_type])
    names = list(read_model_file(path).parameters)
    assert names[names.index("blocks.1.att.x_rwkvag") - 1 :][:3] == [
        "blocks.1.att.w2", "blocks.1.att.x_rwkvag", "blocks.1.ffn.key.weight"
    ]  # fmt: skip


def with_v_in_the_first_layer(files):
    tensors = tensors_of(files)
    more = {f"blocks.0.att.v{i}": tensors[f"blocks.1.att.v{i}"] for i in range(3)}
    return tensors | more


def test_v_of_the_first_layer_is_kept_in_the_file_but_not_read(files, tmp_path):
    path = converted(with_v_in_the_first_layer(files), tmp_path)
    more = parameter_bytes(path).keys() - parameter_bytes(files["FP32"]).keys()
    assert more == {f"blocks.0.att.v{i}" for i in range(3)}
    for engine in ENGINES:
        expected, _ = rwkv_np.load(files["FP32"], engine=engine).forward([1, 2, 3])
        logits, _ = rwkv_np.load(path, engine=engine).forward([1, 2, 3])
        np.testing.assert_array_equal(logits, expected)


def test_v_of_the_first_layer_must_have_its_shape(files, tmp_path):
    tensors = with_v_in_the_first_layer(files)
    tensors["blocks.0.att.v2"] = torch.zeros(5, 128)
    with pytest.raises(CheckpointError, match=r"blocks.0.att.v2 has the shape \(128, 5\); expected \(128, 4\)"):
        converted(tensors, tmp_path)


@pytest.mark.parametrize("data_type", ["FP32", "FP16", *FORMATS])
def test_a_file_with_v_in_the_first_layer_is_that_of_rwkv_cpp(tmp_path, data_type):
    folder = shared_file("versions/extra/v7-layer0-v")
    float_type = "FP32" if data_type == "FP32" else "FP16"
    convert(unpack(folder / "model.pth.xz", tmp_path), tmp_path / "model.bin", float_type)
    if data_type in FORMATS:
        quantize(tmp_path / "model.bin", tmp_path / "quantized.bin", data_type)
    found = tmp_path / ("quantized.bin" if data_type in FORMATS else "model.bin")
    assert checksum(found) == sums(folder)[f"model-{data_type}.bin"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("blocks.0.ffn.s_emb.weight", r"RWKV-7a \(RWKV-7 with DeepEmbed\)"),
        ("blocks.1.qkv.q.weight", "RWKV-7b"),
        ("blocks.0.ffn.enn.weight", "RWKV-8"),
    ],
)
def test_a_similar_model_that_computes_something_else_is_refused(files, tmp_path, name, title):
    with pytest.raises(CheckpointError, match=f"contains {title}"):
        converted(tensors_of(files) | {name: torch.zeros(8, 8)}, tmp_path)


def test_a_mix_that_is_missing_is_noticed(files, tmp_path):
    tensors = tensors_of(files)
    del tensors["blocks.2.att.x_v"]
    with pytest.raises(CheckpointError, match=r"blocks.2.att.x_rwkvag has the shape \(5, 1, 128\)"):
        converted(tensors, tmp_path)


@pytest.mark.parametrize(("n_head", "head_size"), [(3, 8), (4, 10), (3, 0), (1, 64)])
def test_heads_that_do_not_cover_the_channels_are_refused(tmp_path, n_head, head_size):
    arrays = random_parameters(np.random.default_rng(0), architecture="v7", head_size=8, ranks=(4, 4, 4, 4))
    for layer in range(2):
        arrays[f"blocks.{layer}.att.r_k"] = np.zeros((n_head, max(head_size, 1)), np.float32)[:, :head_size]
    if not head_size:
        arrays["blocks.0.att.r_k"] = np.zeros(32, np.float32)
    with pytest.raises(FormatError, match="r_k has the shape"):
        model_config(read_model_file(write_model(tmp_path / "broken.bin", arrays)))


def test_low_rank_matrices_keep_their_type_whatever_a_pattern_says(files, tmp_path):
    quantize(files["FP16"], tmp_path / "q.bin", "Q4_0", keep=[("*", "Q8_0")])
    types = {name: p.data_type.name for name, p in read_model_file(tmp_path / "q.bin").parameters.items()}
    assert types["blocks.1.att.w1"] == types["blocks.1.att.v2"] == "FP16" and types["blocks.1.att.r_k"] == "FP32"
    assert types["emb.weight"] == types["blocks.1.att.key.weight"] == "Q8_0"


# --- logits ----------------------------------------------------------------------------------------


def state_of_rwkv_cpp(flat, layout):
    """`official_state` as parts: per layer ffn's shift, att's, and S as [value][key]."""
    n_layer, _, n_embd = layout.places["shift"].shape
    rows = flat.reshape(n_layer, -1)
    shift = rows[:, : 2 * n_embd].reshape(n_layer, 2, n_embd)[:, ::-1]
    wkv = rows[:, 2 * n_embd :].reshape(layout.places["wkv"].shape).swapaxes(2, 3)
    return {"shift": shift, "wkv": wkv}


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_agrees_with_the_official_package(files, golden_logits, engine):
    model = rwkv_np.load(files["FP32"], engine=engine)
    logits, state = model.forward(golden_logits["tokens"], full_output=True)
    np.testing.assert_allclose(logits, golden_logits["official"], rtol=0, atol=1.5e-5)
    expected = state_of_rwkv_cpp(golden_logits["official_state"], model.state_layout)
    for name, part in state.parts.items():
        np.testing.assert_allclose(part, expected[name], rtol=0, atol=5e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("data_type", ["FP16", *FORMATS])
def test_each_type_loses_no_more_than_in_rwkv_cpp(files, golden_logits, data_type, engine):
    model = rwkv_np.load(files[data_type], engine=engine, head_q8_0=False)  # as in rwkv.cpp
    logits, _ = model.forward(golden_logits["tokens"], full_output=True)
    official = golden_logits["official"]
    theirs = np.abs(golden_logits[f"rwkvcpp_{data_type}"] - official).mean()
    assert np.abs(logits - official).mean() <= 1.05 * theirs


@pytest.mark.parametrize("path", dispatch.available_paths())
@pytest.mark.parametrize("data_type", ["FP32", "FP16", *FORMATS])
def test_every_path_gives_the_same_logits_but_for_rounding(files, golden_logits, monkeypatch, data_type, path):
    monkeypatch.setenv(dispatch.ENV, path)
    model = rwkv_np.load(files[data_type], head_q8_0=False)
    logits, _ = model.forward(golden_logits["tokens"], full_output=True)
    assert model.kernels.path == path
    official = golden_logits["official"]
    theirs = np.abs(golden_logits[f"rwkvcpp_{data_type}"] - official).mean()
    assert np.abs(logits - official).mean() <= max(1e-5, 1.05 * theirs)


@pytest.mark.parametrize("data_type", ["FP32", "FP16", "Q4_0", "Q8_0"])
def test_cuts_and_threads_change_no_bit(files, golden_logits, data_type):
    tokens = golden_logits["tokens"]
    expected, state = rwkv_np.load(files[data_type], threads=1).forward(tokens, full_output=True)
    model = rwkv_np.load(files[data_type], threads=min(2, most_threads()))
    for cuts in (range(1, 48), (19,), (8, 9, 41)):
        rows, cut_state = [], model.initial_state()
        for part in np.split(tokens, cuts):
            rows.append(model.advance(part, cut_state, full_output=True))
        np.testing.assert_array_equal(np.concatenate(rows), expected)
        np.testing.assert_array_equal(cut_state.data, state.data)


def test_a_saved_state_goes_on_in_either_graph(files, golden_logits, tmp_path):
    tokens = golden_logits["tokens"]
    for first, second in (ENGINES, ENGINES[::-1]):
        _, state = rwkv_np.load(files["FP32"], engine=first).forward(tokens[:20])
        state.save(tmp_path / first)
        model = rwkv_np.load(files["FP32"], engine=second)
        loaded = rwkv_np.load_state(tmp_path / first, model.config)
        np.testing.assert_array_equal(loaded.data, state.data)
        logits, _ = model.forward(tokens[20:], loaded, full_output=True)
        np.testing.assert_allclose(logits, golden_logits["official"][20:], rtol=0, atol=2e-5)


# (layers, n_embd, head size, rows of ffn.key, vocabulary, ranks of w, a, v, g)
ODD = [
    (2, 96, 32, 40, 11, (3, 5, 2, 7)), (3, 96, 48, 72, 130, (33, 64, 4, 96)), (2, 192, 64, 256, 257, (64, 32, 8, 40)),
    (1, 64, 64, 64, 50, (8, 9, 10, 11)), (2, 40, 8, 24, 33, (4, 6, 5, 2)),
]  # fmt: skip


def odd_model(tmp_path, n_layer, n_embd, head_size, dim_ffn, vocab_size, ranks):
    """A random model of odd sizes as arrays of a model file, and tokens."""
    rng = np.random.default_rng(n_embd)
    arrays = random_parameters(rng, n_layer, n_embd, dim_ffn, vocab_size, "v7", head_size=head_size, ranks=ranks)
    for name, x in arrays.items():
        if x.ndim == 2 and name != "emb.weight":
            x /= 2  # products of order one: with twice that, float32 alone gives errors of 3e-5
    return arrays, rng.integers(0, vocab_size, 20)


@pytest.mark.parametrize("sizes", ODD, ids=str)
def test_odd_sizes_agree_with_the_numpy_graph(tmp_path, sizes):
    arrays, tokens = odd_model(tmp_path, *sizes)
    path = write_model(tmp_path / "odd.bin", arrays)
    (expected, expected_state), (logits, state) = (
        rwkv_np.load(path, engine=engine).forward(tokens, full_output=True) for engine in ENGINES
    )
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)
    for name, part in state.parts.items():
        np.testing.assert_allclose(part, expected_state.parts[name], rtol=0, atol=1e-4)


# The package reads its switches at import, and another test has imported it for RWKV-4.
OFFICIAL = """
import os, sys, warnings
os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
warnings.simplefilter("ignore")
import numpy, torch
from rwkv.model import RWKV
torch.set_grad_enabled(False)
for path in sys.argv[1:]:
    tokens = numpy.load(path + ".tokens.npy").tolist()
    model, state, rows = RWKV(path, "cpu fp32"), None, []
    for token in tokens:
        logits, state = model.forward([token], state)
        rows.append(logits.numpy())
    numpy.save(path + ".logits.npy", numpy.stack(rows))
"""


@pytest.fixture(scope="module")
def official_odd(tmp_path_factory):
    """For each of ODD the path of its checkpoint; beside it are its tokens, and the official package's logits."""
    pytest.importorskip("rwkv")
    folder = tmp_path_factory.mktemp("official")
    paths = [str(folder / str(i)) for i in range(len(ODD))]
    for path, sizes in zip(paths, ODD):
        arrays, tokens = odd_model(folder, *sizes)
        torch.save(as_checkpoint(arrays), f"{path}.pth")
        np.save(f"{path}.tokens.npy", tokens)
    subprocess.run([sys.executable, "-c", OFFICIAL, *paths], check=True, capture_output=True, env=dict(os.environ))
    return dict(zip(ODD, paths))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sizes", ODD, ids=str)
def test_fresh_random_checkpoints_agree_with_the_official_package(official_odd, tmp_path, sizes, engine):
    path = official_odd[sizes]
    convert(f"{path}.pth", tmp_path / "model.bin", "FP32")
    logits, _ = rwkv_np.load(tmp_path / "model.bin", engine=engine).forward(
        np.load(f"{path}.tokens.npy"), full_output=True
    )
    np.testing.assert_allclose(logits, np.load(f"{path}.logits.npy"), rtol=0, atol=1.5e-5)

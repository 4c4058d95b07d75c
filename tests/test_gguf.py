"""GGUF files of RWKV-6 and 7: their logits, and converting both ways.

The reference files are llama.cpp's (shared/data/gguf): with `dequantized_T`, the exact logits of each file's
weights, and `llama_T`, those of llama.cpp, which rounds activations. The other tests write their own files.
"""

import os
import re
import tarfile

import numpy as np
import pytest
from conftest import random_parameters, shared_file, write_model
from rwkv_np.kernels import dispatch

import rwkv_np
from rwkv_np.conversion.from_gguf import from_gguf
from rwkv_np.conversion.quantize import quantize
from rwkv_np.conversion.to_gguf import to_gguf
from rwkv_np.errors import FormatError
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.files.format import read_model_file
from rwkv_np.files.gguf import GgufFile
from rwkv_np.files.gguf_output import Planned, Strings, header, write_data
from rwkv_np.models.containers import read_model
from rwkv_np.models.inspection import inspect

TYPES = ("F32", "F16", "BF16", "Q8_0conv", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M",
         "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS")  # fmt: skip
FILES = [(version, name) for version in ("v6", "v7") for name in TYPES] + [("v6", "old_Q4_0")]
FLOATS = ("F32", "F16", "BF16")
SIZES = {"v6": {"head_size": 32, "ranks": (32, 64)}, "v7": {"head_size": 32, "ranks": (32, 32, 64, 32)}}


@pytest.fixture(scope="session")
def references(tmp_path_factory):
    """version -> (the folder of its files, its logits)"""
    found = {}
    for version in ("v6", "v7"):
        folder = tmp_path_factory.mktemp(version)
        with tarfile.open(shared_file(f"gguf/{version}/files.tar.xz"), "r:xz") as packed:
            packed.extractall(folder, filter="data")
        found[version] = folder, np.load(shared_file(f"gguf/{version}/logits.npz"))
    return found


def errors_of_tokens(found, expected):
    """The root mean square error of each token's logits."""
    return np.sqrt(np.square(found.astype(np.float64) - expected).mean(axis=1))


@pytest.mark.parametrize("version, name", FILES)
def test_the_logits_are_those_of_the_files_weights(references, version, name):
    folder, logits = references[version]
    model = rwkv_np.load(folder / f"model-{name}.gguf", engine="numpy", head_q8_0=False)
    found = model.forward(logits["tokens"], full_output=True)[0]
    np.testing.assert_allclose(found, logits[f"dequantized_{name}"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("path", dispatch.available_paths())
@pytest.mark.parametrize("version, name", FILES)
def test_the_kernels_are_as_exact_as_llama_cpp(references, version, name, path, monkeypatch):
    """Per token and by the median: a rounded activation changes a few tokens of these random models a hundred times
    as much as the others, and which ones is chance."""
    monkeypatch.setenv(dispatch.ENV, path)
    folder, logits = references[version]
    model = rwkv_np.load(folder / f"model-{name}.gguf", head_q8_0=False)
    assert model.kernels.path == path
    found, exact = model.forward(logits["tokens"], full_output=True)[0], logits[f"dequantized_{name}"]
    if name in FLOATS:
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-4)
    else:
        ours, theirs = (np.median(errors_of_tokens(x, exact)) for x in (found, logits[f"llama_{name}"]))
        assert 0 < ours < 1.25 * theirs


@pytest.mark.parametrize("version", ["v6", "v7"])
@pytest.mark.parametrize("name, data_type", [("F32", "FP32"), ("F16", "FP16"), ("BF16", "FP32"), ("BF16", "FP16")])
def test_a_converted_file_has_the_bytes_of_one_from_the_checkpoint(references, tmp_path, version, name, data_type):
    pytest.importorskip("torch")
    from rwkv_np.conversion.convert import convert

    folder, _ = references[version]
    convert(folder / "model.pth", tmp_path / "expected.bin", data_type)
    from_gguf(folder / f"model-{name}.gguf", tmp_path / "found.bin", data_type)
    if (version, name) != ("v6", "F16"):
        assert (tmp_path / "found.bin").read_bytes() == (tmp_path / "expected.bin").read_bytes()
        return
    # llama.cpp's converter divided two matrices, and numbers below 2**-14 lost their last bit.
    found, expected = (read_model_file(tmp_path / f"{which}.bin").parameters for which in ("found", "expected"))
    assert list(found) == list(expected)
    for name, p in expected.items():
        is_divided = name in ("blocks.2.att.output.weight", "blocks.2.ffn.value.weight")
        np.testing.assert_allclose(found[name].array(), p.array(), rtol=0, atol=2**-24 * is_divided, err_msg=name)


@pytest.mark.parametrize("version", ["v6", "v7"])
def test_quantized_matrices_are_converted_as_they_are(references, tmp_path, version):
    folder, logits = references[version]
    source = folder / "model-Q8_0conv.gguf"
    from_gguf(source, tmp_path / "found.bin")
    before, after = read_model(source), read_model_file(tmp_path / "found.bin")
    assert {p.data_type.name for p in after.parameters.values()} >= {"Q8_0", "FP32"}
    assert list(after.parameters) == list(before.parameters)
    for name, p in before.parameters.items():
        if p.data_type.name == "Q8_0":
            assert after.parameters[name].data.tobytes() == p.data.tobytes()
    model = rwkv_np.load(tmp_path / "found.bin", engine="numpy", head_q8_0=False)
    found = model.forward(logits["tokens"], full_output=True)[0]
    np.testing.assert_allclose(found, logits["dequantized_Q8_0conv"], rtol=0, atol=2e-3)  # FP32 thin ones become FP16


def test_types_of_gguf_alone_are_decoded_only_if_asked(references, tmp_path):
    folder, logits = references["v7"]
    source = folder / "model-Q4_K_M.gguf"
    with pytest.raises(FormatError, match=r"contains Q4_K, Q6_K, which a model file .* rwkv-np convert --decode "):
        from_gguf(source, tmp_path / "found.bin")
    from_gguf(source, tmp_path / "found.bin", "FP32", decode=True)
    model = rwkv_np.load(tmp_path / "found.bin", engine="numpy")
    found = model.forward(logits["tokens"], full_output=True)[0]
    np.testing.assert_allclose(found, logits["dequantized_Q4_K_M"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("version", ["v6", "v7"])
def test_a_written_file_has_the_tensors_that_llama_cpp_writes(references, tmp_path, version):
    folder, _ = references[version]
    theirs = GgufFile(folder / "model-F32.gguf")
    from_gguf(folder / "model-F32.gguf", tmp_path / "m.bin", "FP32")
    to_gguf(tmp_path / "m.bin", tmp_path / "m.gguf", vocabulary={})
    ours = GgufFile(tmp_path / "m.gguf")
    assert set(ours.tensors) == set(theirs.tensors)
    for name, tensor in theirs.tensors.items():
        found = ours.tensors[name]
        assert (found.shape, found.data_type) == (tensor.shape, tensor.data_type)
        layer = re.match(r"blk\.(\d+)\..*(time_mix_output|channel_mix_value)", name)
        factor = 2 ** (int(layer[1]) // 2) if layer and version == "v6" else 1  # they are divided there
        np.testing.assert_array_equal(found.data.view(np.float32), tensor.data.view(np.float32) * np.float32(factor))
    own = {key: value for key, value in theirs.metadata.items() if key.startswith("rwkv")}
    own |= {"rwkv6.rescale_every_n_layers": 0} if version == "v6" else {}
    assert {key: ours.metadata.get(key) for key in own} == own


# --- files that the tests write


def own(folder, version, data_type="FP32", **sizes):
    """A random model as a model file and as a GGUF file."""
    rng = np.random.default_rng(0)
    sizes = dict(n_embd=64, dim_ffn=96, vocab_size=300) | SIZES[version] | sizes
    source = write_model(folder / "m.bin", random_parameters(rng, architecture=version, **sizes), data_type)
    to_gguf(source, folder / "m.gguf", vocabulary={})
    return source, folder / "m.gguf"


def rewritten(path, change):
    """The GGUF file after `change(metadata, tensors)`, where a tensor is (shape, type, bytes)."""
    file = GgufFile(path)
    metadata = dict(file.metadata)
    tensors = {name: (t.shape, t.data_type, t.data.tobytes()) for name, t in file.tensors.items()}
    change(metadata, tensors)
    plan = [Planned(name, shape, data_type) for name, (shape, data_type, _) in tensors.items()]
    with open(path.with_name("changed.gguf"), "wb") as out:
        out.write(header(metadata, plan))
        for planned, (_, _, data) in zip(plan, tensors.values()):
            write_data(out, planned, [data])
    return path.with_name("changed.gguf")


@pytest.mark.parametrize("version", ["v6", "v7"])
@pytest.mark.parametrize("data_type", ["FP32", "FP16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_there_and_back_gives_the_same_file(tmp_path, version, data_type):
    source, path = own(tmp_path, version, data_type)
    assert {name: p.shape for name, p in read_model(path).parameters.items()} == {
        name: p.shape for name, p in read_model_file(source).parameters.items()
    }
    from_gguf(path, tmp_path / "back.bin", "FP16" if data_type == "FP16" else "FP32")
    before, after = (read_model_file(p).parameters for p in (source, tmp_path / "back.bin"))
    for name, p in before.items():
        assert after[name].shape == p.shape
        expected = p.array().astype(np.float16) if after[name].data_type.name == "FP16" else p.array()
        np.testing.assert_array_equal(after[name].array(), expected, err_msg=name)
    for engine in ("numpy", "fused"):
        found, expected = (
            rwkv_np.load(p, engine=engine).forward([1, 2, 3], full_output=True)[0] for p in (path, source)
        )
        np.testing.assert_array_equal(found, expected)


def test_a_single_head_keeps_its_shape(tmp_path):
    source, path = own(tmp_path, "v6", head_size=64)
    assert read_model(path).parameters["blocks.0.att.time_faaaa"].shape == (64, 1)
    np.testing.assert_array_equal(*(rwkv_np.load(p, engine="numpy").forward([1, 2])[0] for p in (path, source)))


@pytest.mark.parametrize("data_type", ["FP32", "FP16", "Q4_0", "Q5_1", "Q8_0"])
def test_divided_matrices_are_multiplied_again(tmp_path, data_type):
    source, path = own(tmp_path, "v6", data_type, n_layer=3)

    def divide(metadata, tensors):
        metadata["rwkv6.rescale_every_n_layers"] = 1
        for name, (shape, kind, data) in tensors.items():
            if re.search(r"time_mix_output|channel_mix_value", name):
                blocks = np.frombuffer(data, kind.format.block).copy()
                for field in [blocks[f] for f in ("d", "m") if f in (blocks.dtype.names or ())] or [blocks]:
                    field /= 2 ** int(name.split(".")[1])
                tensors[name] = shape, kind, blocks.tobytes()

    parameters = read_model(changed := rewritten(path, divide)).parameters
    assert parameters["blocks.2.att.output.weight"].exponent == 2 and not parameters["head.weight"].exponent
    for engine in ("numpy", "fused"):
        found, expected = (rwkv_np.load(p, engine=engine).forward([1, 2, 3])[0] for p in (changed, source))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 if data_type != "FP32" else 0)
    index = np.array([1, 5])
    whole = parameters["blocks.1.ffn.value.weight"].array()
    np.testing.assert_array_equal(parameters["blocks.1.ffn.value.weight"].chosen(index), whole[index])


def test_a_matrix_that_becomes_too_large_is_refused(tmp_path):
    def divide(metadata, tensors):
        metadata["rwkv6.rescale_every_n_layers"] = 1
        shape, kind, data = tensors["blk.1.time_mix_output.weight"]
        tensors["blk.1.time_mix_output.weight"] = shape, kind, np.full(len(data) // 2, 6e4, np.float16).tobytes()

    changed = rewritten(own(tmp_path, "v6", "FP16")[1], divide)
    with pytest.raises(FormatError, match=r"att.output.weight is stored divided by 2, and is too large for FP16"):
        rwkv_np.load(changed)


def set_value(key, value):
    return lambda metadata, tensors: metadata.update({key: value})


def drop(name):
    return lambda metadata, tensors: (metadata.pop(name, None), tensors.pop(name, None))


def rename(name, other):
    return lambda metadata, tensors: tensors.update({other: tensors.pop(name)})


def reshape(name, shape):
    return lambda metadata, tensors: tensors.update({name: (shape, *tensors[name][1:])})


CHANGES = {
    "llama": (set_value("general.architecture", "llama"), "of the architecture 'llama'; supported: rwkv6"),
    "QRWKV6": (set_value("general.architecture", "rwkv6qwen2"), "of QRWKV6, a model with parts of Qwen2 in it"),
    "ARWKV": (set_value("general.architecture", "arwkv7"), "of ARWKV"),
    "a number as architecture": (set_value("general.architecture", 7), "is a GGUF file of no architecture"),
    "no architecture": (drop("general.architecture"), "is a GGUF file of no architecture"),
    "no head size": (drop("rwkv7.wkv.head_size"), "wkv.head_size is None; expected a whole number from 1"),
    "a head of zero": (set_value("rwkv7.wkv.head_size", 0), "wkv.head_size is 0"),
    "words as head size": (set_value("rwkv7.wkv.head_size", Strings([b"a"])), "wkv.head_size is an array of 1"),
    "another head size": (set_value("rwkv7.wkv.head_size", 24), "att.r_k has the shape (64,)"),
    "more layers": (set_value("rwkv7.block_count", 3), "the header says n_layer = 3, but the parameters have 2"),
    "another width": (set_value("rwkv7.embedding_length", 32), "the header says n_embed = 32"),
    "another epsilon": (set_value("rwkv7.attention.layer_norm_epsilon", 1e-6), "supported: 1e-05"),
    "one token shift": (set_value("rwkv7.token_shift_count", 1), "token_shift_count is 1; supported: 2"),
    "a missing tensor": (drop("blk.1.time_mix_key.weight"), "lacks the parameter blocks.1.att.key.weight"),
    "no embedding": (drop("token_embd.weight"), "the header says n_embed = 64, but the parameters have 0"),
    "a tensor too many": (rename("output_norm.bias", "rope_freqs.weight"), "contains the tensor rope_freqs.weight"),
    "a wrong layer": (rename("blk.1.attn_norm.bias", "blk.01.attn_norm.bias"), "the tensor blk.01.attn_norm.bias"),
    "a gap": (rename("blk.1.attn_norm.bias", "blk.7.attn_norm.bias"), "n_layer = 2, but the parameters have 3"),
    "a wrong shape": (reshape("blk.0.time_mix_key.weight", (32, 128)), "att.key.weight has the shape (32, 128)"),
    "a wrong vector": (reshape("blk.0.time_mix_w0.weight", (8, 8)), "att.w0 has the shape (8, 8)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_files_of_other_models_and_damaged_ones_are_refused(tmp_path, name):
    change, expected = CHANGES[name]
    with pytest.raises(FormatError) as caught:
        rwkv_np.load(rewritten(own(tmp_path, "v7")[1], change))
    assert expected in caught.value.problem


@pytest.mark.parametrize("shape", [(320,), (320, 1), (4, 80), (1, 5, 64), (5, 2, 32)])
def test_wrong_shares_of_the_mixes_are_refused(tmp_path, shape):
    changed = rewritten(own(tmp_path, "v6")[1], reshape("blk.0.time_mix_lerp_fused.weight", shape))
    with pytest.raises(FormatError, match=r"lerp_fused.weight has the shape .*expected \(5, 1, 1\)|has the shape"):
        rwkv_np.load(changed)


def test_only_versions_that_llama_cpp_runs_are_written(tmp_path):
    source = write_model(tmp_path / "v4.bin", random_parameters(np.random.default_rng(0)))
    with pytest.raises(FormatError, match="is RWKV-4; llama.cpp runs RWKV-6 and RWKV-7 only"):
        to_gguf(source, tmp_path / "x.gguf")
    source, _ = own(tmp_path, "v7")
    with pytest.raises(FormatError, match="has a vocabulary of 300; only World's, of 65,536"):
        to_gguf(source, tmp_path / "x.gguf")
    assert not os.path.exists(tmp_path / "x.gguf")


def test_fingerprints_differ_with_the_weights(tmp_path):
    _, path = own(tmp_path, "v7")

    def change(metadata, tensors):
        shape, kind, data = tensors["output_norm.bias"]
        tensors["output_norm.bias"] = shape, kind, bytes(len(data))

    assert (
        fingerprint(path) == fingerprint(rewritten(path, lambda *parts: None)) != fingerprint(rewritten(path, change))
    )


def test_a_float_file_is_quantized_as_the_model_file_is(tmp_path):
    source, path = own(tmp_path, "v7", "FP16")
    for name, model in (("a", source), ("b", path)):
        quantize(model, tmp_path / f"{name}.bin", "Q5_1")
    found, expected = (read_model_file(tmp_path / f"{name}.bin").parameters for name in "ba")
    assert {n: p.data.tobytes() for n, p in found.items()} == {n: p.data.tobytes() for n, p in expected.items()}


@pytest.mark.parametrize("data_type", ["FP32", "FP16", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_converted(tmp_path, data_type, value):
    def change(metadata, tensors):
        shape, kind, data = tensors["blk.1.time_mix_key.weight"]
        blocks = np.frombuffer(data, kind.format.block).copy()
        (blocks["d"] if blocks.dtype.names else blocks)[-1] = value
        tensors["blk.1.time_mix_key.weight"] = shape, kind, blocks.tobytes()

    changed = rewritten(own(tmp_path, "v7", data_type)[1], change)
    with pytest.raises(FormatError, match=r"blocks.1.att.key.weight contains values that are not finite numbers"):
        from_gguf(changed, tmp_path / "x.bin", "FP16" if data_type == "FP16" else "FP32")


def test_an_inspection_shows_the_metadata(tmp_path):
    _, path = own(tmp_path, "v7", "Q4_0")
    report = inspect(path)
    assert report["architecture"] == "v7" and report["data_type"] == "Q4_0" and report["problem"] is None
    assert report["gguf"]["rwkv7.wkv.head_size"] == 32 and report["gguf"]["general.name"] == "m"

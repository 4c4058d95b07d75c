"""Conversion gives the same bytes as rwkv.cpp, from every supported source, in constant memory."""

import json
import os
import struct
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from make_checkpoint import make_checkpoint
from peak import bounded_environment
from shapes import checkpoint_shapes

from rwkv_np.cli.convert import command
from rwkv_np.conversion import finite
from rwkv_np.conversion.convert import convert
from rwkv_np.errors import CheckpointError
from rwkv_np.files.format import read_model_file

GOLDEN = Path(__file__).parent / "data" / "golden-4v0"
CHECKPOINT = GOLDEN / "golden-4v0.pth"
ROOT = Path(__file__).parents[1]


def golden_tensors():
    return torch.load(CHECKPOINT, weights_only=True)


def reference(data_type):
    return (GOLDEN / f"golden-4v0.{data_type}.bin").read_bytes()


def expected_data(name, tensor, data_type):
    """The data that the format requires for a tensor, implemented again in a few lines."""
    values = tensor.float()
    if name.endswith("time_decay"):
        values = -torch.exp(values)
    return (values.half() if data_type == "FP16" and tensor.dim() == 2 else values).numpy().tobytes()


def parameter_bytes(path):
    return {name: p.data.tobytes() for name, p in read_model_file(path).parameters.items()}


def random_checkpoint(n_layer=2, n_embd=64, dim_ffn=None, n_vocab=50, dtype=torch.bfloat16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = checkpoint_shapes(n_layer, n_embd, n_vocab, dim_ffn)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("data_type", ["FP16", "FP32"])
def test_the_golden_checkpoint_gives_the_reference_bytes(tmp_path, data_type):
    convert(CHECKPOINT, tmp_path / "model.bin", data_type)
    assert (tmp_path / "model.bin").read_bytes() == reference(data_type)


@pytest.mark.parametrize(
    "words, data_type",
    [([], "FP16"), (["FP16"], "FP16"), (["float16"], "FP16"), (["FP32"], "FP32"), (["float32"], "FP32")],
)
def test_every_accepted_type_word_gives_its_file(tmp_path, words, data_type):
    result = CliRunner().invoke(command, [str(CHECKPOINT), str(tmp_path / "model.bin"), *words])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "model.bin").read_bytes() == reference(data_type)


@pytest.mark.parametrize("word", ["Q4_0", "bfloat16", "1"])
def test_a_type_that_a_conversion_cannot_give_is_a_usage_error(tmp_path, word):
    result = CliRunner().invoke(command, [str(CHECKPOINT), str(tmp_path / "model.bin"), word])
    assert result.exit_code == 2
    assert "FP16" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunk", [1, 64, 1000])
def test_the_bytes_do_not_depend_on_how_many_rows_are_converted_at_a_time(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(sys.modules["rwkv_np.conversion.convert"], "CHUNK", chunk)
    convert(CHECKPOINT, tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == reference("FP16")


def save_legacy(tensors, path):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("data_type", ["FP16", "FP32"])
def test_a_checkpoint_of_before_1_6_gives_the_reference_bytes(tmp_path, data_type):
    save_legacy(golden_tensors(), tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "model.bin", data_type)
    assert (tmp_path / "model.bin").read_bytes() == reference(data_type)


@pytest.mark.parametrize("data_type", ["FP16", "FP32"])
def test_a_safetensors_file_gives_the_same_parameters_in_its_own_order(tmp_path, data_type):
    safetensors.torch.save_file(golden_tensors(), tmp_path / "model.safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "model.bin", data_type)
    converted = parameter_bytes(tmp_path / "model.bin")
    assert converted == parameter_bytes(GOLDEN / f"golden-4v0.{data_type}.bin")
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert list(converted) == list(file.keys())


SAVE = {"pth": torch.save, "old.pth": save_legacy, "safetensors": safetensors.torch.save_file}


@pytest.mark.parametrize("ending", SAVE)
@pytest.mark.parametrize("data_type", ["FP16", "FP32"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_every_source_type_is_rounded_once_from_float32(tmp_path, dtype, data_type, ending):
    tensors = random_checkpoint(dtype=dtype)
    source = tmp_path / f"model.{ending}"
    SAVE[ending](tensors, source)
    convert(source, tmp_path / "model.bin", data_type)
    converted = parameter_bytes(tmp_path / "model.bin")
    assert converted == {name: expected_data(name, t, data_type) for name, t in tensors.items()}


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_embd": 32, "n_layer": 1},
        {"n_embd": 96, "dim_ffn": 96},
        {"n_embd": 40, "dim_ffn": 333, "n_vocab": 7},
        {"n_embd": 2, "dim_ffn": 1, "n_vocab": 1},
        {"n_embd": 32, "n_layer": 12},
    ],
    ids=str,
)
def test_odd_shapes_are_converted_as_they_are(tmp_path, sizes):
    tensors = random_checkpoint(**sizes)
    torch.save(tensors, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "model.bin")
    file = read_model_file(tmp_path / "model.bin")
    assert list(file.parameters) == list(tensors)
    for name, parameter in file.parameters.items():
        shape = tensors[name].shape
        assert parameter.shape == (shape[2:] if "time_mix" in name else shape)
        assert parameter.data.tobytes() == expected_data(name, tensors[name], "FP16")
    header = file.header
    assert (header.n_vocab, header.n_embed) == tuple(tensors["emb.weight"].shape)
    assert header.n_layer == sizes.get("n_layer", 2)


@pytest.mark.parametrize("keys", [["state_dict"], ["model"], ["module"], ["state_dict", "module"]])
def test_a_wrapped_state_dict_is_unwrapped(tmp_path, keys):
    content = golden_tensors()
    for key in reversed(keys):
        content = {"epoch": 3, key: content}
    torch.save(content, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == reference("FP16")


@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_trained_parameters_views_and_transposed_matrices_are_converted_by_value(tmp_path, save):
    tensors = random_checkpoint(n_layer=1, dtype=torch.float32)
    changed = dict(tensors)
    changed["emb.weight"] = torch.nn.Parameter(tensors["emb.weight"])
    changed["blocks.0.ln1.weight"] = torch.nn.Parameter(tensors["blocks.0.ln1.weight"])
    changed["blocks.0.att.key.weight"] = tensors["blocks.0.att.key.weight"].T.contiguous().T
    changed["head.weight"] = torch.cat([tensors["head.weight"]] * 3)[50:100]
    save(changed, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "model.bin", "FP32")
    converted = parameter_bytes(tmp_path / "model.bin")
    assert converted == {name: expected_data(name, t, "FP32") for name, t in tensors.items()}


def refused(tmp_path, tensors, data_type="FP16"):
    """The error for a checkpoint that must not be converted; no file may be left."""
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(CheckpointError) as error:
        convert(tmp_path / "model.pth", tmp_path / "model.bin", data_type)
    assert os.listdir(tmp_path) == ["model.pth"]
    return error.value.problem


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("data_type", ["FP16", "FP32"])
def test_weights_that_are_not_finite_are_refused_with_name_count_and_place(tmp_path, dtype, data_type):
    tensors = random_checkpoint(n_layer=1, dtype=dtype)
    tensors["head.weight"][3, 5:7] = float("nan")
    tensors["head.weight"][4, 1] = -float("inf")
    assert refused(tmp_path, tensors, data_type) == (
        "head.weight contains values that are not finite: 2 NaN and 1 infinite, the first at (3, 5). "
        "The checkpoint is damaged: download it again"
    )


@pytest.mark.parametrize("stored", ["FP16", "FP32"])
@pytest.mark.parametrize("bits", [0x7F800001, 0xFF800001, 0x7FC00000, 0x7F800000, 0xFF800000])
def test_values_that_are_not_finite_are_found_without_a_warning(stored, bits):
    """With a signaling NaN among ordinary numbers, NumPy warns about the sum of squares."""
    x = np.ones((3, 40), np.float32)
    x.view(np.uint32)[1, 7] = bits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not finite.are_finite(x, stored)
        found = finite.Unfit.among([(0, x)], stored)
    assert (found.n_nan, found.n_infinite, found.first) == (*((0, 1) if bits & 0x7FFFFF == 0 else (1, 0)), (1, 7))


@pytest.mark.parametrize("value", [500.5, float("nan")])
def test_changed_bytes_end_the_conversion(tmp_path, value):
    tensors = random_checkpoint(n_layer=1, dtype=torch.float32)
    tensors["head.weight"][3, 5] = 500.25
    torch.save(tensors, tmp_path / "model.pth")
    data = (tmp_path / "model.pth").read_bytes()
    assert data.count(struct.pack("<f", 500.25)) == 1
    (tmp_path / "model.pth").write_bytes(data.replace(struct.pack("<f", 500.25), struct.pack("<f", value)))
    with pytest.raises(CheckpointError, match="does not match. Download it again"):
        convert(tmp_path / "model.pth", tmp_path / "model.bin")
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.parametrize("shape", [[1] * 70, [1] * 40, [0, 2**63], [0, 2**40, 2**40], [2**62, 0, 2**62], [0] * 5])
def test_a_tensor_of_absurd_dimensions_is_refused(tmp_path, shape):
    data = safetensors.torch.save(random_checkpoint(n_layer=1, dtype=torch.float32))
    end = 8 + int.from_bytes(data[:8], "little")
    header, size = json.loads(data[8:end]), 4 if all(shape) else 0
    header["ln_out.bias"] |= {"shape": shape}
    start, stop = header["ln_out.bias"]["data_offsets"]
    for entry in header.values():  # the following offsets change
        entry["data_offsets"] = [x - (stop - start - size if x >= stop else 0) for x in entry["data_offsets"]]
    text = json.dumps(header).encode()
    rest = data[end : end + start + size] + data[end + stop :]
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + rest)
    with pytest.raises(CheckpointError) as error:
        convert(tmp_path / "m.safetensors", tmp_path / "m.bin")
    assert os.listdir(tmp_path) == ["m.safetensors"] and error.value.problem.isprintable()


def test_values_are_counted_over_all_pieces_of_a_parameter(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["rwkv_np.conversion.convert"], "CHUNK", 64)
    tensors = random_checkpoint(n_layer=1, dtype=torch.float32)
    tensors["emb.weight"][10:13, 2] = float("nan")
    assert "3 NaN, the first at (10, 2)" in refused(tmp_path, tensors)


def test_weights_beyond_float16_are_refused_with_the_command_that_keeps_them(tmp_path):
    tensors = random_checkpoint(n_layer=1, dtype=torch.float32)
    tensors["head.weight"][0, :3] = torch.tensor([1e6, -2e6, 65520.0])
    tensors["blocks.0.ln1.weight"][0] = 1e6  # a vector, which stays FP32
    problem = refused(tmp_path, tensors)
    assert problem == (
        "head.weight contains values beyond 65504, the largest number of FP16: 3 of them, the first at (0, 0), "
        f"the largest 2e+06. Convert it to FP32: rwkv-np convert {tmp_path}/model.pth {tmp_path}/model.bin FP32"
    )
    words = problem.partition("FP32: rwkv-np ")[2].split()
    subprocess.run([sys.executable, "-m", "rwkv_np", *words], cwd=ROOT, check=True)
    values = read_model_file(tmp_path / "model.bin").parameters["head.weight"].array()
    np.testing.assert_array_equal(values[0, :3], [1e6, -2e6, 65520])


def test_the_largest_numbers_of_a_type_are_converted(tmp_path):
    tensors = random_checkpoint(n_layer=1, dtype=torch.float32)
    tensors["head.weight"][0, :3] = torch.tensor([65504, -65504, 65519.9])
    tensors["blocks.0.ln1.weight"][:2] = torch.tensor([3.4e38, -3.4e38])
    torch.save(tensors, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "model.bin")
    assert parameter_bytes(tmp_path / "model.bin") == {n: expected_data(n, t, "FP16") for n, t in tensors.items()}


def test_a_number_that_becomes_infinite_in_the_file_is_refused(tmp_path):
    tensors = random_checkpoint(n_layer=1, dtype=torch.float32)
    tensors["blocks.0.att.time_decay"][2] = 100.0
    assert "blocks.0.att.time_decay contains values that are not finite: 1 infinite" in refused(tmp_path, tensors)


def test_progress_names_each_parameter_in_turn_and_ends_at_the_file_size(tmp_path):
    calls = []
    result = convert(CHECKPOINT, tmp_path / "model.bin", progress=lambda *call: calls.append(call))
    names, done, totals = zip(*calls, strict=True)
    assert list(dict.fromkeys(names)) == list(golden_tensors())
    assert list(done) == sorted(done)
    assert done[-1] == result.n_bytes == len(reference("FP16"))
    assert set(totals) == {result.n_bytes}


def test_json_reports_what_was_written_on_stdout_only(tmp_path):
    destination = str(tmp_path / "model.bin")
    result = CliRunner().invoke(command, [str(CHECKPOINT), destination, "FP32", "--json"])
    document = json.loads(result.stdout)
    assert document.pop("seconds") >= 0
    assert document == {
        "destination": destination,
        "n_parameters": len(golden_tensors()),
        "n_weights": sum(t.numel() for t in golden_tensors().values()),
        "n_bytes": len(reference("FP32")),
    }


def test_converting_over_an_older_file_replaces_it_whole(tmp_path):
    destination = tmp_path / "model.bin"
    destination.write_bytes(b"x" * 10**6)
    convert(CHECKPOINT, destination, overwrite=True)
    assert destination.read_bytes() == reference("FP16")
    assert os.listdir(tmp_path) == ["model.bin"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize("ending", SAVE)
def test_memory_does_not_grow_with_the_model(tmp_path, ending):
    """A checkpoint of 220 MB, half of it in two matrices: neither it nor they fit within the limit."""
    source = tmp_path / f"model.{ending}"
    shapes = checkpoint_shapes(2, 1024, 40_000)
    if ending == "old.pth":
        save_legacy({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, source)
    else:
        make_checkpoint(source, shapes)
    script = """
        import sys
        import torch
        from peak import Peak
        from rwkv_np.conversion.convert import convert

        peak = Peak()
        result = convert(*sys.argv[1:], progress=peak.progress)
        print(peak.growth, result.n_bytes)
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), source, tmp_path / "model.bin"],
        capture_output=True, text=True, check=True, env=bounded_environment(),
    ).stdout  # fmt: skip
    growth, n_bytes = map(int, output.split())
    assert n_bytes > 200e6
    assert growth < 40e6, f"grew by {growth / 1e6:.0f} MB"

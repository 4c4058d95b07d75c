"""Quantizing gives the same bytes as rwkv.cpp, in any mixture of types, and reports what it cannot do."""

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import GOLDEN, random_parameters, write_model
from make_checkpoint import make_checkpoint
from peak import bounded_environment
from rwkv_np.kernels import encode as kernels
from shapes import checkpoint_shapes
from waiting import PATIENCE, until_written

import rwkv_np
from rwkv_np.cli.quantize import command
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.quantize import TYPES, quantize
from rwkv_np.errors import FormatError, InputError, OutputError
from rwkv_np.files.format import read_model_file
from rwkv_np.files.quants import by_name

ROOT = Path(__file__).parents[1]
FP16, FP32 = GOLDEN / "golden-4v0.FP16.bin", GOLDEN / "golden-4v0.FP32.bin"
Usage = namedtuple("Usage", "total used free")
KEY = "blocks.1.ffn.key.weight"

# sha256 of the files that rwkv.cpp wrote from the golden FP32 file: its commit 4358e70, and c736ef5 of
# April 2023 for Q4_1_O (from the same file with version 100, which that program requires).
FROM_FP32 = {
    "Q4_0": "20e7fd66bffd1a358b0738d6ac0e3ca16f960f327dcca2b23d26863862b4b5f9",
    "Q4_1": "fbe4c3f75287c8b0815a0d5919853ae684cdd3edfc48aadeff4caba21c6769c3",
    "Q5_0": "462b9d9085ea28837ab345a672960f1648f6591e1ecec774853fc5910b332080",
    "Q5_1": "ed8594b5649ef6e8fe7c082a1a9c1984d5a2b6d63813abf1757dadc2f69ece73",
    "Q8_0": "07f833f0afc9e6014ca279fd870298505933f777bde43f5ba9033755924cded9",
    "Q4_1_O": "c0d6b9118e437a5f72e31e3eb1282d2df4e848c35e6b12ae59f9227e92664716",
}


def golden_bytes(data_type):
    name = "v100-Q4_1_O" if data_type == "Q4_1_O" else data_type
    return (GOLDEN / f"golden-4v0.{name}.bin").read_bytes()


def types(path):
    return {name: p.data_type.name for name, p in read_model_file(path).parameters.items()}


def changed(tmp_path, source, name, index, value):
    """A copy of a float model file in which one element of a parameter is `value`."""
    data = bytearray(source.read_bytes())
    p = read_model_file(source).parameters[name]
    offset = data.index(p.data.tobytes()) + p.data_type.format.block.itemsize * int(
        np.ravel_multi_index(index, p.shape)
    )
    data[offset : offset + p.data_type.format.block.itemsize] = np.array(value, p.data_type.format.block).tobytes()
    (tmp_path / "changed.bin").write_bytes(data)
    return tmp_path / "changed.bin"


# --- to the byte ---------------------------------------------------------------------------------


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("source", [FP16, GOLDEN / "golden-4v0.v100-FP16.bin"], ids=["version-101", "version-100"])
def test_the_golden_fp16_file_gives_the_bytes_of_rwkv_cpp(tmp_path, source, data_type):
    quantize(source, tmp_path / "q.bin", data_type)
    assert (tmp_path / "q.bin").read_bytes() == golden_bytes(data_type)


@pytest.mark.parametrize("data_type", TYPES)
def test_the_golden_fp32_file_gives_the_bytes_of_rwkv_cpp(tmp_path, data_type):
    quantize(FP32, tmp_path / "q.bin", data_type)
    assert hashlib.sha256((tmp_path / "q.bin").read_bytes()).hexdigest() == FROM_FP32[data_type]


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("source", [FP16, FP32], ids=lambda path: path.name)
def test_matrices_are_encoded_from_float32_and_all_else_is_copied(tmp_path, source, data_type):
    quantize(source, tmp_path / "q.bin", data_type)
    before, after = (read_model_file(path).parameters for path in (source, tmp_path / "q.bin"))
    assert list(before) == list(after)
    for name, p in after.items():
        if len(p.shape) == 2 and name not in ("emb.weight", "head.weight"):
            expected = p.data_type.format.encode(before[name].array().reshape(*p.blocks().shape, 32))
            assert (p.data_type.name, p.data.tobytes()) == (data_type, expected.tobytes())
        else:
            assert (p.data_type, p.data.tobytes()) == (before[name].data_type, before[name].data.tobytes())


@pytest.mark.parametrize("number, data_type", [("2", "Q4_0"), ("3", "Q4_1"), ("4", "Q4_1_O")])
def test_the_numbers_of_april_2023_give_their_files(tmp_path, number, data_type):
    result = CliRunner().invoke(command, [str(FP16), str(tmp_path / "q.bin"), number])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "q.bin").read_bytes() == golden_bytes(data_type)


def test_q4_1_is_the_type_where_none_is_named(tmp_path):
    assert CliRunner().invoke(command, [str(FP16), str(tmp_path / "q.bin")]).exit_code == 0
    assert (tmp_path / "q.bin").read_bytes() == golden_bytes("Q4_1")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 640, 2**19])
def test_the_result_does_not_depend_on_threads_nor_on_chunks(tmp_path, monkeypatch, chunk, threads):
    monkeypatch.setattr(sys.modules["rwkv_np.conversion.quantize"], "CHUNK", chunk)
    results = quantize(FP16, tmp_path / "q.bin", "Q5_1", threads=threads)
    assert (tmp_path / "q.bin").read_bytes() == golden_bytes("Q5_1")
    errors = {r.name: r.error for r in results if r.error is not None}
    assert errors[KEY] == pytest.approx(true_error(KEY, "Q5_1"), rel=1e-3)


def true_error(name, data_type):
    x = read_model_file(FP16).parameters[name].array().astype(np.float64)
    back = read_model_file(GOLDEN / f"golden-4v0.{data_type}.bin").parameters[name].array()
    return np.sqrt(np.square(back - x).sum() / np.square(x).sum())


def test_rows_that_do_not_fill_blocks_stay_unchanged_and_are_reported(tmp_path, run_cli):
    source = write_model(tmp_path / "m.bin", random_parameters(np.random.default_rng(0), n_embd=40, dim_ffn=96))
    output = run_cli("quantize", source, tmp_path / "q.bin", "Q8_0").output
    found = types(tmp_path / "q.bin")
    assert found["blocks.0.ffn.value.weight"] == "Q8_0" and found["blocks.0.ffn.key.weight"] == "FP32"
    stays = [line for line in output.splitlines() if "unchanged: rows of 40 are not a multiple of 32" in line]
    assert len(stays) == 2 * 6
    rwkv_np.load(tmp_path / "q.bin").forward([1, 2, 3])


@pytest.mark.parametrize(
    "sizes", [{"n_embd": 32, "dim_ffn": 4096}, {"n_embd": 1024, "dim_ffn": 32, "n_layer": 1}], ids=str
)
@pytest.mark.parametrize("data_type", TYPES)
def test_rows_of_one_block_and_of_thousands_of_weights(tmp_path, data_type, sizes):
    source = write_model(tmp_path / "m.bin", random_parameters(np.random.default_rng(0), **sizes))
    quantize(source, tmp_path / "q.bin", data_type)
    before, after = (read_model_file(path).parameters for path in (source, tmp_path / "q.bin"))
    for name in ("blocks.0.ffn.key.weight", "blocks.0.ffn.value.weight"):
        expected = after[name].data_type.format.encode(before[name].array().reshape(*after[name].blocks().shape, 32))
        assert after[name].data.tobytes() == expected.tobytes()


# --- mixtures ------------------------------------------------------------------------------------


def test_head_takes_a_type_of_its_own(tmp_path, run_cli):
    run_cli("quantize", FP16, tmp_path / "q.bin", "Q4_1", "--head", "Q8_0")
    mixed, plain = (read_model_file(path).parameters for path in (tmp_path / "q.bin", FP16))
    expected = by_name("Q8_0").format.encode(plain["head.weight"].array().reshape(101, 2, 32))
    assert mixed["head.weight"].data.tobytes() == expected.tobytes()
    q4_1 = read_model_file(GOLDEN / "golden-4v0.Q4_1.bin").parameters
    assert all(p.data.tobytes() == q4_1[name].data.tobytes() for name, p in mixed.items() if name != "head.weight")
    assert read_model_file(tmp_path / "q.bin").header.data_type == by_name("Q4_1").code


@pytest.mark.parametrize("source", [FP16, FP32], ids=lambda path: path.name)
def test_kept_patterns_take_their_types(tmp_path, run_cli, source):
    keep = [
        "--keep",
        "blocks.0.*=Q8_0",
        "--keep",
        "*.att.output.*=FP16",
        "--keep",
        "blocks.1.att.key.weight=FP32",
    ]
    run_cli("quantize", source, tmp_path / "q.bin", "Q4_0", *keep)
    found, before = types(tmp_path / "q.bin"), types(source)
    assert found["blocks.0.att.key.weight"] == "Q8_0"
    assert found["blocks.0.att.output.weight"] == found["blocks.1.att.output.weight"] == "FP16"
    assert found["blocks.1.att.key.weight"] == "FP32"
    assert found["blocks.1.ffn.key.weight"] == "Q4_0"
    for name in ("emb.weight", "head.weight", "blocks.0.ln1.weight", "blocks.0.att.time_mix_k"):
        assert found[name] == before[name]
    q = read_model_file(tmp_path / "q.bin").parameters
    x = read_model_file(source).parameters
    name = "blocks.1.att.output.weight"
    np.testing.assert_array_equal(q[name].array(), x[name].array().astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("order", [1, -1])
def test_the_last_match_wins(tmp_path, order):
    keep = [("blocks.*", "Q8_0"), ("blocks.1.*", "Q5_1")][::order]
    quantize(FP16, tmp_path / "q.bin", "Q4_0", keep=keep)
    found = types(tmp_path / "q.bin")
    assert found["blocks.0.att.key.weight"] == "Q8_0"
    assert found["blocks.1.att.key.weight"] == ("Q5_1" if order == 1 else "Q8_0")


def test_a_pattern_is_the_later_word_beside_head(tmp_path, run_cli):
    run_cli("quantize", FP16, tmp_path / "q.bin", "--keep", "head.weight=Q5_0", "--head", "Q8_0")
    assert types(tmp_path / "q.bin")["head.weight"] == "Q5_0"


def test_the_embedding_is_quantized_where_a_pattern_names_it(tmp_path):
    quantize(FP16, tmp_path / "q.bin", "Q4_1", keep=[("emb.weight", "Q8_0")])
    found = types(tmp_path / "q.bin")
    assert (found["emb.weight"], found["head.weight"]) == ("Q8_0", "FP16")


@pytest.mark.parametrize("source", [FP16, FP32], ids=lambda path: path.name)
@pytest.mark.parametrize(
    "data_type, keep",
    [
        ("Q4_1", [("head.weight", "Q8_0")]),
        (
            "Q5_1",
            [("emb.weight", "Q8_0"), ("head.weight", "Q5_0"), ("*.att.*", "FP16"), ("blocks.0.*", "Q8_0")],
        ),
        ("Q8_0", [("blocks.1.*", "FP32"), ("emb.weight", "Q5_1")]),
        ("4", [("head.weight", "Q4_1_O"), ("blocks.0.*", "FP16")]),
    ],
)
def test_mixed_files_load_and_stay_near_the_unquantized_model(tmp_path, source, data_type, keep):
    quantize(source, tmp_path / "q.bin", data_type, keep=keep)
    official = np.load(GOLDEN / "logits.rwkv-pip-fp32.npz")
    logits, _ = rwkv_np.load(tmp_path / "q.bin").forward(official["tokens"], full_output=True)
    assert np.abs(logits - official["logits"]).mean() < 0.165  # the error of rwkv.cpp's Q4_1 file


@pytest.mark.parametrize("data_type", ["Q4_0", "Q4_1"])
def test_beside_q4_1_o_the_same_names_mean_the_blocks_of_april_2023(tmp_path, data_type):
    quantize(FP16, tmp_path / "q.bin", "Q4_1_O", keep=[("blocks.*", data_type)])
    golden = read_model_file(GOLDEN / f"golden-4v0.v100-{data_type}.bin").parameters
    for name, p in read_model_file(tmp_path / "q.bin").parameters.items():
        assert (p.data_type, p.data.tobytes()) == (golden[name].data_type, golden[name].data.tobytes())


@pytest.mark.parametrize("pattern", ["blocks.7.*", "head", "Emb.weight", "ln_out.*"])
def test_a_pattern_that_matches_no_matrix_is_an_error(tmp_path, pattern):
    with pytest.raises(InputError, match=r"matches no matrix; rwkv-np inspect .*FP16\.bin lists them") as error:
        quantize(FP16, tmp_path / "q.bin", "Q4_1", keep=[("*", "Q8_0"), (pattern, "Q8_0")])
    assert repr(pattern) in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["--head", "Q4_2"], ["--keep", "blocks.*=q8"], ["--keep", "head.weight=5"]])
def test_an_unknown_type_of_a_pattern_is_an_error_with_the_list(tmp_path, run_cli, options):
    stderr = run_cli("quantize", FP16, tmp_path / "q.bin", "Q4_1", *options, code=1).stderr
    assert "unknown data type" in stderr
    assert "expected one of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_1_O, FP16 or FP32" in stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_type_is_an_error_with_the_list(tmp_path, run_cli):
    assert "'Q4_1_O'" in run_cli("quantize", FP16, tmp_path / "q.bin", "Q4_K", code=2).stderr
    with pytest.raises(InputError, match="unknown data type Q4_K; expected one of Q4_0, Q4_1, "):
        quantize(FP16, tmp_path / "q.bin", "Q4_K")


@pytest.mark.parametrize(
    "data_type, other, version, refused",
    [
        ("Q4_1_O", "Q8_0", 100, "Q8_0"),
        ("4", "Q5_1", 100, "Q5_1"),
        ("Q4_1", "Q4_1_O", 101, "Q4_1_O"),
        ("Q8_0", "4", 101, "Q4_1_O"),
    ],
)
def test_types_of_different_versions_do_not_mix(tmp_path, data_type, other, version, refused):
    with pytest.raises(
        InputError, match=f"a version {version} file cannot contain {refused}: Q4_1_O exists only in version 100"
    ):
        quantize(FP16, tmp_path / "q.bin", data_type, keep=[("head.weight", other)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["Q8_0", "=Q8_0"])
def test_a_keep_without_a_pattern_is_a_usage_error(tmp_path, run_cli, value):
    assert "not have the form PATTERN=TYPE" in run_cli("quantize", FP16, tmp_path / "q", "--keep", value, code=2).stderr


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["Q4_1", "Q8_0", "v100-Q4_1_O"])
def test_a_quantized_source_is_refused_with_the_command_that_fixes_it(tmp_path, golden, end):
    with pytest.raises(
        FormatError, match=r"is already quantized .*quantize from the FP16 or FP32 file: rwkv-np quantize"
    ):
        quantize(golden(f"{end}.bin"), tmp_path / "q.bin", "Q4_0")
    assert not list(tmp_path.iterdir())


def test_a_file_mixed_of_types_counts_as_quantized(tmp_path):
    quantize(FP16, tmp_path / "head.bin", "FP16", keep=[("head.weight", "Q8_0")])
    with pytest.raises(FormatError, match=r"is already quantized \(head.weight is Q8_0\)"):
        quantize(tmp_path / "head.bin", tmp_path / "q.bin", "Q4_0")


@pytest.mark.parametrize("name", ["golden-4v0.pth", "logits.rwkv-pip-fp32.npz"])
def test_a_file_that_is_not_a_model_is_refused(tmp_path, run_cli, name):
    assert name in run_cli("quantize", GOLDEN / name, tmp_path / "q.bin", code=1).stderr
    assert not list(tmp_path.iterdir())


def test_a_missing_source_is_one_line(tmp_path, run_cli):
    assert "No such file" in run_cli("quantize", tmp_path / "none.bin", tmp_path / "q.bin", code=1).stderr


@pytest.mark.parametrize("n_bytes", [0, 3, 20, 30, 5000, 247174])
def test_a_truncated_source_is_refused(tmp_path, run_cli, n_bytes):
    source = tmp_path / "cut.bin"
    source.write_bytes(FP16.read_bytes()[:n_bytes])
    assert "cut.bin" in run_cli("quantize", source, tmp_path / "q.bin", code=1).stderr
    assert os.listdir(tmp_path) == ["cut.bin"]


def test_numbers_that_are_not_finite_are_counted_over_the_whole_parameter(tmp_path, monkeypatch, run_cli):
    monkeypatch.setattr(sys.modules["rwkv_np.conversion.quantize"], "CHUNK", 640)
    (tmp_path / "first").mkdir()
    first = changed(tmp_path / "first", FP16, KEY, (200, 63), np.nan)
    path = changed(tmp_path, first, KEY, (20, 3), np.inf)
    stderr = run_cli("quantize", path, tmp_path / "q.bin", code=1).stderr
    assert f"{KEY} contains 2 values that are not finite, the first in row 20, column 3" in stderr


@pytest.mark.parametrize("source", [FP16, FP32], ids=lambda path: path.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name, index", [(KEY, (200, 63)), ("emb.weight", (100, 1)), ("head.weight", (3, 0))])
def test_a_value_that_is_not_finite_is_named_with_its_place(tmp_path, monkeypatch, run_cli, source, value, name, index):
    monkeypatch.setattr(sys.modules["rwkv_np.conversion.quantize"], "CHUNK", 640)
    path = changed(tmp_path, source, name, index, value)
    stderr = run_cli("quantize", path, tmp_path / "q.bin", code=1).stderr
    assert f"{name} contains 1 values that are not finite" in stderr
    assert f"row {index[0]}, column {index[1]}" in stderr
    assert os.listdir(tmp_path) == ["changed.bin"]


@pytest.mark.parametrize("data_type", TYPES)
def test_a_value_too_large_for_the_scales_is_named_with_the_option_that_helps(tmp_path, data_type):
    path = changed(tmp_path, FP32, KEY, (7, 5), -1e38)
    with pytest.raises(FormatError, match=rf"contains values up to 1e\+38, too large .* of {data_type}; leave it"):
        quantize(path, tmp_path / "q.bin", data_type)
    assert os.listdir(tmp_path) == ["changed.bin"]
    quantize(path, tmp_path / "q.bin", data_type, keep=[(KEY, "FP32")])
    assert types(tmp_path / "q.bin")[KEY] == "FP32"


def test_a_value_too_large_for_fp16_is_an_error_too(tmp_path):
    with pytest.raises(FormatError, match="head.weight contains values up to 1e.06, too large .* of FP16"):
        quantize(
            changed(tmp_path, FP32, "head.weight", (0, 0), 1e6),
            tmp_path / "q.bin",
            "Q4_1",
            keep=[("*", "FP16")],
        )


def test_an_existing_file_is_kept_without_overwrite_and_replaced_with_it(tmp_path, run_cli):
    (tmp_path / "q.bin").write_bytes(b"old")
    assert "already exists; use --overwrite" in run_cli("quantize", FP16, tmp_path / "q.bin", code=1).stderr
    assert (tmp_path / "q.bin").read_bytes() == b"old"
    run_cli("quantize", FP16, tmp_path / "q.bin", "--overwrite")
    assert (tmp_path / "q.bin").read_bytes() == golden_bytes("Q4_1")
    assert os.listdir(tmp_path) == ["q.bin"]


def test_the_source_is_never_the_destination(tmp_path):
    source = tmp_path / "m.bin"
    source.write_bytes(FP16.read_bytes())
    with pytest.raises(OutputError, match="is the source file itself"):
        quantize(source, source, "Q4_1", overwrite=True)
    assert source.read_bytes() == FP16.read_bytes()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="does not exist; create it: mkdir -p"):
        quantize(FP16, tmp_path / "x" / "q.bin", "Q4_1")


def test_the_disk_must_have_room_for_the_result(tmp_path, monkeypatch):
    n_bytes = len(golden_bytes("Q4_1"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 0, n_bytes - 1))
    with pytest.raises(OutputError, match=f"needs {n_bytes:,} bytes"):
        quantize(FP16, tmp_path / "q.bin", "Q4_1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_in_a_worker_ends_the_run_with_that_error_and_leaves_nothing(tmp_path, monkeypatch, overwrite):
    def encode(format, x):
        if x.shape[0] == 512:  # ffn.key and ffn.value
            raise MemoryError("no room")
        return original(format, x)

    original = kernels.encode
    monkeypatch.setattr(kernels, "encode", encode)
    if overwrite:
        (tmp_path / "q.bin").write_bytes(b"old")
    with pytest.raises(MemoryError, match="no room"):
        quantize(FP16, tmp_path / "q.bin", "Q4_1", overwrite=overwrite)
    assert os.listdir(tmp_path) == ["q.bin"] * overwrite


def test_an_error_in_the_progress_callback_leaves_nothing(tmp_path):
    def progress(result, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(FP16, tmp_path / "q.bin", "Q4_1", progress=progress)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def large_model(tmp_path_factory):
    """320 MB of FP16, nearly all of it in matrices to quantize."""
    folder = tmp_path_factory.mktemp("large")
    make_checkpoint(folder / "model.pth", checkpoint_shapes(12, 1024, 1000))
    convert(folder / "model.pth", folder / "model.bin")
    (folder / "model.pth").unlink()
    yield folder / "model.bin"
    (folder / "model.bin").unlink()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_signal_in_the_middle_leaves_neither_file_nor_part(tmp_path, large_model, signum, code, as_json):
    tool, options = ROOT / "tools" / "quantize.py", ["--json"] * as_json
    child = subprocess.Popen(
        [sys.executable, tool, large_model, tmp_path / "q.bin", "Q8_0", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until_written(child, tmp_path, ".*.part", 10**7)
    child.send_signal(signum)
    _, stderr = child.communicate(timeout=PATIENCE)
    assert child.returncode == code
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize("data_type", ["Q4_1", "Q8_0", "FP32"])
def test_memory_does_not_grow_with_the_model(tmp_path, large_model, data_type):
    """Of 320 MB of input and the output, only chunks may be in memory (in addition to Numba's 60 MB)."""
    script = """
        import sys
        import rwkv_np.kernels.encode
        from peak import Peak
        from rwkv_np.conversion.quantize import quantize

        quantize(sys.argv[4], sys.argv[2] + ".warm", sys.argv[3])  # compiling takes memory of its own
        peak = Peak()
        results = quantize(*sys.argv[1:4], threads=2, progress=peak.progress)
        print(peak.growth, sum(result.source_bytes for result in results))
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), large_model, tmp_path / "q.bin", data_type, FP16],
        capture_output=True, text=True, check=True, env=bounded_environment(),
    ).stdout  # fmt: skip
    growth, n_bytes = map(int, output.split())
    assert n_bytes > 300e6
    assert growth < 40e6, f"grew by {growth / 1e6:.0f} MB"


# --- messages --------------------------------------------------------------------------------


def test_a_line_tells_of_each_parameter_and_the_last_one_of_all(tmp_path, run_cli):
    lines = run_cli("quantize", FP16, tmp_path / "q.bin", "Q5_0").stdout.splitlines()
    parameters = read_model_file(tmp_path / "q.bin").parameters
    assert [line.split()[2] for line in lines[:-1]] == list(parameters)
    line = next(line for line in lines if KEY in line)
    assert "256 x 64" in line and "FP16 -> Q5_0" in line and "0.03 MB ->      0.01 MB" in line
    assert f"error {100 * true_error(KEY, 'Q5_0'):.2f} %" in line
    assert "copied" in next(line for line in lines if "emb.weight" in line)
    percents = [int(line.split()[0]) for line in lines[:-1]]
    assert percents == sorted(percents) and percents[-1] == 100
    data = sum(p.n_bytes for p in parameters.values())
    bits = 8 * data / sum(p.n_weights for p in parameters.values())
    assert f"0.2 MB to 0.1 MB, {bits:.2f} bits per weight, in " in lines[-1] and lines[-1].endswith(" s")


def test_json_has_everything_and_is_alone_on_stdout(tmp_path, run_cli):
    result = run_cli("quantize", FP16, tmp_path / "q.bin", "Q4_1", "--head", "Q8_0", "--json")
    document = json.loads(result.stdout)
    before, after = (read_model_file(path).parameters for path in (FP16, tmp_path / "q.bin"))
    assert document.pop("seconds") > 0
    rows = document.pop("parameters")
    n_bytes = sum(p.n_bytes for p in after.values())
    assert document == {
        "destination": str(tmp_path / "q.bin"),
        "source_bytes": sum(p.n_bytes for p in before.values()),
        "n_bytes": n_bytes,
        "bits_per_weight": 8 * n_bytes / sum(p.n_weights for p in after.values()),
    }
    assert [row["name"] for row in rows] == list(after)
    for row in rows:
        p, q = before[row["name"]], after[row["name"]]
        assert (row["shape"], row["source_type"], row["data_type"]) == (
            list(p.shape),
            p.data_type.name,
            q.data_type.name,
        )
        assert (row["source_bytes"], row["n_bytes"]) == (p.n_bytes, q.n_bytes)
        assert (row["error"] is None) == (p.data_type == q.data_type)
    assert next(row for row in rows if row["name"] == KEY)["error"] == pytest.approx(true_error(KEY, "Q4_1"), rel=1e-3)


@pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")
def test_json_leaves_progress_to_a_terminal_on_stderr(tmp_path):
    pexpect = pytest.importorskip("pexpect")
    tool, out = ROOT / "tools" / "quantize.py", tmp_path / "document.json"
    line = f'"{sys.executable}" "{tool}" "{FP16}" "{tmp_path / "q.bin"}" Q4_1 --json >"{out}"'
    screen = pexpect.spawn("/bin/sh", ["-c", line], timeout=PATIENCE)
    screen.expect(pexpect.EOF)
    assert b"Quantizing [" in screen.before and b" MB" in screen.before
    assert json.loads(out.read_text())["n_bytes"] > 0


def test_progress_counts_the_bytes_of_the_file(tmp_path):
    calls = []
    results = quantize(FP16, tmp_path / "q.bin", "Q8_0", progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == results
    size = (tmp_path / "q.bin").stat().st_size
    assert [call[1] for call in calls] == sorted(call[1] for call in calls) and calls[-1][1] == size
    assert {call[2] for call in calls} == {size}


def test_a_matrix_of_zeros_has_no_error(tmp_path):
    arrays = random_parameters(np.random.default_rng(0))
    arrays["head.weight"][:] = 0
    source = write_model(tmp_path / "m.bin", arrays)
    results = {r.name: r for r in quantize(source, tmp_path / "q.bin", "Q4_1", keep=[("head.weight", "Q4_1")])}
    assert results["head.weight"].error == 0
    assert not read_model_file(tmp_path / "q.bin").parameters["head.weight"].array().any()


def test_a_parameter_of_three_dimensions_is_copied(tmp_path):
    data = FP16.read_bytes()
    key = b"blocks.9.att.odd"
    data += struct.pack("<6i", 3, len(key), 1, 32, 2, 2) + key + np.arange(128, dtype="<f2").tobytes()
    (tmp_path / "m.bin").write_bytes(data)
    quantize(tmp_path / "m.bin", tmp_path / "q.bin", "Q4_1")
    p = read_model_file(tmp_path / "q.bin").parameters[key.decode()]
    assert (p.data_type.name, p.array().ravel().tolist()) == ("FP16", list(range(128)))

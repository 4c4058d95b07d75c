"""The model file: reading gives what was written, and other files are refused early."""

import io
import json
import resource
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import GOLDEN, random_parameters, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_np.errors import FormatError, RwkvError
from rwkv_np.files.format import parameter_bytes, read_model_file, write_header, write_parameter_header
from rwkv_np.files.quants import by_name
from rwkv_np.models import load

SMALL = (GOLDEN / "golden-4v0.Q5_1.bin").read_bytes()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bin")), ids=lambda p: p.name)
def test_a_file_written_from_what_was_read_is_the_same_file(path):
    file, out = read_model_file(path), io.BytesIO()
    write_header(out, file.header)
    for p in file.parameters.values():
        start = out.tell()
        write_parameter_header(out, p.name, p.shape, p.data_type)
        out.write(p.data.tobytes())
        assert out.tell() - start == parameter_bytes(p.name, p.shape, p.data_type)
    assert out.getvalue() == path.read_bytes()


def test_the_reader_decodes_only_what_is_asked_for(golden):
    p = read_model_file(golden("Q4_0.bin")).parameters["blocks.0.ffn.key.weight"]
    assert p.shape == (256, 64)
    np.testing.assert_array_equal(p.rows(slice(3, 5)), p.array()[3:5])
    np.testing.assert_array_equal(np.concatenate([x for _, x in p.chunks(1000)]), p.array())


def parameter_offset(data, name, n_dims):
    """The offset of that parameter: 12 bytes, then its shape, then its name."""
    return data.index(name.encode()) - 4 * n_dims - 12


def patched(offset, value):
    return SMALL[:offset] + struct.pack("<i", value) + SMALL[offset + 4 :]


MATRIX = parameter_offset(SMALL, "blocks.0.att.key.weight", 2)
CASES = {
    "empty": (b"", "is empty"),
    "pth": (None, "is a PyTorch checkpoint; .* rwkv-np convert"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(100), "GGUF file"),
    "ggml": (b"lmgg" + bytes(100), "ggml file of another program"),
    "safetensors": (struct.pack("<Q", 60) + b'{"a":{}}' + bytes(100), "safetensors checkpoint; .*convert"),
    "text": ("Über 世界\n".encode() * 100, "is a text file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
    "noise": (b"\x93\x00\xff" * 100, "a file of an unknown kind"),
    "header cut": (SMALL[:17], "ends after 17 bytes; the header takes 24"),
    "version 99": (patched(4, 99), "version 99; supported versions: 100 and 101"),
    "negative layers": (patched(16, -2), "n_layer = -2"),
    "unknown type": (patched(MATRIX + 8, 77), "blocks.0.att.key.weight uses the unknown data type code 77"),
    "Q4_2": (patched(MATRIX + 8, 5), "Q4_2 .code 5., which no program supports any more"),
    "Q4_3": (patched(MATRIX + 8, 6), "Q4_3"),
    "Q4_1_O in 101": (patched(MATRIX + 8, 4), "only in version 100 files"),
    "Q5_1 in 100": (patched(4, 100), "more than one layout .* rwkv-np quantize"),
    "huge name": (patched(MATRIX + 4, 2**30), "claims 2 dimensions and a name of 1073741824 bytes"),
    "huge rank": (patched(MATRIX, 2**30), "claims 1073741824 dimensions"),
    "huge shape": (patched(MATRIX + 16, 2**31 - 1), "ends in the middle of blocks.0.att.key.weight"),
    "negative shape": (patched(MATRIX + 12, -64), r"has the shape \(64, -64\)"),
    "ragged row": (patched(MATRIX + 12, 63), "rows of whole blocks of 32"),
    "bad name": (SMALL.replace(b"blocks.0.att.key", b"blocks.0.\xff\xfftt.key"), "has the name"),
    "control name": (SMALL.replace(b"blocks.0.att.key", b"blocks.0.\x1b[mt.key"), "has the name"),
    "doubled": (SMALL.replace(b"blocks.1.att.key", b"blocks.0.att.key"), "parameter blocks.0.att.key.weight twice"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_not_a_model_is_named(tmp_path, case):
    data, message = CASES[case]
    path = tmp_path / "x.bin"
    if data is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"")
    else:
        path.write_bytes(data)
    with pytest.raises(FormatError, match=message) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("n_bytes", [25, 40, 70, 1000, len(SMALL) // 2, len(SMALL) - 1])
def test_a_truncated_file_says_what_it_lacks(tmp_path, n_bytes):
    path = tmp_path / "cut.bin"
    path.write_bytes(SMALL[:n_bytes])
    with pytest.raises(FormatError, match=f"ends in the middle of .*the file has {n_bytes} bytes"):
        load(path)


def test_a_file_cut_between_two_parameters_lacks_the_rest(tmp_path):
    path = tmp_path / "cut.bin"
    path.write_bytes(SMALL[: parameter_offset(SMALL, "ln_out.bias", 1)])
    with pytest.raises(FormatError, match="lacks the parameter ln_out.bias and 1 more"):
        load(path)


def test_a_missing_file_is_an_error_of_the_system_and_a_folder_one_of_ours(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.bin")
    with pytest.raises(FormatError, match="is a folder; give the file with the weights"):
        load(tmp_path)


mutations = st.lists(
    st.tuples(st.integers(0, len(SMALL) - 1), st.sampled_from([0, 1, 2, 7, 127, 128, 255])), min_size=1, max_size=8
)


@settings(max_examples=400, deadline=None)
@given(changes=mutations, length=st.one_of(st.none(), st.integers(0, len(SMALL))))
def test_damaged_bytes_give_a_model_or_our_own_error(tmp_path_factory, changes, length):
    data = bytearray(SMALL)
    for at, value in changes:
        data[at] = value
    check(tmp_path_factory, bytes(data[:length]))


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 400), value=st.integers(-(2**31), 2**31 - 1))
def test_damaged_numbers_at_the_start_give_a_model_or_our_own_error(tmp_path_factory, at, value):
    check(tmp_path_factory, SMALL[:at] + struct.pack("<i", value) + SMALL[at + 4 :])


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"fmgg", SMALL[:24], SMALL[:60]]))
def test_any_bytes_give_our_own_error(tmp_path_factory, data, start):
    check(tmp_path_factory, start + data)


def check(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.bin"
    path.write_bytes(data)
    try:
        model = load(path)
    except RwkvError:
        return
    with np.errstate(all="ignore"):
        assert model.forward([1, 2, 3])[0].shape == (101,)


def test_absurd_sizes_allocate_nothing(tmp_path):
    path = tmp_path / "absurd.bin"
    path.write_bytes(SMALL[:8] + struct.pack("<4i", *[2**31 - 1] * 3, 8) + SMALL[24:])
    code = f"import rwkv_np; rwkv_np.load({str(path)!r})"
    limit = 4 * 2**30  # of address space: NumPy and its threads reserve over 1 GB
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert "FormatError" in child.stderr and "n_layer = 2147483647" in child.stderr


def test_inspect_shows_header_types_parameters_and_tokenizer(golden, run_cli):
    out = run_cli("inspect", golden("Q4_1.bin")).stdout
    assert "RWKV-4, Q4_1, file version 101" in out and "n_layer 2   n_embd 64   vocabulary 101" in out
    assert "blocks.1.ffn.value.weight" in out and "64 x 256" in out and "tokenizer.json" in out
    report = json.loads(run_cli("inspect", golden("Q4_1.bin"), "--json").stdout)
    assert report["header"] == {"version": 101, "n_vocab": 101, "n_embed": 64, "n_layer": 2, "data_type": "Q4_1"}
    assert sum(row["parameters"] for row in report["types"]) == len(report["parameters"]) == 42
    assert {row["type"]: row["bits_per_weight"] for row in report["types"]}["Q4_1"] == 5


def test_a_header_of_a_type_that_no_matrix_has_is_not_taken_for_the_truth(tmp_path, run_cli):
    path = tmp_path / "liar.bin"
    data = write_model(path, random_parameters(np.random.default_rng(0)), "FP16").read_bytes()
    path.write_bytes(data[:20] + struct.pack("<i", by_name("Q4_1").code) + data[24:])
    assert load(path).config.data_type == "FP16" and not load(path).config.is_quantized
    out = run_cli("inspect", path).stdout
    assert "RWKV-4, FP16, file" in out
    assert "warning: the header says Q4_1, but no matrix has that type; most are FP16" in out
    report = json.loads(run_cli("inspect", path, "--json").stdout)
    assert report["header"]["data_type"] == "Q4_1" and report["data_type"] == "FP16"


def test_a_header_of_a_type_that_some_matrices_have_is_right(tmp_path, run_cli, golden):
    path = tmp_path / "mixed.bin"
    run_cli("quantize", golden("FP16.bin"), path, "Q4_1", "--keep", "blocks.*.ffn.*=Q8_0")
    assert load(path).config.data_type == "Q4_1"
    assert "warning" not in run_cli("inspect", path).stdout


def test_inspect_shows_a_file_that_cannot_be_run_and_says_why(tmp_path, run_cli):
    arrays = random_parameters(np.random.default_rng(0))
    del arrays["ln_out.bias"]
    result = run_cli("inspect", write_model(tmp_path / "part.bin", arrays), code=1)
    assert "ln_out.weight" in result.stdout and "lacks the parameter ln_out.bias" in result.stderr

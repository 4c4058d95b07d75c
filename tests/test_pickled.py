"""The names in a checkpoint are read as in PyTorch, and nothing that a file names is called."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from rwkv_np.conversion import checkpoint
from rwkv_np.conversion.checkpoint import read_tensors
from rwkv_np.errors import CheckpointError
from rwkv_np.files import pickled, pth
from rwkv_np.files.pickled import UnknownName, read_pickle


def no_name(name):
    raise UnknownName(name)


def read(data):
    return read_pickle(io.BytesIO(data), no_name, no_name)


words = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text() | st.binary()
data = st.recursive(
    words, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner), max_leaves=30
)


@given(content=data, protocol=st.integers(3, 5))
def test_plain_data_is_read_as_python_reads_it(content, protocol):
    assert read(pickle.dumps(content, protocol)) == content


class Calls:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("call", [(os.mkdir, ("ran",)), (eval, ("1",)), (pickle.loads, (b"",)), (dict, ())], ids=str)
def test_a_name_that_is_not_known_ends_the_reading(call, protocol):
    with pytest.raises(UnknownName):
        read(pickle.dumps([Calls(*call)], protocol))


@pytest.mark.parametrize(
    "program",
    [b"", b"\x80\x02", b"\x80\x02.", b"\x80\x02}K\x01u.", b"\x80\x02h\x05.", b"\x80\x02K\x01R.", b"\x80\x02\x85.",
     b"\x80\x02]K\x01s.", b"\x80\x02t.", b"\x80\x02(K\x01o.", b"\x80\x02\x82\x01.", b"\x80\x02K\x01K\x02b0.", b"\xff",
     b"\x80\x02X\xff\xff\xff\x7fabc.", b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".", b"(lp0\n."],
    ids=repr,
)  # fmt: skip
def test_nonsense_is_a_value_error(program):
    with pytest.raises(ValueError):
        read(program)


def test_a_key_whose_hash_takes_for_ever_is_refused():
    program = b"\x80\x02}N" + b"q\x00h\x00\x86" * 100 + b"Ns."  # ((((None, None), ...)))
    with pytest.raises(ValueError):
        read(program)


def contents(path, expected=None):
    """(type, shape, bytes) of each tensor, as read by this program and by PyTorch."""
    expected = expected or torch.load(path, weights_only=True)
    ours = {name: (t.dtype, t.shape, t.whole().numpy().tobytes()) for name, t in read_tensors(path).items()}
    theirs = {
        name: (str(t.dtype), tuple(t.shape), t.detach().float().contiguous().numpy().tobytes())
        for name, t in expected.items()
    }
    return ours, theirs


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_of_all_kinds_are_read_as_pytorch_reads_them(tmp_path, is_zip, protocol):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 10, 4, generator=generator)
    module = torch.nn.Linear(3, 5)
    parameter = torch.nn.Parameter(x[0])
    parameter.note = "with an attribute"
    content = {
        "odd": torch.randn(3, generator=generator).bfloat16(), "half": x.half(), "a": x, "view": x[2:4, 1], "t": x[1].T,
        "parameter": parameter, "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4), "strided": x[::2, ::3],
        "broadcast": torch.tensor([2.0]).expand(3, 4), **module.state_dict(),
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    # With weights_only, PyTorch cannot read its own files of protocol 4 and later.
    ours, theirs = contents(tmp_path / "x.pth", None if protocol < 4 else content)
    assert ours == theirs
    assert list(ours) == list(content)


def test_a_state_dict_with_its_metadata_is_read(tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 5)).state_dict(), tmp_path / "x.pth")
    ours, theirs = contents(tmp_path / "x.pth")
    assert ours == theirs and list(ours) == ["0.weight", "0.bias"]


def test_storages_of_an_old_file_lie_at_any_byte(tmp_path):
    path = tmp_path / "x.pth"
    starts = set()
    for n in range(1, 9):
        torch.save({"x" * n: torch.arange(5.0)}, path, _use_new_zipfile_serialization=False)
        starts |= {place.start % 4 for place in pth.read_legacy(path).places.values()}
        assert next(iter(read_tensors(path).values())).whole().tolist() == [0, 1, 2, 3, 4]
    assert starts == {0, 1, 2, 3}


def test_what_an_old_file_says_of_its_machine_and_version_is_checked(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"x": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x88X", b"\x89X", 1))  # little_endian = False
    with pytest.raises(CheckpointError, match="big-endian"):
        read_tensors(path)
    path.write_bytes(data.replace(struct.pack("<H", 1001), struct.pack("<H", 1002), 1))
    with pytest.raises(CheckpointError, match="unknown version"):
        read_tensors(path)


def damaged_zip(path, old, new):
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new, 1))


def test_changed_bytes_are_found(tmp_path):
    x = torch.arange(1000.0)
    torch.save({"x": x, "y": x[3:]}, tmp_path / "x.pth")
    damaged_zip(tmp_path / "x.pth", struct.pack("<f", 500), struct.pack("<f", 501))
    tensors = read_tensors(tmp_path / "x.pth")
    for name in "xy":
        with pytest.raises(CheckpointError, match="CRC-32 of data/0 does not match"):
            tensors[name].verify()


def test_a_file_without_sums_is_taken_as_it_is(tmp_path):
    with torch.serialization.skip_data():  # as set_crc32_options(False) of newer versions leaves them
        torch.save({"x": torch.zeros(4)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert archive.getinfo("x/data/0").CRC == 0
    tensors = read_tensors(tmp_path / "x.pth")
    tensors["x"].verify()
    np.testing.assert_array_equal(tensors["x"].whole(), np.zeros(4))


def repacked(path, compression):
    """The archive, repacked as by another program."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_parts_are_refused_with_what_to_do(tmp_path, compression):
    torch.save({"x": torch.zeros(1000)}, tmp_path / "x.pth")
    repacked(tmp_path / "x.pth", compression)
    with pytest.raises(CheckpointError, match=r"its entries are compressed \(x/data/0\).* zip -0 -r"):
        read_tensors(tmp_path / "x.pth")


def test_an_archive_that_was_packed_again_without_compression_is_read(tmp_path):
    torch.save({"x": torch.arange(9.0), "y": torch.arange(3.0)[1:]}, tmp_path / "x.pth")
    repacked(tmp_path / "x.pth", zipfile.ZIP_STORED)
    assert {name: t.whole().tolist() for name, t in read_tensors(tmp_path / "x.pth").items()} == {
        "x": list(range(9)), "y": [1, 2],
    }  # fmt: skip


def test_a_list_of_names_that_unpacks_to_gigabytes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(pth.MAX_NAMES + 1))
    with pytest.raises(CheckpointError, match="its list of names has over 16,777,216 bytes"):
        read_tensors(tmp_path / "x.pth")


def test_a_list_of_names_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "MAX_INSTRUCTIONS", 1000)
    torch.save(dict.fromkeys(map(str, range(500)), torch.zeros(1)), tmp_path / "x.pth")  # one tensor, many names
    with pytest.raises(CheckpointError, match="its list of names has no valid end"):
        read_tensors(tmp_path / "x.pth")


def test_a_safetensors_file_with_a_huge_list_of_names_is_refused(tmp_path, monkeypatch):
    safetensors.torch.save_file({f"x{i}": torch.zeros(1) for i in range(21)}, tmp_path / "x.safetensors")
    monkeypatch.setattr(pth, "MAX_TENSORS", 20)
    with pytest.raises(CheckpointError, match="contains 21 tensors or more; RWKV models have at most 20"):
        read_tensors(tmp_path / "x.safetensors")
    monkeypatch.setattr(checkpoint, "_MAX_HEADER", 100)
    with pytest.raises(CheckpointError, match="its list of names has over 100 bytes"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("is_zip", [True, False])
def test_more_tensors_than_any_model_has_are_refused(tmp_path, monkeypatch, is_zip):
    monkeypatch.setattr(pth, "MAX_TENSORS", 20)
    torch.save({f"x{i}": torch.zeros(1) for i in range(21)}, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match="contains 21 tensors or more; RWKV models have at most 20"):
        read_tensors(tmp_path / "x.pth")

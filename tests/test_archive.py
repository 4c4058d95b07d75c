"""Archives from untrusted sources, and files that are not archives: refused, without unpacking anything large."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from rwkv_np.errors import FileError
from rwkv_np.files.archive import Damaged, open_archive


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def archive(tmp_path):
    """Write members to an archive, and open it."""

    def write(**members):
        with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in members.items():
                file.writestr(f"{name}.npy", data)
        return open_archive(tmp_path / "a")

    return write


@pytest.mark.parametrize("x", [X, X.T, X[:0], X[0, 0], X.astype(">f4"), X.astype("f2"), X > 1, X.astype("u1")])
def test_arrays_of_numbers_are_what_numpy_wrote(archive, x):
    with archive(x=npy(x)) as opened:
        found = opened.array("x", x.nbytes)
        assert (found.dtype, found.shape) == (x.dtype, x.shape) == opened.header("x")[:2]
        np.testing.assert_array_equal(found, x)


def test_a_word_is_read_and_anything_else_is_refused(archive):
    words = dict(a="v4", b="", c="a\x1b[2J", d=X, e=["v4"], f="x" * 99)
    with archive(**{name: npy(np.array(x)) for name, x in words.items()}) as opened:
        assert opened.word("a") == "v4"
        for name in "bcdef":
            with pytest.raises(Damaged):
                opened.word(name)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [0x110000, 0xFFFFFFFF, 0xD800])
def test_numbers_that_are_not_characters_are_not_a_word(archive, order, code):
    """NumPy makes an array of them, and raises SystemError when they are converted to a string."""
    words = np.array([code], f"{order}u4").view(f"{order}U1").reshape(())
    with archive(a=npy(np.array("v4", f"{order}U2")), b=npy(words)) as opened:
        assert opened.word("a") == "v4"
        with pytest.raises(Damaged):
            opened.word("b")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), } \n",
        b"{'descr': '<f3', 'fortran_order': False, 'shape': (2, 3), } \n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), } \n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), } \n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 500 + b"2, 3), } \n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, " + b"9" * 5000 + b"), } \n",
        b"{'descr': '\\d', 'fortran_order': False, 'shape': (2, 3), } \n",
        b"__import__('os').system('true')\n",
    ],
)
def test_the_header_of_an_array_is_matched_and_never_evaluated(archive, header, monkeypatch):
    monkeypatch.setattr("ast.literal_eval", None)
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + X.tobytes()
    with archive(x=data) as opened, pytest.raises(Damaged):
        opened.array("x", X.nbytes)


def test_what_is_too_large_too_short_or_not_there_is_refused(archive):
    with archive(x=npy(X), short=npy(X)[:-1], long=npy(X) + b"\0", large=npy(np.zeros(10_000))) as opened:
        for name, message in (("short", "says 24"), ("long", "says 24"), ("large", "at most"), ("y", "y is missing")):
            with pytest.raises(Damaged, match=message):
                opened.array(name, X.nbytes)
        assert opened.header("large").n_bytes == 80_000


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_refused(tmp_path, how):
    with zipfile.ZipFile(tmp_path / "a", "w", how) as file:
        file.writestr("x.npy", npy(X))
    with open_archive(tmp_path / "a") as opened, pytest.raises(Damaged, match="has an unsupported compression"):
        opened.array("x", X.nbytes)


def test_each_damaged_byte_is_refused_or_changes_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", npy(X))
    data = (tmp_path / "a").read_bytes()
    n_refused = 0
    for at in range(len(data)):
        for new in (data[at] ^ 1, data[at] ^ 0x80, 255 - data[at]):
            (tmp_path / "a").write_bytes(data[:at] + bytes([new]) + data[at + 1 :])
            try:
                with open_archive(tmp_path / "a") as opened:
                    np.testing.assert_array_equal(opened.array("x", X.nbytes), X)
            except Damaged as error:
                n_refused += 1
                assert str(error).isprintable()
    assert n_refused > len(data)


def test_a_member_of_a_false_packed_size_takes_no_memory(tmp_path):
    """Python allocates as many packed bytes as the directory declares, up to the requested size."""
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.txt", b"hello" * 10)
    data = bytearray((tmp_path / "a").read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 24] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "a").write_bytes(data)
    tracemalloc.start()
    with open_archive(tmp_path / "a") as opened:
        try:
            opened.read("a.txt", 32_000_000)
        except Damaged:
            pass
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


# --- files that are not archives


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_is_refused_at_once_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="is a pipe"), open_archive(tmp_path / "pipe"):
        pass

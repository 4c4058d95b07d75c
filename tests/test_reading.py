"""Every reader refuses at once what is not a regular file of a plausible size; texts may come through pipes."""

import contextlib
import io
import os
import shutil
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from waiting import PATIENCE

from rwkv_np.chat.opening import read_opening
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.quantize import quantize
from rwkv_np.conversion.time_state import load_start_state
from rwkv_np.errors import BaseFileError, FileError, FormatError, TextError
from rwkv_np.evaluation.base_file import BaseFile
from rwkv_np.evaluation.text import read_text
from rwkv_np.files import reading
from rwkv_np.files.mapped import MappedFile
from rwkv_np.files.opened import OpenedFile
from rwkv_np.files.reading import open_regular, read_regular, read_stream, read_text_file
from rwkv_np.models import load
from rwkv_np.models.inspection import inspect
from rwkv_np.models.state import load_state
from rwkv_np.tokenizers import load_tokenizer
from rwkv_np.toml import read_toml

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs named pipes and devices")
ROOT = Path(__file__).parents[1]


def fifo(folder):
    os.mkfifo(folder / "x")
    return folder / "x", "is a pipe"


def folder(folder):
    return folder, "is a folder"


def zero(_):
    return "/dev/zero", "is a device"


def unix_socket(folder):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)
        server.bind("x")  # a longer path does not fit into such an address
    return folder / "x", "No such device"


STRANGE = [fifo, folder, zero]
READERS = {
    "model": load,
    "inspected": inspect,
    "checkpoint": lambda path: convert(path, "model.bin"),
    "quantized": lambda path: quantize(path, "model.bin", "Q4_0"),
    "settings": read_toml,
    "opening": read_opening,
    "base": BaseFile,
}


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_not_regular_is_refused_at_once(tmp_path, monkeypatch, reader, what):
    monkeypatch.chdir(tmp_path)
    path, message = what(tmp_path)
    with pytest.raises(FileError, match=message):
        READERS[reader](path)


@pytest.mark.parametrize("what", [fifo, zero])
def test_a_tokenizer_or_state_that_is_not_a_regular_file_is_refused_at_once(tmp_path, tiny_model, what):
    path, message = what(tmp_path)
    config = load(tiny_model).config
    readers = [load_tokenizer, lambda p: load_state(p, config), lambda p: load_start_state(p, config)]
    for read in [*readers, lambda p: read_opening(f"{p}")]:
        with pytest.raises(FileError, match=message):
            read(path)


def test_a_socket_is_not_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, message = unix_socket(tmp_path)
    with pytest.raises(OSError, match=message):
        open_regular(path, FormatError)


def test_a_file_over_its_limit_is_refused_and_one_at_it_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"y" * 1000)
    assert read_regular(tmp_path / "x", 1000, TextError) == b"y" * 1000
    assert read_text_file(tmp_path / "x", 1000, TextError) == b"y" * 1000
    for read in (read_regular, read_text_file):
        with pytest.raises(TextError, match="x: has more than 0 MB, the limit for such a file"):
            read(tmp_path / "x", 999, TextError)


def test_a_stream_is_read_no_further_than_its_limit():
    class Endless(io.RawIOBase):
        n_read = 0

        def read(self, n):
            self.n_read += n
            return b"x" * n

    stream = Endless()
    with pytest.raises(TextError, match="-: has more than 3 MB"):
        read_stream(stream, "-", 3 * 10**6, TextError)
    assert stream.n_read <= 3 * 10**6 + 1


def test_a_huge_settings_file_or_tokenizer_is_refused(tmp_path):
    with open(tmp_path / "x.toml", "wb") as file:
        file.truncate(10**12)  # a sparse file: it takes no space
    with pytest.raises(FileError, match="has more than 4 MB"):
        read_toml(tmp_path / "x.toml")
    with pytest.raises(FileError, match="has more than 256 MB"):
        load_tokenizer(tmp_path / "x.toml")


def test_a_device_is_not_a_text(tmp_path):
    with pytest.raises(TextError, match="/dev/zero: is a device; expected a regular file"):
        read_text("/dev/zero")
    with pytest.raises(TextError, match="is a folder"):
        read_text(tmp_path)


def test_texts_come_through_pipes():
    script = "import sys; from rwkv_np.evaluation.text import read_text; print(*map(read_text, sys.argv[1:]))"
    command = f"printf first | '{sys.executable}' -c '{script}' /dev/stdin <(printf second)"
    child = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert child.stdout == "first second\n", child.stderr


@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_a_message_that_does_not_end_is_refused(tmp_path, monkeypatch, run_cli, tiny_model, source):
    monkeypatch.setattr(reading, "_STEP", 1000)
    script = """
        import sys
        from rwkv_np.cli import chat, main

        chat.MESSAGE_LIMIT = 10_000
        main(["chat", *sys.argv[1:]])
    """
    script = "\n".join(line[8:] for line in script.splitlines())
    child = subprocess.Popen(
        [sys.executable, "-c", script, tiny_model, "-f", source], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=ROOT,
    )  # fmt: skip
    try:
        while True:
            child.stdin.write(b"x" * 1000)
    except BrokenPipeError:
        pass
    finally:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdin = None
        stderr = child.communicate(timeout=PATIENCE)[1].decode()
    assert child.returncode == 1 and "has more than 0 MB" in stderr and "Traceback" not in stderr


def test_many_tiny_parameters_are_refused_early(tmp_path, tiny_model):
    """400,000 of them took 17 s. Nothing after the first 10,000 is read."""
    header = Path(tiny_model).read_bytes()[:24]
    parts = (struct.pack("<4i", 1, 6, 0, 1) + f"{i:06}".encode() + bytes(4) for i in range(10_001))
    (tmp_path / "many.bin").write_bytes(header + b"".join(parts) + b"no parameter at all")
    with pytest.raises(FormatError, match="contains more than 10,000 parameters"):
        load(tmp_path / "many.bin")


# --- files that are truncated while they are in use


def test_a_mapped_file_that_was_cut_says_so(tmp_path):
    (tmp_path / "x").write_bytes(bytes(20_000))
    file = MappedFile(tmp_path / "x", BaseFileError)
    file.check()
    os.truncate(tmp_path / "x", 10_000)
    with pytest.raises(BaseFileError, match="was truncated from 20,000 to 10,000 bytes"):
        file.check()


@pytest.mark.parametrize("engine", ["fused", "numpy"])
@pytest.mark.parametrize("tokens", [5, list(range(200))], ids=["decode", "prefill"])
def test_a_model_file_that_was_cut_while_in_use_ends_in_an_error_and_not_in_a_signal(tiny_model, engine, tokens):
    script = """
import sys, os, rwkv_np
from rwkv_np.errors import FormatError
model = rwkv_np.load(sys.argv[1], engine=sys.argv[2])
model.forward(eval(sys.argv[3]))
os.truncate(sys.argv[1], 0)
try:
    model.forward(eval(sys.argv[3]))
except FormatError as error:
    print(error)
"""
    child = subprocess.run(
        [sys.executable, "-c", script, tiny_model, engine, str(tokens)], capture_output=True, text=True, cwd=ROOT
    )
    assert child.returncode == 0, child
    assert "bytes while it was in use. Copy or download it again under another name" in child.stdout


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_file_that_is_cut_while_a_matrix_is_packed_ends_in_an_error(tiny_model, threads):
    """Reading the rest of that matrix from a mapped file ended in SIGBUS."""
    script = """
import os, sys
from rwkv_np.kernels import pack as packing
pack, path = packing.pack, sys.argv[1]
def cut_and_pack(*args):
    os.truncate(path, 0)
    pack(*args)
packing.pack = cut_and_pack
import rwkv_np
try:
    rwkv_np.load(path, threads=int(sys.argv[2]))
except rwkv_np.errors.FormatError as error:
    print(error)
"""
    child = subprocess.run(
        [sys.executable, "-c", script, tiny_model, str(threads)], capture_output=True, text=True, cwd=ROOT
    )
    assert child.returncode == 0, child
    assert "to 0 bytes while it was in use" in child.stdout and child.stdout.count("\n") == 1


def test_what_is_left_of_a_model_file_that_was_cut_is_still_read(tiny_model):
    """The weights are in memory, and the embedding is the first parameter: its first rows are there."""
    model = load(tiny_model)
    before = model.forward([1, 2, 3])[0]
    os.truncate(tiny_model, os.path.getsize(tiny_model) // 2)
    np.testing.assert_array_equal(model.forward([1, 2, 3])[0], before)


def test_a_part_that_several_threads_read_is_that_of_the_file(tmp_path):
    """Nobody moves the file's position."""
    content = np.random.default_rng(0).integers(0, 256, 2**20, np.uint8)
    content.tofile(tmp_path / "x")
    file = OpenedFile(tmp_path / "x", FormatError)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda start: file.read(start, 5000), range(0, 2**20 - 5000, 4999)))
    for start, part in zip(range(0, 2**20, 4999), found):
        np.testing.assert_array_equal(part, content[start : start + 5000])


@pytest.mark.parametrize("use", ["convert", "quantize"])
def test_a_file_that_is_cut_while_it_is_converted_or_quantized_ends_in_an_error(tmp_path, model_fp16, use):
    golden = Path(__file__).parent / "data" / "golden-4v0" / "golden-4v0.pth"
    source = shutil.copy(golden, tmp_path / "model.pth") if use == "convert" else model_fp16
    script = f"""
import os, sys
from rwkv_np.conversion.{use} import {use}
from rwkv_np.errors import FileError
options = dict(progress=lambda *_: os.truncate(sys.argv[1], 100)) | {dict(threads=1) if use == "quantize" else {}}
try:
    {use}(sys.argv[1], sys.argv[2], *{["Q4_0"] if use == "quantize" else []}, **options)
except FileError as error:
    print(error)
"""
    child = subprocess.run(
        [sys.executable, "-c", script, source, tmp_path / "out.bin"], capture_output=True, text=True, cwd=ROOT
    )
    assert child.returncode == 0, child
    assert "bytes while it was in use" in child.stdout
    assert not (tmp_path / "out.bin").exists() and not list(tmp_path.glob(".*"))


def test_a_file_that_was_replaced_is_still_the_old_one(tmp_path, tiny_model):
    model = load(tiny_model)
    before = model.forward([1, 2, 3])[0]
    other = tmp_path / "other.bin"
    other.write_bytes(b"short")
    os.replace(other, tiny_model)
    np.testing.assert_array_equal(model.forward([1, 2, 3])[0], before)


def test_the_null_device_is_an_empty_file():
    """For `--config /dev/null`."""
    assert read_regular(os.devnull, 10, FileError) == read_text_file(os.devnull, 10, FileError) == b""

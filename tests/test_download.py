"""hf:// fetches a file once, goes on where it broke off, and fails in one line.

Each test runs a server on loopback that answers as the hub does, and the program in a process
of its own, because huggingface_hub reads HF_ENDPOINT when it is imported.
"""

import math
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from local_hub import Hub
from shapes import checkpoint_of
from waiting import PATIENCE, until_written

from rwkv_np.chat.templates import template_for
from rwkv_np.cli.convert import command
from rwkv_np.errors import InputError
from rwkv_np.files import download
from rwkv_np.files.hub import fetch
from rwkv_np.files.published import FIRST, PUBLISHED

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "data" / "golden-4v0"
CONTENT = (GOLDEN / "golden-4v0.pth").read_bytes()
REFERENCE = (GOLDEN / "golden-4v0.FP16.bin").read_bytes()
# More than a socket's buffers hold, and a break in the middle of a piece.
LARGE = os.urandom(2**20) * 6
CUT = 3 * 2**20 + 12345
FETCH = "import sys; from rwkv_np.files.hub import fetch; print(fetch(sys.argv[1]))"


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def stored():
    """The hub with a storage on another port."""
    server = Hub(has_storage=True)
    yield server
    server.close()


@pytest.fixture
def start(hub, tmp_path):
    """Start Python with the loopback hub and a cache of its own; returns the process."""

    def start(*args, stderr=subprocess.PIPE, **settings):
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": "",
        }
        return subprocess.Popen(
            [sys.executable, *map(str, args)], env=environment | settings, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=stderr, text=True, encoding="utf-8",
        )  # fmt: skip

    return start


@pytest.fixture
def run(start):
    """Run it to its end: (exit code, stdout, stderr)."""

    def run(*args, **settings):
        child = start(*args, **settings)
        stdout, stderr = child.communicate(timeout=PATIENCE)
        return child.returncode, stdout, stderr

    return run


def parts(tmp_path):
    return list((tmp_path / "hf").rglob("*.part"))


def failure(result):
    code, stdout, stderr = result
    assert code == 1, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    errors = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, stderr
    assert stderr.endswith(errors[0] + "\n")
    return errors[0]


def test_a_checkpoint_is_downloaded_and_converted_to_the_reference_bytes(hub, run, tmp_path):
    pytest.importorskip("torch")
    hub.files["golden.pth"] = CONTENT
    code, stdout, stderr = run("tools/convert.py", "hf://o/r/golden.pth", tmp_path / "model.bin")
    assert code == 0, stderr
    assert (tmp_path / "model.bin").read_bytes() == REFERENCE
    assert "model.bin: " in stdout


@pytest.mark.parametrize(
    "name",
    ["a.pth", "folder/b c.pth", "RWKV-4-Raven-3B-v12-Eng98%-Other2%-20230520-ctx4096.pth", "模型 #1?%41.pth"],
)
def test_any_name_is_fetched_byte_for_byte_and_not_asked_for_again(hub, run, name):
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        pytest.skip("in this locale no process can be given such a name")
    hub.files[name] = CONTENT
    code, stdout, stderr = run("-c", FETCH, f"hf://o/r/{name}", PYTHONUTF8="1")
    assert code == 0, stderr
    path = Path(stdout.rstrip("\n"))
    assert path.name == name.rpartition("/")[2]
    assert path.read_bytes() == CONTENT
    hub.requests.clear()
    assert run("-c", FETCH, f"hf://o/r/{name}", PYTHONUTF8="1")[1] == stdout
    assert hub.requests == []


def test_a_download_that_broke_off_goes_on_within_the_same_run(hub, run):
    hub.files["large.pth"] = LARGE
    hub.cuts = [CUT, CUT + 100_000, CUT + 100_001]
    code, stdout, stderr = run("-c", FETCH, "hf://o/r/large.pth")
    assert code == 0, stderr
    assert hub.gets() == [0, CUT, CUT + 100_000, CUT + 100_001]
    assert Path(stdout.strip()).read_bytes() == LARGE


@pytest.fixture
def killed(hub, start, tmp_path):
    """Kill a download of large.pth of which a part has come; returns how much of it is on the disk."""

    def kill():
        hub.cut = CUT
        child = start("-c", FETCH, "hf://o/r/large.pth")
        until_written(child, tmp_path / "hf", "*.part")
        child.kill()
        child.communicate()
        hub.forget()
        hub.cut = None
        (part,) = parts(tmp_path)
        return part.stat().st_size

    return kill


def test_a_download_that_was_killed_goes_on_in_the_next_run(hub, killed, run, tmp_path):
    hub.files["large.pth"] = LARGE
    done = killed()
    assert 0 < done <= CUT
    code, stdout, stderr = run("-c", FETCH, "hf://o/r/large.pth")
    assert code == 0, stderr
    assert hub.gets() == [done]
    assert Path(stdout.strip()).read_bytes() == LARGE
    assert not parts(tmp_path)


def test_a_part_of_an_older_upload_is_not_continued_with_a_newer_one(hub, killed, run):
    hub.files["large.pth"] = bytes(len(LARGE))
    killed()
    hub.files["large.pth"] = LARGE
    code, stdout, stderr = run("-c", FETCH, "hf://o/r/large.pth")
    assert code == 0, stderr
    assert Path(stdout.strip()).read_bytes() == LARGE


def test_what_the_hub_s_own_cache_holds_is_taken_from_there(hub, run):
    hub.files["golden.pth"] = CONTENT
    script = "from huggingface_hub import hf_hub_download; print(hf_hub_download('o/r', 'golden.pth'))"
    code, theirs, stderr = run("-c", script)
    assert code == 0, stderr
    hub.requests.clear()
    assert run("-c", FETCH, "hf://o/r/golden.pth")[1] == theirs
    assert hub.requests == []


def test_a_name_that_is_not_there_is_one_line(run, tmp_path):
    line = failure(run("tools/convert.py", "hf://o/r/none.pth", tmp_path / "model.bin"))
    assert "hf://o/r/none.pth: download failed: 404" in line
    assert "run the command again" in line
    assert os.listdir(tmp_path) == ["hf"]


def test_no_server_is_one_line(run, tmp_path):
    with socket.socket() as nobody:  # has a port, and does not listen at it
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        result = run("tools/convert.py", "hf://o/r/a.pth", tmp_path / "m.bin", HF_ENDPOINT=address)
    assert "hf://o/r/a.pth: download failed: " in failure(result)


def test_offline_mode_is_one_line_and_asks_nobody(hub, run, tmp_path):
    hub.files["a.pth"] = CONTENT
    result = run("tools/convert.py", "hf://o/r/a.pth", tmp_path / "m.bin", HF_HUB_OFFLINE="1")
    assert "offline" in failure(result).lower()
    assert hub.requests == []


def test_an_existing_destination_is_refused_before_the_download(hub, run, tmp_path):
    hub.files["golden.pth"] = CONTENT
    (tmp_path / "model.bin").write_bytes(b"old")
    line = failure(run("tools/convert.py", "hf://o/r/golden.pth", tmp_path / "model.bin"))
    assert "--overwrite" in line
    assert hub.requests == []


@pytest.mark.parametrize("source", ["hf://", "hf://o", "hf://o/r", "hf://o/r/", "hf://o//a", "hf://o/r/../a"])
def test_an_address_that_names_no_file_shows_what_one_looks_like(source):
    with pytest.raises(InputError, match=f"expected hf://OWNER/REPO/FILE, such as {re.escape(FIRST.source)}"):
        fetch(source)


def test_without_huggingface_hub_the_command_that_installs_it_is_shown(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    result = CliRunner().invoke(command, ["hf://o/r/a.pth", str(tmp_path / "model.bin")])
    assert result.exit_code == 1
    assert "pip install 'rwkv-np[convert]'" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
def test_a_terminal_sees_the_download_and_then_the_parameters_go_by(hub, start, tmp_path):
    pytest.importorskip("torch")
    hub.files["golden.pth"] = CONTENT
    import fcntl
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 200, 0, 0))
    child = start("tools/convert.py", "hf://o/r/golden.pth", tmp_path / "model.bin", stderr=theirs)
    os.close(theirs)
    screen = b""
    while chunk := _read_or_end(ours):
        screen += chunk
    os.close(ours)
    child.communicate()
    assert child.returncode == 0
    assert b"golden.pth" in screen
    assert b"100%" in screen
    assert b"Converting" in screen
    assert b"head.weight" in screen


def _read_or_end(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other side has closed
        return b""


def test_the_published_models_are_of_rwkv_7_and_as_large_as_their_shapes():
    for name, model in PUBLISHED.items():
        family, _, size = name.partition("-")
        assert model.repository == {"g1": "BlinkDL/rwkv7-g1", "world": "BlinkDL/rwkv-7-world"}[family]
        assert re.match({"g1": r"rwkv7-g1[a-z]-", "world": "RWKV-x070-World-"}[family] + size, model.file, re.I)
        assert model.file.endswith(".pth") and re.fullmatch("[0-9a-f]{64}", model.sha256)
        shapes = checkpoint_of("v7-" + size.replace(".", "b").removesuffix("b"))
        weights = 2 * sum(math.prod(shape) for shape in shapes.values())  # bfloat16
        assert weights < model.n_bytes < weights * 1.001
        assert template_for(65536, "v7", model.file).name == family

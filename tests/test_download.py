"""hf:// downloads a file once, resumes an interrupted download, and fails in one line.

Each test runs a server on loopback that answers like the hub, and the program in a child process, because
huggingface_hub reads HF_ENDPOINT when it is imported.
"""

import math
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from shapes import checkpoint_of
from waiting import PATIENCE, until, until_written

from rwkv_np.chat.templates import template_for
from rwkv_np.cli.convert import command
from rwkv_np.errors import InputError
from rwkv_np.files.download import fetch
from rwkv_np.files.published import FIRST, PUBLISHED

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "data" / "golden-4v0"
CONTENT = (GOLDEN / "golden-4v0.pth").read_bytes()
REFERENCE = (GOLDEN / "golden-4v0.FP16.bin").read_bytes()
# More than huggingface_hub writes at a time (10 MiB), and an interruption after the first piece.
LARGE = os.urandom(2**20) * 24
CUT = 15 * 2**20
FETCH = "import sys; from rwkv_np.files.download import fetch; print(fetch(sys.argv[1]))"


class Hub(ThreadingHTTPServer):
    """Serves one repository, o/r. `cut` is the number of bytes of a file that are sent before the connection breaks."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.cut = None
        self.requests = []  # (method, first byte requested)
        self.tag = "0123456789abcdef" * 4
        self._busy = 0  # requests that were accepted and not completely answered
        self._lock = threading.Lock()

    def process_request(self, request, client_address):
        with self._lock:
            self._busy += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._busy -= 1

    def handle_error(self, request, client_address):
        """A killed client is not an error of the server."""

    def forget(self):
        """Begin a new list of requests, after the requests of a killed client have ended."""
        socket.create_connection(self.server_address, PATIENCE).close()  # accepted after all earlier ones
        until(lambda: self._busy == 0, "the end of all requests")
        self.requests.clear()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def log_message(self, *_):
        pass

    def answer(self, send_body):
        hub = self.server
        name = unquote(self.path).removeprefix("/o/r/resolve/main/")
        asked = self.headers.get("Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        hub.requests.append((self.command, start))
        if name not in hub.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = hub.files[name]
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{hub.tag}"')
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if send_body:
            self.wfile.write(content[start : hub.cut])


@pytest.fixture
def hub():
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def start(hub, tmp_path):
    """Start Python with the loopback hub and a separate cache; returns the process."""

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
    """Run to the end: (exit code, stdout, stderr)."""

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

    class Mended(Handler):
        def answer(self, send_body):
            hub.cut = CUT if ("GET", 0) not in hub.requests else None
            super().answer(send_body)

    hub.RequestHandlerClass = Mended
    code, stdout, stderr = run("-c", FETCH, "hf://o/r/large.pth")
    assert code == 0, stderr
    (_, first), (_, second) = [r for r in hub.requests if r[0] == "GET"]
    assert (first, 0 < second <= CUT) == (0, True)
    assert Path(stdout.strip()).read_bytes() == LARGE


@pytest.fixture
def killed(hub, start, tmp_path):
    """Kill a download of large.pth after a part has arrived; returns how much of it is on the disk."""

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
    assert [r for r in hub.requests if r[0] == "GET"] == [("GET", done)]
    assert Path(stdout.strip()).read_bytes() == LARGE
    assert not parts(tmp_path)


def test_a_part_of_an_older_upload_is_not_continued_with_a_newer_one(hub, killed, run):
    hub.files["large.pth"] = bytes(len(LARGE))
    killed()
    hub.files["large.pth"], hub.tag = LARGE, "f" * 64
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
    with socket.socket() as nobody:  # has a port, but does not listen on it
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
    except OSError:  # on Linux, the other side has closed
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

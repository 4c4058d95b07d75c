"""hf:// downloads a file once, resumes an interrupted download, and fails in one line.

Each test runs a server on loopback that answers like the hub, and the program in a child process, because
huggingface_hub reads HF_ENDPOINT when it is imported.
"""

import email.utils
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
from rwkv_np.errors import DownloadError, InputError
from rwkv_np.files import download, request
from rwkv_np.files.hub import fetch
from rwkv_np.files.published import FIRST, PUBLISHED, published_name

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
        pytest.skip("this locale cannot pass such a name to a process")
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


def test_a_large_file_comes_from_the_storage_which_gets_no_token(stored, run):
    stored.files["large.pth"] = LARGE
    stored.cuts = [CUT]
    code, stdout, stderr = run("-c", FETCH, "hf://o/r/large.pth", HF_TOKEN="hf_secret", HF_ENDPOINT=stored.address)
    assert code == 0, stderr
    assert Path(stdout.strip()).read_bytes() == LARGE
    assert set(stored.tokens) == {"Bearer hf_secret"} and len(stored.tokens) == 3
    assert stored.storage_tokens == [None, None]
    assert stored.requests == [("HEAD", 0), ("GET", 0), ("GET", CUT)]


def test_a_redirect_to_another_name_on_the_hub_keeps_the_token(hub, run):
    """As of a repository that was renamed."""
    hub.files["a.pth"] = CONTENT
    hub.answers = [(307, {"Location": "/o/r/resolve/main/a.pth"})]
    assert run("-c", FETCH, "hf://o/r/old.pth", HF_TOKEN="hf_secret")[0] == 1  # the GET is not redirected, and fails
    assert hub.tokens[:2] == ["Bearer hf_secret"] * 2


def test_a_server_that_ignores_ranges_begins_again(hub, run):
    hub.files["large.pth"] = LARGE
    hub.ignores_range, hub.cuts = True, [CUT]
    code, stdout, stderr = run("-c", FETCH, "hf://o/r/large.pth")
    assert code == 0, stderr
    assert hub.gets() == [0, CUT]
    assert Path(stdout.strip()).read_bytes() == LARGE


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(hub, tmp_path, monkeypatch, caplog, status):
    hub.files["a.pth"] = CONTENT
    address = request.Address("hf://o/r/a.pth", f"{hub.address}/o/r/resolve/main/a.pth", {})
    remote, place, slept = download.look(address), tmp_path / "a.pth", []
    hub.answers = [(status, {"Retry-After": "7"}), (status, {})]
    monkeypatch.setattr(request.time, "sleep", slept.append)
    download.download(address, str(place), remote)
    assert slept == [7, request.PAUSES[1]] and place.read_bytes() == CONTENT
    assert f"the server answers {status} " in caplog.text and "trying again in 7 s" in caplog.text


def test_a_server_that_sends_nothing_more_is_given_up_and_the_part_stays(hub, tmp_path, monkeypatch):
    hub.files["large.pth"], hub.cut = LARGE, CUT
    place = str(tmp_path / "large.pth")
    monkeypatch.setattr(request, "PAUSES", (0.0, 0.0))
    address = request.Address("hf://o/r/large.pth", f"{hub.address}/o/r/resolve/main/large.pth", {})
    with pytest.raises(DownloadError, match=r"3\.2 of 6\.3 MB: the connection broke, 3 times in a row.* continue"):
        download.download(address, place, download.look(address))
    assert download.bytes_so_far(place) == CUT and not os.path.exists(place)
    assert hub.gets() == [0, CUT, CUT]


def test_a_connection_on_which_nothing_comes_is_broken_off(hub, tmp_path, caplog):
    hub.files["large.pth"], hub.cuts, hub.is_silent = LARGE, [CUT], True
    address = request.Address("hf://o/r/large.pth", f"{hub.address}/o/r/resolve/main/large.pth", {}, timeout=0.5)
    download.download(address, str(tmp_path / "large.pth"), download.look(address))
    assert (tmp_path / "large.pth").read_bytes() == LARGE and hub.gets() == [0, CUT]
    assert "no answer in time after 3.2 of 6.3 MB" in caplog.text


def test_other_bytes_than_announced_are_deleted_and_never_continued(hub, run, tmp_path):
    hub.files["large.pth"] = LARGE
    hub.sent["large.pth"] = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    line = failure(run("tools/convert.py", "hf://o/r/large.pth", tmp_path / "m.bin"))
    assert "has the SHA-256" in line and "is deleted; run the command again" in line
    assert not parts(tmp_path) and not list((tmp_path / "hf").rglob("large.pth"))
    hub.sent.clear()
    assert run("-c", FETCH, "hf://o/r/large.pth")[0] == 0


@pytest.mark.parametrize("sent", [LARGE[:-1000], LARGE + b"more"], ids=["fewer", "more"])
def test_another_length_than_announced_is_refused(stored, run, tmp_path, sent):
    stored.files["large.pth"], stored.sent["large.pth"] = LARGE, sent
    result = run("tools/convert.py", "hf://o/r/large.pth", tmp_path / "m.bin", HF_ENDPOINT=stored.address)
    line = failure(result)
    assert f"the server sends {len(sent):,} bytes, but announced {len(LARGE):,}" in line
    assert not list((tmp_path / "hf").rglob("large.pth"))


def test_a_file_that_is_replaced_during_the_download_is_begun_again(hub, tmp_path):
    hub.files["large.pth"], hub.cuts = bytes(len(LARGE)), [CUT]
    address = request.Address("hf://o/r/large.pth", f"{hub.address}/o/r/resolve/main/large.pth", {})
    remote = download.look(address)
    place = str(tmp_path / "large.pth")
    hub.files["large.pth"] = LARGE
    with pytest.raises(download.Changed):
        download.download(address, place, remote)
    download.download(address, place, download.look(address))
    assert Path(place).read_bytes() == LARGE and os.listdir(tmp_path) == ["large.pth"]


def test_a_part_that_is_longer_than_the_file_is_dropped(hub, tmp_path):
    hub.files["a.pth"] = CONTENT
    address = request.Address("hf://o/r/a.pth", f"{hub.address}/o/r/resolve/main/a.pth", {})
    remote = download.look(address)
    (tmp_path / f"a.pth.{remote.content}.part").write_bytes(CONTENT + b"more")
    download.download(address, str(tmp_path / "a.pth"), remote)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("status, hint", [(401, "log in"), (403, "log in"), (404, "Check the name")])
def test_a_refusal_is_not_repeated(hub, status, hint):
    hub.answers = [(status, {"X-Error-Message": "Access to model o/r is restricted."})]
    address = request.Address("hf://o/r/a.pth", f"{hub.address}/o/r/resolve/main/a.pth", {})
    with pytest.raises(DownloadError, match=f"{status} Access to model o/r is restricted. .*{hint}"):
        download.look(address)
    assert len(hub.tokens) == 1


def test_a_date_says_as_well_as_seconds_when_to_come_back():
    def after(said):
        return request.retry_after(type("Response", (), {"headers": {"Retry-After": said}}))

    assert after("7") == 7 and after("100000") == request.LONGEST_PAUSE and after("soon") == after("") == 0
    assert 50 < after(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_is_said_in_one_line_and_the_next_run_goes_on(hub, start, run, tmp_path):
    hub.files["large.pth"] = LARGE
    faulty = ROOT / "tests" / "faults" / "faulty.py"
    fetching = tmp_path / "fetching.py"
    fetching.write_text("from rwkv_np.cli import main; main(['convert', 'hf://o/r/large.pth', 'm.bin'])")
    child = start(faulty, f"full-at-byte:{CUT}", tmp_path, fetching)
    _, stderr = child.communicate(timeout=PATIENCE)
    assert child.returncode == 1
    assert "could not be written: File too large. Free some space" in stderr and "Traceback" not in stderr
    assert [part.stat().st_size for part in parts(tmp_path)] == [CUT]
    hub.forget()
    assert run("-c", FETCH, "hf://o/r/large.pth")[0] == 0
    assert hub.gets() == [CUT]


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


@pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")
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
    assert b"Downloading" in screen and b" MB" in screen
    assert b"Converting" in screen
    assert b"emb.weight" in screen


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
        assert published_name(model.file) == published_name(f"RWKV7-{name}") == name
        shapes = checkpoint_of("v7-" + size.replace(".", "b").removesuffix("b"))
        weights = 2 * sum(math.prod(shape) for shape in shapes.values())  # bfloat16
        assert weights < model.n_bytes < weights * 1.001
        assert template_for(65536, "v7", model.file).name == family

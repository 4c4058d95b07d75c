"""From a name to a chat: get, list, chat, remove, with a local fake hub; interrupted at every step.

Most tests call the command in this process, with a table of one toy model instead of the published ones. Tests that
need a separate process (killed, a full disk, a lock) use the toy's address, or the table from `toy_program`.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from local_hub import Hub
from waiting import PATIENCE, until

pytest.importorskip("torch")
from make_checkpoint import make_checkpoint
from shapes import checkpoint_of

from rwkv_np import memory
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.quantize import quantize
from rwkv_np.conversion.to_gguf import to_gguf
from rwkv_np.errors import InputError
from rwkv_np.files import hub as hub_module
from rwkv_np.files import published
from rwkv_np.files.format import read_model_file
from rwkv_np.files.published import PUBLISHED, Published, Shape
from rwkv_np.store import making, needs, room
from rwkv_np.store.kept import Store, gguf_type, split
from rwkv_np.store.origin import origin_of

ROOT = Path(__file__).parents[1]
FILE = "rwkv7-g1x-toy.pth"
SOURCE = f"hf://o/r/{FILE}"
SHAPE = Shape(2, 128, (16, 16, 8, 32), vocab_size=256)
TYPES = ("FP16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q4_1_O")


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The bytes of a toy checkpoint of RWKV-7."""
    path = tmp_path_factory.mktemp("toy") / FILE
    make_checkpoint(path, checkpoint_of("v7-toy"))
    return path.read_bytes()


@pytest.fixture
def hub(toy):
    server = Hub(has_storage=True)
    server.files[FILE] = toy
    yield server
    server.close()


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("RWKV_NP_MODELS", str(tmp_path / "models"))
    return Store(tmp_path / "models")


@pytest.fixture
def table(hub, toy, tmp_path, monkeypatch):
    """The toy is a published model, g1-toy, on the hub of this test; returns its row."""
    row = Published("g1-toy", "o/r", FILE, len(toy), hashlib.sha256(toy).hexdigest(), SHAPE)
    monkeypatch.setitem(PUBLISHED, row.name, row)
    real = hub_module._address

    def address(module, source):
        found = real(module, source)
        return replace(found, url=re.sub(r"https?://[^/]+", hub.address, found.url))

    monkeypatch.setattr(hub_module, "_address", address)
    monkeypatch.setattr(hub_module, "find", lambda source: None)  # not the cache of the user who runs the tests
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return row


def files_in(models, name="g1-toy"):
    folder = models.place(name)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def is_empty(models):
    return not list(models.folder.rglob("*"))


def error_of(result):
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


# --- get


def test_a_model_is_downloaded_made_and_found_by_every_command(run_cli, table, hub, models, tmp_path, words):
    result = run_cli("get", "g1-toy", "--type", "Q5_1")
    path = models.place("g1-toy") / "rwkv7-g1x-toy-Q5_1.bin"
    assert result.stdout.startswith(f"g1-toy:Q5_1 is ready: {path}, ")
    assert "rwkv-np chat g1-toy" in result.stdout and f"Downloading {SOURCE}" in result.stderr
    assert files_in(models) == [".lock", "rwkv7-g1x-toy-Q5_1.bin"]  # no checkpoint, and no partial file
    assert path.stat().st_size == needs.needs(SHAPE, "Q5_1").file

    (tmp_path / FILE).write_bytes(hub.files[FILE])
    run_cli("convert", tmp_path / FILE, tmp_path / "fp16.bin")
    run_cli("quantize", tmp_path / "fp16.bin", tmp_path / "q5_1.bin", "Q5_1")
    assert path.read_bytes() == (tmp_path / "q5_1.bin").read_bytes()

    chat = ("-p", "Hello", "--max-tokens", 4, "--temperature", 0)
    by_name = run_cli("chat", "RWKV7-G1-toy", *chat)
    assert by_name.stdout == run_cli("chat", path, *chat).stdout
    assert "rwkv7-g1x-toy-Q5_1.bin" in by_name.stderr
    assert json.loads(run_cli("inspect", "g1-toy:q5_1", "--json").stdout)["path"] == str(path)
    assert "perplexity" in run_cli("evaluate", "g1-toy", "--text", words, "--no-timing").stdout


def test_an_installed_model_is_reported_and_not_downloaded_again(run_cli, table, hub, models):
    run_cli("get", "g1-toy", "--type", "Q4_0")
    hub.forget()
    hub.tokens.clear()
    for words in (("g1-toy",), ("g1-toy", "--type", "q4_0"), ("G1-TOY:Q4_0",), (FILE,), (SOURCE,)):
        result = run_cli("get", *words)
        assert result.stdout.startswith("g1-toy:Q4_0 is here already: ")
    assert not json.loads(run_cli("get", "g1-toy", "--json").stdout)["is_new"]
    assert hub.tokens == []


def test_another_type_is_installed_too_and_the_bare_name_is_the_last_one(run_cli, table, models):
    run_cli("get", "g1-toy", "--type", "Q4_0", "--keep-checkpoint")
    os.utime(models.path("g1-toy"), (1, 1))
    assert FILE in files_in(models)
    table_of_none = models.path("g1-toy")
    run_cli("get", "g1-toy:Q8_0")
    assert files_in(models) == [".lock", f"{FILE[:-4]}-Q4_0.bin", f"{FILE[:-4]}-Q8_0.bin", FILE]
    assert models.path("g1-toy") == models.path("g1-toy:Q8_0") != table_of_none == models.path("g1-toy:Q4_0")


def test_a_kept_checkpoint_and_a_kept_fp16_need_no_second_download(run_cli, table, hub, models):
    run_cli("get", "g1-toy", "--type", "Q4_0", "--keep-checkpoint")
    hub.forget()
    run_cli("get", "g1-toy", "--type", "FP16")
    run_cli("get", "g1-toy", "--type", "Q8_0")
    assert hub.gets() == []
    (models.place("g1-toy") / FILE).unlink()
    run_cli("get", "g1-toy", "--type", "Q5_0")
    assert hub.gets() == []
    assert [kept.data_type for kept in models.models()] == ["FP16", "Q8_0", "Q5_0", "Q4_0"]


def test_a_copy_in_the_hub_s_cache_is_used_and_stays(run_cli, table, hub, models, toy, tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes(toy)
    monkeypatch.setattr(hub_module, "find", lambda source: str(tmp_path / FILE))
    run_cli("get", "g1-toy")
    assert hub.gets() == [] and (tmp_path / FILE).read_bytes() == toy
    (tmp_path / FILE).write_bytes(toy[:-1])  # incomplete
    run_cli("get", "g1-toy", "--type", "Q4_0")
    assert hub.gets() == [0] and (tmp_path / FILE).exists()


def test_a_download_continues_after_a_broken_connection(run_cli, table, hub, models, toy):
    hub.cuts = [len(toy) // 3, len(toy) // 2]
    result = run_cli("get", "g1-toy")
    assert hub.gets() == [0, len(toy) // 3, len(toy) // 2]
    assert "the connection broke after" in result.stderr


def test_the_recommended_type_depends_on_the_memory(run_cli, table, models, monkeypatch):
    for share, expected in ((1.01, "Q8_0"), (0.999, "Q5_1")):
        memory_of_q8_0 = needs.needs(SHAPE, "Q8_0").memory
        monkeypatch.setattr(memory, "installed", lambda n=memory_of_q8_0 * share / room.SHARE: int(n))
        assert room.default_type(origin_of("g1-toy")) == expected
    monkeypatch.setattr(memory, "installed", lambda: None)
    run_cli("get", "g1-toy")
    assert models.models()[0].data_type == "Q8_0"


@pytest.mark.parametrize("what", ["g1-toy", SOURCE])
def test_a_file_that_differs_from_the_table_is_refused_before_the_download(run_cli, table, hub, models, what):
    hub.files[FILE] = hub.files[FILE][:-1] + b"?"
    line = error_of(run_cli("get", what, code=1))
    assert "the hub has another file there" in line and f"rwkv-np get {SOURCE} --name NAME" in line
    assert hub.gets() == [] and is_empty(models)


def test_an_address_and_a_path_can_be_installed_under_a_name(run_cli, table, hub, models, toy, tmp_path, monkeypatch):
    monkeypatch.delitem(PUBLISHED, "g1-toy")
    run_cli("get", SOURCE, "--name", "Mine", "--type", "Q8_0")
    (tmp_path / "My World.pth").write_bytes(toy)
    (tmp_path / "My World.tokenizer.json").write_text("{}")
    run_cli("get", tmp_path / "My World.pth", "--type", "Q4_1")
    assert [kept.reference for kept in models.models()] == ["mine:Q8_0", "my-world:Q4_1"]
    assert files_in(models, "my-world") == [".lock", "My World-Q4_1.bin", "tokenizer.json"]
    assert (tmp_path / "My World.pth").read_bytes() == toy
    line = error_of(run_cli("get", tmp_path / "My World.pth", "--name", "mine", code=1))
    assert "mine is already installed, made from rwkv7-g1x-toy" in line
    line = error_of(run_cli("get", tmp_path / "My World.pth", "--name", "g1-0.1b", code=1))
    assert "g1-0.1b is the name of a published model" in line


def gguf_of(toy, folder, data_type="Q8_0"):
    """The toy as the bytes of a GGUF file."""
    (folder / FILE).write_bytes(toy)
    convert(folder / FILE, folder / "fp16.bin")
    quantize(folder / "fp16.bin", folder / "q.bin", data_type)
    to_gguf(folder / "q.bin", folder / "q.gguf", vocabulary={})
    return (folder / "q.gguf").read_bytes()


def test_a_gguf_file_is_installed_as_it_is(run_cli, table, hub, models, toy, tmp_path):
    data = hub.files["rwkv7-g1-toy-Q8_0.GGUF"] = gguf_of(toy, tmp_path)
    source = "hf://o/r/rwkv7-g1-toy-Q8_0.GGUF"
    hub.cuts = [len(data) // 2]
    result = run_cli("get", source, "--name", "mine")
    path = models.place("mine") / "rwkv7-g1-toy-Q8_0.gguf"
    assert result.stdout.startswith(f"mine:Q8_0 is ready: {path}, ") and "rwkv-np chat mine" in result.stdout
    assert path.read_bytes() == data and files_in(models, "mine") == [".lock", "rwkv7-g1-toy-Q8_0.gguf"]
    n_gets = len(hub.gets())
    assert "mine:Q8_0 is here already" in run_cli("get", source, "--name", "mine").stdout
    assert len(hub.gets()) == n_gets
    (row,) = json.loads(run_cli("list", "--json").stdout)["models"]
    assert (row["name"], row["type"], row["bytes"], row["made_from"]) == ("mine", "Q8_0", len(data), path.stem)
    assert row["memory"] and "mine  Q8_0" in run_cli("list").stdout
    chat = ("-p", "Hello", "--max-tokens", 4, "--temperature", 0)
    assert run_cli("chat", "mine:q8_0", *chat).stdout == run_cli("chat", path, *chat).stdout
    assert "mine is installed as Q8_0" in error_of(run_cli("remove", "mine:Q4_K_M", "--yes", code=1))
    run_cli("remove", "mine", "--yes")
    assert is_empty(models)


def test_a_gguf_file_of_another_model_is_not_kept(run_cli, table, hub, models, toy, tmp_path):
    data = gguf_of(toy, tmp_path)
    hub.files["llama.gguf"] = data.replace(b"\x05\0\0\0\0\0\0\0rwkv7", b"\x05\0\0\0\0\0\0\0llama", 1)
    line = error_of(run_cli("get", "hf://o/r/llama.gguf", code=1))
    assert "hf://o/r/llama.gguf: is a GGUF file of the architecture 'llama'" in line and is_empty(models)


def test_a_gguf_file_has_its_own_type_and_is_not_copied(run_cli, table, hub, models, toy, tmp_path, monkeypatch):
    source = "hf://o/r/x-Q4_K_M.gguf"
    line = error_of(run_cli("get", source, "--type", "Q8_0", code=1))
    assert "is installed in its own type; omit Q8_0" in line
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert f"rwkv-np chat {tmp_path / 'x.gguf'}" in error_of(run_cli("get", tmp_path / "x.gguf", code=1))
    hub.files["x-Q4_K_M.gguf"] = bytes(1000)
    monkeypatch.setattr(memory, "installed", lambda: 50_000_000)
    assert "x-q4_k_m needs 80 MB of memory, and this machine has 50 MB" in error_of(run_cli("get", source, code=1))
    assert hub.gets() == [] and is_empty(models)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("rwkv7-g1g-1.5b-Q4_K_M", "Q4_K_M"), ("rwkv7-1.5B-world-q4_k_m", "Q4_K_M"), ("x-20260831-ctx4096-FP16", "FP16"),
        ("x.Q6_K", "Q6_K"), ("x-bf16", "BF16"), ("x-iq4_xs", "IQ4_XS"), ("x-Q8_0", "Q8_0"), ("x", "GGUF"),
        ("Q4", "GGUF"),
    ],
)  # fmt: skip
def test_the_type_of_a_gguf_file_is_in_its_name(name, expected):
    assert gguf_type(name) == expected and split(f"x:{expected.lower()}") == ("x", expected)


@pytest.mark.parametrize(
    "words, expected",
    [
        (["g1-0.2b"], "did you mean g1-0."),
        (["nonsense"], "rwkv-np list --available shows the names"),
        (["hf://o/r"], "expected hf://OWNER/REPO/FILE"),
        ([SOURCE, "--name", "../x"], "expected letters, digits"),
    ],
)
def test_an_error_says_what_can_be_installed(run_cli, models, words, expected):
    assert expected in error_of(run_cli("get", *words, code=1))
    assert is_empty(models)


def test_an_older_checkpoint_of_the_same_name_is_reported(run_cli, table, models, monkeypatch):
    run_cli("get", "g1-toy")
    monkeypatch.setitem(PUBLISHED, "g1-toy", replace(table, file="rwkv7-g1y-toy.pth"))
    said = run_cli("get", "g1-toy").stdout
    assert "made from rwkv7-g1x-toy; this version of the program knows rwkv7-g1y-toy" in said
    assert "rwkv-np remove g1-toy && rwkv-np get g1-toy:Q8_0" in said


# --- disk space and memory


def test_too_little_memory_is_an_error_before_the_download(run_cli, table, hub, models, monkeypatch):
    needed = {t: needs.needs(SHAPE, t).memory for t in TYPES}
    monkeypatch.setattr(memory, "installed", lambda: needed["Q5_1"])
    line = error_of(run_cli("get", "g1-toy", "--type", "Q8_0", code=1))
    assert f"needs {room.gb(needed['Q8_0'])} of memory as Q8_0" in line
    assert f"this machine has {room.gb(needed['Q5_1'])}. " in line
    assert "Another type fits: rwkv-np get g1-toy --type Q5_1" in line
    monkeypatch.setattr(memory, "installed", lambda: 400_000_000)
    line = error_of(run_cli("get", "g1-2.9b", code=1))
    assert "The largest model that fits: rwkv-np get g1-0.4b --type Q4_1, 390 MB" in line
    assert hub.tokens == [] and is_empty(models)
    monkeypatch.setattr(memory, "installed", lambda: 10)
    run_cli("get", "g1-toy", "--type", "Q8_0", "--force")
    assert models.path("g1-toy:Q8_0")


@pytest.mark.parametrize(
    "options, files", [(["--type", "Q4_0"], "FP16"), (["--type", "FP16"], "FP16"), (["--keep-checkpoint"], "both")]
)
def test_too_little_disk_space_is_an_error_before_the_download(
    run_cli, table, hub, models, monkeypatch, options, files
):
    peak = table.n_bytes + needs.needs(SHAPE, "FP16").file
    peak += needs.needs(SHAPE, "Q8_0").file if files == "both" else 0
    free = [peak - 1]
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free[0]}))
    line = error_of(run_cli("get", "g1-toy", *options, "--force", code=1))
    assert f"needs {room.gb(peak)} of disk space" in line and "or choose another folder: --models" in line
    assert hub.gets() == [] and is_empty(models)
    free[0] = peak
    run_cli("get", "g1-toy", *options)


def test_downloaded_bytes_need_no_disk_space_again(run_cli, table, hub, models, monkeypatch):
    part = models.place("g1-toy") / "making" / f"{FILE}.{table.sha256[:16]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.files[FILE][:100_000])
    free = table.n_bytes + needs.needs(SHAPE, "FP16").file - 100_000
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free}))
    run_cli("get", "g1-toy")
    assert hub.gets() == [100_000]


def test_without_torch_nothing_is_downloaded(run_cli, table, hub, models, monkeypatch):
    monkeypatch.setattr(making.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'rwkv-np[convert]'" in error_of(run_cli("get", "g1-toy", code=1))
    assert hub.tokens == [] and is_empty(models)


@pytest.mark.parametrize("data_type", TYPES)
def test_the_file_s_size_is_computed_to_the_byte(data_type, table, run_cli, models):
    run_cli("get", "g1-toy", "--type", data_type)
    assert os.path.getsize(models.path("g1-toy")) == needs.needs(SHAPE, data_type).file
    assert needs.memory_of(read_model_file(models.path("g1-toy"))) == needs.needs(SHAPE, data_type).memory


@pytest.mark.parametrize("data_type", ["Q4_0", "Q5_1", "Q8_0", "FP16"])
def test_the_reported_memory_is_that_of_the_packed_weights(data_type, table, run_cli, models):
    """The rest of a process's memory was measured, but is not tested: docs/models.md."""
    from rwkv_np.models import load

    run_cli("get", "g1-toy", "--type", data_type)
    rest = needs.PROCESS + needs.TOKENS * needs.PER_CHANNEL * SHAPE.n_embd
    told = needs.needs(SHAPE, data_type).memory - rest
    assert told == pytest.approx(load(models.path("g1-toy")).weights.size, rel=0.01)


# --- interrupted


@pytest.mark.parametrize("step", ["convert", "quantize"])
def test_an_interrupted_step_starts_again_without_a_download(run_cli, table, hub, models, monkeypatch, step):
    real = getattr(making, step)

    def interrupted(source, destination, *words, **options):
        real(source, destination, *words, **options)
        os.unlink(destination)
        raise KeyboardInterrupt

    monkeypatch.setattr(making, step, interrupted)
    result = run_cli("get", "g1-toy", "--type", "Q4_0", code=130)
    assert "Run the same command again to continue" in result.stderr
    assert [FILE, f"{FILE[:-4]}-FP16.bin"][step == "quantize"] in [Path(name).name for name in files_in(models)]
    assert "g1-toy: unfinished" in run_cli("list").stdout
    monkeypatch.setattr(making, step, real)
    hub.forget()
    run_cli("get", "g1-toy", "--type", "Q4_0")
    assert hub.gets() == [] and files_in(models) == [".lock", f"{FILE[:-4]}-Q4_0.bin"]


def test_files_of_an_older_checkpoint_are_deleted(run_cli, table, models):
    left = models.place("g1-toy") / "making" / "rwkv7-g1w-toy.pth"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"older")
    run_cli("get", "g1-toy")
    assert not left.exists()


@pytest.fixture
def program(hub, models, tmp_path):
    """Start `rwkv-np` in a separate process, or with faulty.py around it, with the toy's hub."""

    def start(*words, fault=None, **variables):
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {
            "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        faulty = [ROOT / "tests/faults/faulty.py", fault, models.folder, "rwkv-np"]
        command = [sys.executable, *(faulty if fault else ["-m", "rwkv_np"]), *words]
        return subprocess.Popen(
            [str(word) for word in command], env=environment | variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip

    return start


@pytest.fixture
def run_program(program):
    def run(*words, **options):
        child = program(*words, **options)
        stdout, stderr = child.communicate(timeout=PATIENCE)
        return child.returncode, stdout, stderr

    return run


GET = ("get", SOURCE, "--name", "toy", "--type", "Q4_0")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_after_a_kill_before_any_file_change_the_next_run_succeeds(run_program, models, hub):
    """Each run continues where the previous one was killed, and gets one file change further."""
    code, step = None, 0
    while code != 0:
        step += 1
        code, _, stderr = run_program(*GET, fault=f"kill-at-step:{step}")
        assert code in (0, -signal.SIGKILL), stderr
        assert all(kept.n_bytes == needs.needs(SHAPE, "Q4_0").file for kept in models.models())
    assert step > 4
    (kept,) = models.models()
    assert kept.n_bytes == needs.needs(SHAPE, "Q4_0").file
    assert files_in(models, "toy") == [".lock", kept.path.name] and hub.gets().count(0) <= 3


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("step", ["download", "convert", "quantize"])
def test_a_full_disk_is_one_line_and_the_next_run_continues(run_program, run_cli, models, hub, toy, tmp_path, step):
    if step != "download":
        folder = models.place("toy") / "making"
        folder.mkdir(parents=True)
        (folder / FILE).write_bytes(toy)
    if step == "quantize":
        run_cli("convert", folder / FILE, folder / f"{FILE[:-4]}-FP16.bin")
    code, _, stderr = run_program(*GET, fault="full-at-byte:400000")
    assert code == 1 and "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert "could not be written: File too large. Free some space" in line
    hub.forget()
    assert run_program(*GET)[0] == 0
    assert hub.gets() == ([400_000] if step == "download" else [])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_second_process_waits_and_the_model_cannot_be_removed_meanwhile(program, run_program, hub, models, toy):
    hub.cut = len(toy) // 2  # the first process waits for the rest, with growing pauses
    first = program(*GET)
    until(lambda: hub.gets().count(len(toy) // 2) > 1, "the first process waiting")
    second = program(*GET)
    assert "Another process is getting toy; waiting" in second.stderr.readline()
    code, _, stderr = run_program("remove", "toy", "--yes")
    assert code == 1 and "is being downloaded by another process" in stderr
    hub.cut = None
    outputs = [child.communicate(timeout=PATIENCE)[0] for child in (first, second)]
    assert "is ready" in outputs[0] and "is here already" in outputs[1]
    assert hub.gets().count(0) == 1


def test_get_chat_and_remove_in_separate_processes(run_program, models):
    code, stdout, stderr = run_program(*GET)
    assert code == 0, stderr
    assert run_program("list", "--json")[1].count('"toy"') == 1
    environment = os.environ | {"RWKV_NP_MAX_TOKENS": "4"}
    answer = subprocess.run(
        [sys.executable, "-m", "rwkv_np.chat", "toy", "-p", "Hello"], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0 and "rwkv7-g1x-toy-Q4_0.bin" in answer.stderr, answer.stderr
    code, stdout, _ = run_program("remove", "toy", "--yes")
    assert code == 0 and re.search(r"Removed \S*toy, freed \d+ kB", stdout)
    assert os.listdir(models.folder) == []


# --- list and remove


def test_a_list_has_name_type_size_memory_and_date(run_cli, table, models):
    assert "No models are installed in" in run_cli("list").stdout
    run_cli("get", "g1-toy", "--type", "Q4_0", "--keep-checkpoint")
    os.utime(models.path("g1-toy"), (1e9, 1e9))
    header, row, checkpoint = run_cli("list").stdout.splitlines()
    assert header.split() == ["name", "type", "file", "memory", "date"]
    day = time.strftime("%Y-%m-%d", time.localtime(1e9))
    assert row.split()[:2] == ["g1-toy", "Q4_0"] and day in row and " MB " in row
    assert "its checkpoint is kept too" in checkpoint
    found = json.loads(run_cli("list", "--json", "--available").stdout)
    (one,) = found["models"]
    assert one["bytes"] == os.path.getsize(one["path"]) == needs.needs(SHAPE, "Q4_0").file
    assert one["memory"] == needs.needs(SHAPE, "Q4_0").memory and found["checkpoints"] == {"g1-toy": table.n_bytes}
    assert {row["name"] for row in found["available"]} == set(PUBLISHED)
    shown = run_cli("list", "--available").stdout
    assert all(name in shown for name in PUBLISHED)


def test_a_damaged_file_is_listed_as_such(run_cli, models):
    models.place("mine").mkdir(parents=True)
    (models.place("mine") / "mine-Q4_0.bin").write_bytes(b"no model")
    assert "damaged" in run_cli("list").stdout
    assert json.loads(run_cli("list", "--json").stdout)["models"][0]["memory"] is None


def test_remove_asks_unless_confirmed_and_reports_the_freed_bytes(run_cli, table, models):
    run_cli("get", "g1-toy", "--type", "Q4_0", "--keep-checkpoint")
    run_cli("get", "g1-toy", "--type", "Q8_0")
    n_bytes = os.path.getsize(models.path("g1-toy:Q8_0"))
    assert "add --yes" in error_of(run_cli("remove", "g1-toy", code=1))
    assert models.remove("g1-toy:Q8_0") == n_bytes
    assert [kept.data_type for kept in models.models()] == ["Q4_0"]
    assert "installed as Q4_0" in error_of(run_cli("remove", "g1-toy:Q8_0", "--yes", code=1))
    (models.place("g1-toy") / "notes.txt").write_text("mine")
    assert "Removed g1-toy, freed 1 MB" in run_cli("remove", "g1-toy", "--yes").stdout
    assert files_in(models) == [".lock", "notes.txt"]
    assert "no model of that name" in error_of(run_cli("remove", "g1-toy", "--yes", code=1))


# --- names


def test_a_file_wins_over_a_name(run_cli, table, models, tmp_path, monkeypatch):
    run_cli("get", "g1-toy")
    monkeypatch.chdir(tmp_path)
    Path("g1-toy").write_bytes(b"a file")
    assert models.path("g1-toy") == "g1-toy"
    Path("g1-toy").unlink()
    Path("g1-toy").mkdir()
    assert models.path("g1-toy") == str(models.models()[0].path)


@pytest.mark.parametrize(
    "given, expected",
    [
        ("g1-1.5b", "this model is not installed. Get it: rwkv-np get g1-1.5b"),
        ("RWKV7-G1-1.5B", "Get it: rwkv-np get g1-1.5b"),
        ("g1-15b", "did you mean g1-1.5b"),
        ("qwerty", "rwkv-np list --available shows the names"),
        ("g1-1.5b:Q9", "unknown type 'Q9'; expected one of FP16"),
    ],
)
def test_an_unknown_name_gets_the_closest_and_the_command(run_cli, models, given, expected):
    for words in (
        ["chat", given],
        ["inspect", given],
        ["quantize", given, "x.bin"],
        ["evaluate", given, "--text", "x"],
    ):
        assert expected in error_of(run_cli(*words, code=1))


@pytest.mark.parametrize("given", ["none.bin", "folder/none", "g1-1.5b-Q4_1.bin"])
def test_an_argument_that_looks_like_a_path_is_a_path(run_cli, models, given):
    assert "No such file" in error_of(run_cli("chat", given, code=1))


def test_every_alias_means_its_model():
    for name, row in PUBLISHED.items():
        assert {published.published_name(alias.upper()) for alias in row.aliases} == {name}
        assert split(f"rwkv7-{name}:q4_0") == (name, "Q4_0")
    assert published.published_name("none") is None


# --- the folder


def test_the_folder_comes_from_an_option_a_variable_a_setting_or_the_default(run_cli, tmp_path, monkeypatch):
    def folder(*words):
        return json.loads(run_cli("list", "--json", *words).stdout)["folder"]

    monkeypatch.delenv("RWKV_NP_MODELS", raising=False)
    monkeypatch.delenv("RWKV_NP_CONFIG", raising=False)
    assert folder().endswith(os.path.join("rwkv-np", "models"))
    config = tmp_path / "config.toml"
    config.write_text(f"[models]\nfolder = '{tmp_path / 'of-file'}'\n")
    monkeypatch.setenv("RWKV_NP_CONFIG", str(config))
    assert folder() == str(tmp_path / "of-file")
    monkeypatch.setenv("RWKV_NP_MODELS", str(tmp_path / "of-variable"))
    assert folder() == str(tmp_path / "of-variable")
    assert folder("--models", str(tmp_path / "of-option")) == str(tmp_path / "of-option")


def test_the_chat_uses_the_folder_in_its_own_settings_file(run_cli, table, tmp_path, monkeypatch):
    run_cli("get", "g1-toy", "--models", tmp_path / "elsewhere")
    config = tmp_path / "config.toml"
    config.write_text(f"[models]\nfolder = '{tmp_path / 'elsewhere'}'\n[chat]\nmodel = 'g1-toy'\nmax_tokens = 4\n")
    assert "rwkv7-g1x-toy" in run_cli("chat", "--config", config, "-p", "Hello").stderr


@pytest.mark.parametrize("text", ["models = 3", "[models]\nfolder = 3", "[models]\nfolders = 'x'"])
def test_a_mistake_in_the_setting_is_reported(run_cli, tmp_path, monkeypatch, text):
    (tmp_path / "config.toml").write_text(text)
    monkeypatch.setenv("RWKV_NP_CONFIG", str(tmp_path / "config.toml"))
    assert '[models] has one setting: folder = "FOLDER"' in error_of(run_cli("list", code=1))


def test_an_origin_needs_a_valid_name(tmp_path):
    (tmp_path / "模型.pth").write_bytes(b"")
    with pytest.raises(InputError, match="--name"):
        origin_of(str(tmp_path / "模型.pth"))

"""README and docs are correct: their commands run, and their links and names exist.

The blocks of a document run in order, in a separate folder and without a network. The reader's files are small
stand-ins: checkpoints and models with random weights, including a download. For work that would take hours (training,
measuring) only the command line is parsed.
"""

import configparser
import functools
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
import torch
from conftest import random_parameters, write_model
from make_checkpoint import command as make_checkpoint
from pages import ROOT, anchors, blocks, commands, inline_code, links, prose, table_rows, written
from serving import running
from versions import as_checkpoint

from rwkv_np import demo
from rwkv_np.chat.commands import COMMANDS
from rwkv_np.chat.defaults import DEFAULTS
from rwkv_np.cli import convert as convert_cli
from rwkv_np.cli import main
from rwkv_np.conversion.to_gguf import to_gguf
from rwkv_np.files.published import PUBLISHED
from rwkv_np.serve.bodies import ChatRequest
from rwkv_np.store import making

DOCUMENTS = written()
LANGUAGES = {"sh", "python", "toml", "text"}
FILE = re.compile(r"[\w./-]+\.(bin|gguf|pth|txt|jsonl|toml|so|py|dat|json)")
SERVED = "http://127.0.0.1:8000"  # where a server runs, in documents
OUTPUTS = ("--save", "--out", "--save-base")
# Folders and files of the checkout, as documents name them, relative to its root.
IN_CHECKOUT = re.compile(r"(?:kernels|rwkv_np|tests|tools|bench|docs|notebooks|\.ci)/[\w./-]*")
WORLD_VOCABULARY = 65536


class Reader:
    """Runs the commands of a document in `folder`."""

    def __init__(self, folder, run_cli):
        self.folder, self.run_cli, self.names = folder, run_cli, {}

    # --- blocks

    def sh(self, text):
        for command in commands(text):
            self.prepare([*self.inputs(command.words), *filter(None, [command.file])])
            self.run(command)

    def python(self, text):
        self.prepare(re.findall(r'"([\w-]+\.pth)"', text))
        if SERVED not in text:
            exec(compile(text, "block", "exec"), self.names)
            return
        with running() as server:
            exec(compile(text.replace(SERVED, server.url), "block", "exec"), self.names)

    def toml(self, text):
        (self.folder / "config.toml").write_text(text, encoding="utf-8")
        self.run_cli("chat", demo.MODEL, "--config", "config.toml", "-p", "Hello")

    def text(self, text):
        """Only shown, not run."""

    # --- commands

    def run(self, command):
        words = command.words
        given = command.text if command.file is None else Path(command.file).read_text()
        if words[0] == "rwkv-np":
            self.rwkv_np(words[1:], given)
        elif words[:3] == ["python", "-m", "rwkv_np.chat"]:
            self.rwkv_np(["chat", *words[3:]], given)
        elif words[0] == "python" and words[1].endswith(".py"):
            self.script(words[1], words[2:], given)
        else:
            CHECKS[words[0]](self, words[1:])

    def rwkv_np(self, words, given):
        if words[0] == "evaluate":
            words = [*words, "--limit", "110", "--no-timing"]
        assert words[0] in main.list_commands(None), words
        # They would not end, need a cluster, or take minutes even for a small model.
        if words[0] == "serve" or "--ray" in words or "--calibrate" in words:
            main.get_command(None, words[0]).make_context(words[0], list(words[1:]))
            return
        self.run_cli(*words, stdin=given or "Hello\n")

    def script(self, path, words, given):
        tool = Path(path).stem
        if path.startswith("tools/") and tool in main.list_commands(None):
            self.rwkv_np([tool, *words], given)
        elif path == "bench/make_checkpoint.py":
            make_checkpoint.main(words, standalone_mode=False)
        else:
            command_of(path).make_context(path, list(words))  # only parses its options and arguments

    # --- files

    def inputs(self, words):
        """The files that a command reads."""
        if "bench/make_checkpoint.py" in words:
            return []
        written_by = [words[i + 1] for i, word in enumerate(words[:-1]) if word in OUTPUTS]
        names = [word for word in words if FILE.fullmatch(word) and word not in written_by]
        if {"convert", "quantize", "tools/convert.py", "tools/quantize.py"} & set(words[:2]):
            names = [name for name in names if not name.startswith("tools/")]
            names = names[:1] if not words[2].startswith("hf://") else []  # the second one is the destination
        if words[:2] == ["rwkv-np", "batch"]:
            names = [name for name in names if name == words[3]]
        return names

    def prepare(self, names):
        """Make stand-ins for files that no command has created yet."""
        for name in names:
            path = self.folder / name
            if path.exists() or path.is_absolute() and not path.is_relative_to(self.folder):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_file():
                for file in (ROOT / name).parent.glob(f"{path.stem}.*"):  # including a model's tokenizer
                    shutil.copy(file, path.parent)
            else:
                STAND_INS[path.suffix](path)


def command_of(path):
    """The click command of a script of the checkout."""
    spec = importlib.util.spec_from_file_location(f"script_{Path(path).stem}", ROOT / path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return next(x for name, x in vars(module).items() if isinstance(x, click.Command) and name in ("command", "main"))


# --- other programs' commands: check what can be wrong in them


def names_what_there_is(reader, words):
    for word in words:
        assert not IN_CHECKOUT.fullmatch(word) or (ROOT / word).exists(), f"{word} does not exist"


def installs_extras_there_are(reader, words):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extras in re.findall(r"\.\[(.*?)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(setup["options.extras_require"]), extras


def copies(reader, words):
    source, destination = words
    reader.prepare([source])
    shutil.copy(source, destination)


def asks_what_can_be_asked(reader, words):
    """curl: the body is one that the server takes."""
    assert words[0] == f"{SERVED}/v1/chat/completions" and words[1] == "-d"
    assert msgspec.json.decode(words[2], type=ChatRequest).messages


CHECKS = dict.fromkeys(("python", "python3", ".", "pytest", "ruff", "jupyter", "ray"), names_what_there_is)
CHECKS |= {"pip": installs_extras_there_are, "cp": copies, "curl": asks_what_can_be_asked}


# --- stand-ins


@functools.cache
def random_weights(version, vocab_size):
    """Random weights of a model with 2 layers and 32 channels, by name."""
    sizes = dict(head_size=32, ranks=(8, 8, 8, 8)) if version == "v7" else {}
    return random_parameters(np.random.default_rng(0), vocab_size=vocab_size, architecture=version, **sizes)


def is_world(path):
    return re.search("g1|world", path.name.lower()) is not None


def checkpoint(path):
    """RWKV-7 with the World vocabulary, or RWKV-4 with bytes or the demo's, depending on the name; or a tuned state."""
    if path.name == "style.pth":
        torch.save({f"blocks.{i}.att.time_state": torch.zeros(1, 32, 32) for i in range(2)}, path)
    elif is_world(path):
        torch.save(as_checkpoint(random_weights("v7", WORLD_VOCABULARY)), path)
    else:
        vocab_size = 4096 if path.name.startswith("demo") else 256
        make_checkpoint.main(["toy", str(path), "--vocab", str(vocab_size)], standalone_mode=False)


def model(path):
    """A model of the same kinds; with the data type in its name, or FP16."""
    found = re.search(r"-(Q\d_\d)", path.name)
    weights = random_weights("v7", WORLD_VOCABULARY) if is_world(path) else random_weights("v4", 256)
    write_model(path, weights, found[1] if found else "FP16")


def gguf(path):
    """A GGUF file of RWKV-7 in float numbers, whatever its name says: there are no encoders of the other types."""
    source = path.with_suffix(".source.bin")
    write_model(source, random_weights("v7", WORLD_VOCABULARY), "FP16")
    to_gguf(source, path)


def text(path):
    path.write_text("The walrus talks of many things, of shoes and ships and sealing wax.\n" * 20)


STAND_INS = {
    ".bin": model,
    ".gguf": gguf,
    ".pth": checkpoint,
    ".txt": text,
    ".jsonl": lambda path: path.write_text(2 * (json.dumps({"text": "The time has come, the walrus said"}) + "\n")),
    ".toml": lambda path: shutil.copy(ROOT / "rwkv_np/chat/openings/raven-en.toml", path),
    ".json": lambda path: shutil.copy(demo.TOKENIZER, path),
    ".so": Path.touch,  # rwkv.cpp's library and converter, which are not run
    ".py": Path.touch,
}


@pytest.fixture
def reader(tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RWKV_NP_MAX_TOKENS", "4")
    monkeypatch.setattr(convert_cli, "fetch", lambda source, **_: downloaded(tmp_path, source))
    monkeypatch.setenv("RWKV_NP_MODELS", str(tmp_path / "models"))
    fetch = lambda source, place, **_: shutil.copy(downloaded(tmp_path, source), place)  # noqa: E731
    monkeypatch.setattr(making.hub, "fetch", fetch)
    monkeypatch.setattr(making.hub, "find", lambda source: None)
    # Whether a real model fits on the machine that runs the tests is no question of a document.
    monkeypatch.setattr(making.room, "check_disk", lambda *_: None)
    monkeypatch.setattr(making.room, "check_memory", lambda *_: None)
    return Reader(tmp_path, run_cli)


def downloaded(folder, source):
    assert source in {entry.source for entry in PUBLISHED.values()}, f"{source} is in no table of ours"
    checkpoint(folder / source.rpartition("/")[2])
    return str(folder / source.rpartition("/")[2])


# --- blocks


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_commands_of_a_document_run(name, reader, capsys):
    for block in blocks(name):
        assert block.language in LANGUAGES, f"a block of {block.language or 'no language'}:\n{block.text}"
        getattr(reader, block.language)(block.text)


def test_a_command_with_a_mistake_is_found(reader):
    wrong = ("rwkv-np chat --tempreature 1", "rwkv-np talk", "python bench/model.py --shap 1b5", "pip install '.[x]'")
    for line in (*wrong, "rwkv-np convert hf://BlinkDL/rwkv7-g1/none.pth none.bin", "pytest bench/none.py"):
        with pytest.raises((AssertionError, click.UsageError)):
            reader.sh(line)


# --- links and names


@pytest.mark.parametrize("name", [*DOCUMENTS, "rwkv_np/data/README.md"])
def test_links_lead_somewhere(name):
    for link in links(name):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{link} does not exist"
        assert not anchor or anchor in anchors(target.relative_to(ROOT) if path else name), f"{link}: no such heading"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_options_and_variables_are_those_that_exist(name):
    commands = [main.get_command(None, found) for found in main.list_commands(None)]
    params = [param for command in commands for param in command.params]
    options = {option for param in params for option in (*param.opts, *param.secondary_opts)}
    options |= {"--help", "--cpu"}  # the latter from tests/aarch64.py
    variables = {param.envvar for param in params} | {"RWKV_NP_CACHE", "RWKV_NP_KERNELS"}
    variables |= {"RWKV_NP_COMPLETE", "RWKV_NP_API_KEYS", "RWKV_NP_CLUSTER_MODEL"}  # the first is used by click
    code = " ".join(inline_code(name))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) <= options
    assert set(re.findall(r"RWKV_NP_\w+", code)) <= variables


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *(n for n in DOCUMENTS if n.startswith("docs/"))])
def test_files_that_are_named_exist(name):
    new = set(re.findall(r"`([^`]+)` \(new\)", prose(name)))
    for code in inline_code(name):
        if code in new:
            assert not (ROOT / code).exists(), f"{code} is not new"
        elif found := IN_CHECKOUT.fullmatch(code):
            assert (ROOT / found[0]).exists(), f"{code} does not exist"
        elif re.fullmatch(r"[a-z]\w*\.py", code):
            assert any(ROOT.rglob(code)), f"no file is called {code}"


def test_names_to_change_in_a_file_are_in_it():
    """CONTRIBUTING: the names in a row's second cell must be in the files of its first cell."""
    n_checked = 0
    for files, what in (row for row in table_rows("CONTRIBUTING.md") if len(row) == 2):
        paths = [ROOT / path for path in re.findall("`([^`]+)`", files)]
        if not paths or not all(path.is_file() for path in paths):
            continue
        sources = "".join(path.read_text() for path in paths)
        for code in re.findall("`([^`]+)`", what):
            if found := re.fullmatch(r"([A-Za-z_]+)(\(.*\))?", code):
                assert re.search(rf"\b{found[1]}\b", sources), f"{files} do not have {found[1]}"
                n_checked += 1
    assert n_checked > 15


@pytest.mark.parametrize("name", ["docs/chat.md", "docs/zh.md", "README.md"])
def test_the_chats_commands_are_those_that_it_has(name):
    named = {found for code in inline_code(name) for found in re.findall(r"(?:^|, )/([a-z]+)\b(?!/)", code)}
    assert named <= {known for command in COMMANDS for known in (command.name, *command.also)}
    if name == "docs/chat.md":
        assert named >= {command.name for command in COMMANDS}


def test_defaults_are_those_of_the_table_in_the_program():
    header, *rows = [row for row in table_rows("docs/chat.md") if len(row) == 5]
    families = header[1:4]
    for setting, *values, _ in rows:
        found = [getattr(DEFAULTS[family].params, setting.strip("`")) for family in families]
        assert values == ["none" if value is None else str(value) for value in found], setting
    assert len(rows) == 9


def test_every_page_can_be_reached_from_readme():
    reached, waiting = set(), ["README.md"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        for link in links(name):
            path = (ROOT / name).parent / link.partition("#")[0]
            if path.suffix == ".md" and path.exists():
                found = path.resolve().relative_to(ROOT).as_posix()
                waiting += [found] if found not in reached and found not in waiting else []
    assert set(DOCUMENTS) <= reached

"""The chat without a terminal: prompts, files, pipes, settings, exit codes. (With one: test_chat_terminal.py.)"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import random_parameters, write_model
from waiting import PATIENCE

from rwkv_np.chat import opening
from rwkv_np.chat.defaults import DEFAULTS
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.models import load

ENGLISH = Path(opening.__file__).parent / "openings" / "raven-en.toml"


@pytest.fixture
def talkative(tmp_path):
    """A model that never stops: every token follows itself, and 'a' follows everything else."""
    arrays = random_parameters(np.random.default_rng(0))
    arrays["head.weight"][:] = 0
    arrays["ln_out.weight"][:], arrays["ln_out.bias"][:] = 0, 1
    arrays["head.weight"][ord("a")] = 1
    return write_model(tmp_path / "talkative.bin", arrays)


@pytest.fixture(autouse=True)
def nobodys_settings(tmp_path, monkeypatch):
    """Ignore the settings of the user who runs the tests."""
    monkeypatch.setenv("RWKV_NP_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    (tmp_path / "config.toml").touch()


@pytest.fixture
def chat(run_cli, talkative):
    """Run `rwkv-np chat` with that model, in this process."""
    return lambda *args, **options: run_cli("chat", talkative, "--temperature", "0", *args, **options)


def chat_command(model, *options):
    return [sys.executable, "-m", "rwkv_np.chat", str(model), "--temperature", "0", *map(str, options)]


def run_chat(model, *options, stdin=""):
    command = chat_command(model, *options)
    return subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", timeout=PATIENCE)


def test_a_prompt_is_answered_once_on_a_clean_stdout(talkative):
    child = run_chat(talkative, "-p", "hello", "--max-tokens", 7)
    assert child.stdout == "aaaaaaa\n" and child.returncode == 0
    assert "RWKV-4, 2 layers, n_embd 32, FP32; bytes tokenizer, raven template" in child.stderr


def test_piped_lines_are_answered_one_by_one_in_one_conversation(talkative):
    child = run_chat(talkative, "--max-tokens", 3, stdin="你好\n\nhello\n")
    assert child.stdout == "aaa\naaa\n" and child.returncode == 0


def test_commands_work_in_a_pipe_and_an_unknown_one_ends_it(chat):
    result = chat("--max-tokens", 3, stdin="/set max_tokens 2\nHi\n/regen\n/nonsense\nHo\n", code=1)
    assert result.stdout == "aa\naa\n" and "Error: /nonsense is not a command" in result.stderr
    assert chat("--max-tokens", 3, stdin="Hi\n/exit\nHo\n").stdout == "aaa\n"


def test_a_file_is_one_message_with_the_prompt_after_it(chat, tmp_path):
    (tmp_path / "q.txt").write_text("One.\n\n/two\n", encoding="utf-8")
    result = chat("-f", tmp_path / "q.txt", "-p", "Why?", "--max-tokens", 2, "--json")
    assert json.loads(result.stdout)["message"] == "One.\n\n/two\nWhy?"
    result = chat("-f", "-", "--max-tokens", 2, "--json", stdin="+ a\nb")
    assert json.loads(result.stdout)["message"] == "+ a\nb"


def test_a_file_that_is_no_text_is_named_with_the_place(chat, tmp_path):
    (tmp_path / "q.bin").write_bytes(b"abc\xff")
    assert "q.bin: byte 0xFF at offset 3 is not UTF-8" in chat("-f", tmp_path / "q.bin", code=1).stderr
    assert "none: No such file" in chat("-f", tmp_path / "none", code=1).stderr


def test_a_byte_order_mark_hides_no_command_in_a_pipe(chat):
    stdin = "/set max_tokens 2\r\nHi\r\n".encode("utf-8-sig") + "\ufeff/set max_tokens 3\rHo\r".encode()
    assert chat("--max-tokens", 9, stdin=stdin).stdout == "aa\naaa\n"


def test_input_that_is_no_utf_8_is_named_with_its_place_in_the_whole(chat):
    """Python's own offset counts from the start of its last read."""
    stdin = ("é" * 5000 + "\n" * 300).encode()
    result = chat("--max-tokens", 2, stdin=stdin + b"Hi\xff\n", code=1)
    at = len(stdin) + 2
    assert f"the input: byte 0xFF at offset {at} is not UTF-8" in result.stderr and result.stdout == "aa\n"


def test_a_line_without_an_end_is_refused(chat, monkeypatch):
    monkeypatch.setattr("rwkv_np.text.LINE_LIMIT", 1000)
    assert "has a line of more than 1,000 bytes" in chat(stdin="a" * 1001, code=1).stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_or_a_device_is_waited_for_by_no_option(chat, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for option in ("-f", "--load", "--opening", "--config", "--state"):
        for path, message in ((tmp_path / "pipe", "is a pipe"), ("/dev/zero", "is a device")):
            assert message in chat("-p", "x", option, path, code=1).stderr, option
    assert chat("-p", "x", "--max-tokens", 2, "--config", os.devnull).stdout == "aa\n"


def test_a_pipe_that_a_shell_opened_is_a_file_like_any(talkative):
    command = f"{' '.join(chat_command(talkative))} --max-tokens 3 --json -f <(echo from a pipe)"
    child = subprocess.run(["bash", "-c", command], capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    assert json.loads(child.stdout)["message"] == "from a pipe"


@pytest.mark.parametrize("option", ["-f", "--load", "--save", "--system", "--state", "--opening", "--tokenizer"])
def test_an_empty_value_is_no_wish_for_the_default(chat, option):
    name = {"-f": "--file"}.get(option, option)
    assert f"{name} is empty; give a value, or omit the option" in chat("-p", "x", option, "", code=2).stderr


def test_an_empty_model_is_not_the_demo_model(run_cli):
    result = run_cli("chat", "", "-p", "x", code=2)
    assert "MODEL is empty; give a model file" in result.stderr and result.stdout == ""


def test_ctrl_c_while_the_opening_is_read_ends_a_prompt_with_status_130(chat, monkeypatch):
    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rwkv_np.chat.conversation.Conversation.begin", press)
    result = chat("-p", "x", "--system", "An opening.", code=130)
    assert result.stdout == "" and "Aborted" not in result.stderr


def test_json_lines_say_what_was_said_and_why_it_ended(chat):
    lines = [json.loads(line) for line in chat("--json", "--max-tokens", 3, stdin="你\nb\n").stdout.splitlines()]
    assert [(x["message"], x["text"], x["tokens"], x["stop_reason"]) for x in lines] == [
        ("你", "aaa", [97] * 3, "length"),
        ("b", "aaa", [97] * 3, "length"),
    ]
    assert all(x["seconds"] > 0 and x["prompt_seconds"] > 0 and x["tokens_per_second"] > 0 for x in lines)
    assert lines[0]["prompt_tokens"] == len("Bob: 你\n\nAlice:".encode())


def test_ctrl_c_ends_a_prompts_answer_with_what_there_is_and_status_130(talkative):
    command = chat_command(talkative, "-p", "x", "--max-tokens", 2_000_000)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout.read(5) == b"aaaaa"
        child.send_signal(signal.SIGINT)
        assert set(child.stdout.read()) <= set(b"a\n")
    assert child.returncode == 130


def test_a_model_that_can_think_is_asked_to_by_option_or_environment(chat, monkeypatch):
    def found(*options):
        result = chat("-p", "x", "--template", "g1", "--max-tokens", 3, "--json", *options)
        said = json.loads(result.stdout)
        return said["prompt_tokens"] - len("User: x\n\nAssistant:"), said["text"], said["reasoning"]

    assert found() == (0, "aaa", None)
    assert found("--think", "off") == (len(" <think>\n</think"), "", "aaa")  # a thought that does not end
    monkeypatch.setenv("RWKV_NP_THINK", "on")
    assert found()[0] == len(" <think")
    cut = chat("-p", "x", "--template", "g1", "--think", "off", "--max-tokens", 3)
    assert cut.stdout == "\n" and "thinking was cut off after 3 tokens" in cut.stderr
    other = chat("-p", "x", "--max-tokens", 3)
    assert other.stdout == "aaa\n" and "The template raven does not support thinking" in other.stderr


def test_a_seed_makes_an_answer_repeatable(run_cli, tiny_model):
    options = ["-p", "x", "--seed", 4, "--temperature", 1.5, "--top-p", 1, "--max-tokens", 40]
    first, second = (run_cli("chat", tiny_model, *options).stdout for _ in range(2))
    assert first == second and len(first) > 5


# --- settings


def n_tokens(result):
    return len(result.stdout.strip())


def test_an_option_wins_over_the_environment_and_that_over_the_file(chat, tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text("[chat]\nmax_tokens = 3\n")
    assert n_tokens(chat("-p", "x")) == 3
    monkeypatch.setenv("RWKV_NP_MAX_TOKENS", "4")
    assert n_tokens(chat("-p", "x")) == 4
    assert n_tokens(chat("-p", "x", "--max-tokens", 5)) == 5


def test_each_family_has_its_defaults_and_the_settings_say_whose_and_from_where(chat, monkeypatch):
    def shown(template, *options):
        return chat("--template", template, *options, stdin="/settings\n").stderr

    for template, values in (
        ("raven", {"top_p": "0.5", "top_k": "0", "presence_penalty": "0.2", "max_tokens": "512"}),
        ("world", {"top_p": "0.3", "top_k": "0", "presence_penalty": "0.5", "max_tokens": "512"}),
        ("g1", {"top_p": "0.5", "top_k": "100", "presence_penalty": "0", "max_tokens": "4000"}),
    ):
        lines = shown(template).splitlines()
        found = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if len(line.split()) > 1}
        assert {name: found[name] for name in values} == values
        assert found["temperature"] == "0.0   (default 1.0; set by --temperature)"
        assert f"Defaults of {template}: {DEFAULTS[template].source}" in lines
    monkeypatch.setenv("RWKV_NP_MAX_TOKENS", "4")
    text = shown("g1", "--top-p", 0.9)
    assert "(default 4000; set by RWKV_NP_MAX_TOKENS)" in text and "0.9   (default 0.5; set by --top-p)" in text


def test_a_setting_of_the_file_wins_over_the_familys(chat, tmp_path):
    (tmp_path / "config.toml").write_text("[chat]\ntop_k = 7\n")
    assert "7   (default 100; set by config.toml)" in chat("--template", "g1", stdin="/settings\n").stderr


def test_every_template_has_defaults_and_the_help_says_where_they_are_from(run_cli):
    assert DEFAULTS.keys() == TEMPLATES.keys()
    text = " ".join(run_cli("chat", "--help").stdout.split())
    for defaults in DEFAULTS.values():
        assert defaults.source in text
    for default in ("512; g1: 4000", "0.5; world: 0.3", "0; g1: 100", "0.2; world: 0.5; g1: 0"):
        assert f"[default: {default}]" in text


def test_a_loaded_conversation_keeps_its_settings_but_for_those_of_this_command_line(chat, tmp_path):
    saved = tmp_path / "a.chat"
    chat("--template", "g1", "--think", "off", "--top-p", 0.7, "--max-tokens", 3, "--save", saved, stdin="x\n")
    text = chat("--load", saved, "--max-tokens", 5, "--think", "on", stdin="/settings\n/think\n").stderr
    assert "0.7   (default 0.5; set by a.chat)" in text and "5   (default 4000; set by --max-tokens)" in text
    assert "think = on" in text
    assert "think = off" in chat("--load", saved, stdin="/think\n").stderr


def test_another_settings_file_may_be_named(chat, tmp_path):
    (tmp_path / "mine.toml").write_text("[chat]\nmax_tokens = 6\n")
    assert n_tokens(chat("-p", "x", "--config", tmp_path / "mine.toml")) == 6


def test_the_settings_file_may_name_the_model(run_cli, talkative, tmp_path):
    model = json.dumps(str(talkative))
    (tmp_path / "config.toml").write_text(f"[chat]\nmodel = {model}\nmax_tokens = 2\ntemperature = 0")
    assert run_cli("chat", "-p", "x").stdout == "aa\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[chat]\ntemperatur = 1", "there is no setting 'temperatur'; did you mean temperature?"),
        ("[chat]\nmax_tokens = 'many'", "max_tokens: 'many' is not a valid integer"),
        ("[chat]\nlanguage = 'de'", "language: 'de' is not one of 'en', 'zh', 'ja'"),
        ("[chat]\nprompt = 'x'", "there is no setting 'prompt'"),
        ("[chat\n", "is not valid TOML: "),
        ("chat = 1", "chat is not a table; expected a line [chat]"),
    ],
)
def test_a_mistake_in_the_settings_file_is_named(chat, tmp_path, text, message):
    (tmp_path / "config.toml").write_text(text)
    error = chat("-p", "x", code=1).stderr
    assert error.startswith(f"Error: {tmp_path / 'config.toml'}: ") and message in error


def test_every_default_is_in_the_help(run_cli):
    text = " ".join(run_cli("chat", "--help").stdout.split())
    for default in ("512", "1.0", "0.5", "0.2", "0.996", "none", "the locale's", "by the vocabulary", "config.toml"):
        assert f"default: {default}" in text or default == "config.toml" and default in text
    assert text.count("env var: RWKV_NP_") >= 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-p", "2"], "Error: top_p is 2.0; expected 0 to 1"),
        (["--tokenizer", "world"], "Error: World: "),
        (["--tokenizer", "/none/tokenizer.json"], "Error: /none/tokenizer.json: "),
        (["--opening", "/none/opening.toml"], "Error: /none/opening.toml: "),
        (["--template", "qa", "--system", "x"], "Error: the template qa has single turns"),
        (["-p", " "], "Error: the message is empty"),
        (["--load", "/none/talk.chat"], "/none/talk.chat: No such file"),
        (["--save", "/none/talk.chat"], "the folder /none does not exist"),
    ],
)
def test_what_cannot_be_is_one_line_on_stderr(chat, options, message):
    result = chat("-p", "x", *options, code=1)
    assert message in result.stderr and result.stdout == ""


def test_an_error_of_the_program_shows_no_traceback(talkative):
    child = run_chat(talkative, "-p", "x", "--top-p", 2)
    assert child.returncode == 1 and child.stdout == "" and len(child.stderr.splitlines()) == 1


def test_a_system_text_and_an_opening_exclude_each_other(chat):
    assert "give one of them" in chat("-p", "x", "--system", "a", "--opening", "none", code=2).stderr


def test_a_checkpoint_given_to_chat_is_answered_with_the_command_that_converts_it(run_cli, golden):
    error = run_cli("chat", golden("pth"), "-p", "x", code=1).stderr
    assert "is a PyTorch checkpoint" in error and f"rwkv-np convert {golden('pth')}" in error


def test_chatting_never_imports_torch(talkative):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rwkv_np.cli.chat import command\n"
        f"command([{str(talkative)!r}, '-p', 'x', '--max-tokens', '2'])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=PATIENCE)
    assert child.stdout == "aa\n", child.stderr


# --- openings and saved conversations


def prompt_tokens(result):
    return [json.loads(line)["prompt_tokens"] for line in result.stdout.splitlines()]


def test_an_opening_of_ones_own_changes_the_answer(run_cli, tiny_model, tmp_path):
    (tmp_path / "mine.toml").write_text('turns = [["a", "b"]]\nuser = "Ann"\nbot = "Ben"\n', encoding="utf-8")
    options = ["-p", "x", "--temperature", 0, "--max-tokens", 20, "--json", "--presence-penalty", 2]
    plain, own, english = (
        json.loads(run_cli("chat", tiny_model, *options, *more).stdout)
        for more in (["--language", "ja"], ["--opening", tmp_path / "mine.toml"], ["--opening", ENGLISH])
    )
    assert own["prompt_tokens"] == len("\n\nAnn: x\n\nBen:") and english["prompt_tokens"] == len("\n\nBob: x\n\nAlice:")
    assert plain["prompt_tokens"] == len("Bob: x\n\nAlice:")  # a model of an unknown family has no default opening
    assert len({plain["text"], own["text"], english["text"]}) == 3


def test_an_opening_is_read_once_and_then_remembered_on_disk(run_cli, tiny_model, tmp_path, monkeypatch):
    options = [tiny_model, "-p", "x", "--opening", ENGLISH, "--temperature", 0, "--max-tokens", 5, "--json"]
    load(tiny_model)  # kernels come from their usual place ...
    monkeypatch.setenv("RWKV_NP_CACHE", str(tmp_path / "cache"))  # ... and openings from an empty one
    read = []
    monkeypatch.setattr("rwkv_np.chat.conversation.prefill", lambda *a, **k: read.append(1) or prefill(*a, **k))
    from rwkv_np.generation import prefill

    answers = [json.loads(run_cli("chat", *options).stdout)["tokens"] for _ in range(2)]
    assert answers[0] == answers[1] and len(read) == 1
    (kept,) = (tmp_path / "cache" / "openings").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])  # damaged: must be read again
    assert json.loads(run_cli("chat", *options).stdout)["tokens"] == answers[0] and len(read) == 2
    run_cli("chat", *options[:3], "--system", "Another one.")
    assert len(read) == 3


def test_a_conversation_is_kept_after_each_answer_and_gone_on_with(run_cli, tiny_model, tmp_path):
    options = [tiny_model, "--seed", 3, "--top-p", 1, "--max-tokens", 12, "--json"]
    whole = run_cli("chat", *options, stdin="one\ntwo\nthree\n").stdout.splitlines()
    kept = tmp_path / "talk.chat"
    run_cli("chat", *options, "--save", kept, stdin="one\n")
    run_cli("chat", *options, "--load", kept, "--save", kept, stdin="two\n")
    last = run_cli("chat", tiny_model, "--json", "--load", kept, "-p", "three").stdout
    assert json.loads(last)["tokens"] == json.loads(whole[2])["tokens"]


def test_a_file_that_exists_is_not_saved_over_unless_it_was_loaded(chat, tmp_path):
    (tmp_path / "talk.chat").write_text("mine")
    error = chat("-p", "x", "--save", tmp_path / "talk.chat", code=1).stderr
    assert "already exists; to continue it, add --load" in error and "overwrite" not in error
    assert (tmp_path / "talk.chat").read_text() == "mine"


def test_output_survives_a_terminal_without_the_characters(talkative):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    child = subprocess.run(
        chat_command(talkative, "--language", "zh", "-p", "x", "--max-tokens", "2"),
        capture_output=True, timeout=PATIENCE, env=environment,
    )  # fmt: skip
    assert child.stdout == b"aa\n" and child.returncode == 0

"""How the chat looks on a real screen: colours, Markdown, the spinner; and that a pipe sees none of it."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import Terminal, chat_starter, environment, holds, rambler, speaker  # noqa: F401 (a fixture)
from waiting import PATIENCE

GREEDY = ("--temperature", 0, "--presence-penalty", 0, "--frequency-penalty", 0)
COLORS = ("\x1b[2m", "\x1b[31m", "\x1b[1;3", "\x1b[0;3", "\x1b[3")
MARKED = "# Tea is `hot`, *my one"
SAMPLE = """Some **bold** words.

```python
def f(x):
    return "tea"
```

| tea | price |
|---|---:|
| green | 3 |

- The end."""


@pytest.fixture
def marked(tmp_path):
    """A model whose answer has the marks of Markdown."""
    return speaker(tmp_path / "marked.bin", MARKED)


@pytest.fixture
def scripted(tmp_path):
    """Start the chat with a model that says `text`: scripted(text, option, ...)."""
    open_terminals = []

    def start(text, *options, **env):
        path = tmp_path / "said.md"
        path.write_text(text, encoding="utf-8")
        program = [sys.executable, str(Path(__file__).parent / "scripted_chat.py"), str(path), *map(str, options)]
        terminal = Terminal(program, {**environment(tmp_path), **env}, tmp_path, name="User:")
        open_terminals.append(terminal)
        terminal.ready()
        return terminal

    yield start
    for terminal in open_terminals:
        terminal.end()


# --- colours and Markdown --------------------------------------------------------------------------------


def test_markdown_and_code_have_their_looks_and_no_marks(scripted):
    chat = scripted(SAMPLE)
    rows = chat.say("hi").split("\n")
    assert rows[:6] == [
        "Assistant: Some bold words.", "", "```python", "def f(x):", '    return "tea"', "```",
    ]  # fmt: skip
    assert [row.split() for row in rows[6:]] == [
        [], ["tea", "price"], ["─" * len(rows[8].strip())], ["green", "3"], [], ["•", "The", "end."],
    ]  # fmt: skip
    for painted in ("\x1b[1mbold\x1b[0m", "\x1b[35mdef\x1b[0m", '\x1b[32m"', "\x1b[2m```"):
        assert painted in chat.raw


@pytest.mark.parametrize(
    ("options", "env"),
    [((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"}), (["--no-color"], {}), ((), {"RWKV_NP_COLOR": "0"})],
)
def test_without_colour_an_answer_is_shown_as_it_was_written(sit_down, marked, options, env):
    chat = sit_down(marked, *GREEDY, *options, **env)
    assert chat.say("hi") == f"Alice: {MARKED}"
    assert "Error: " in chat.say("/nonsense")
    assert not [code for code in COLORS if code in chat.raw]


def test_colour_can_be_forced_and_markdown_turned_off(sit_down, marked):
    chat = sit_down(marked, *GREEDY, TERM="dumb", FORCE_COLOR="1")
    assert chat.say("hi") == "Alice:\nTea is hot, my one" and "\x1b[1;35mTea" in chat.raw
    for options, env in ((["--no-color"], {}), ([], {"NO_COLOR": "1"})):
        chat = sit_down(marked, *GREEDY, *options, FORCE_COLOR="1", **env)
        assert chat.say("hi") == f"Alice: {MARKED}" and "\x1b[1;3" not in chat.raw
    chat = sit_down(marked, *GREEDY, "--color", NO_COLOR="1")
    assert chat.say("hi") == "Alice:\nTea is hot, my one"
    assert chat.say("/set markdown off") == "markdown = False"
    assert chat.say("hi") == f"Alice: {MARKED}" and "\x1b[1;36mAlice:" in chat.raw


def test_a_pipe_sees_the_text_and_nothing_else_whatever_is_wished(marked, tmp_path):
    """The bytes are those of the version before there were any looks."""
    command = [sys.executable, "-m", "rwkv_np.chat", str(marked), *map(str, GREEDY)]
    stdin = "hi\n/regen\n/undo\n/nonsense\n"
    notes = (
        "marked.bin: RWKV-4, 1 layers, n_embd 513, FP32; bytes tokenizer, raven template\n"
        "Undone: hi (turns left: 0)\nError: /nonsense is not a command; did you mean /tokens? "
        "(To send a message that starts with a slash, type two slashes.)\n"
    )
    for wishes in ({}, {"FORCE_COLOR": "1"}):
        child = subprocess.run(
            command, input=stdin, capture_output=True, encoding="utf-8", timeout=PATIENCE, cwd=tmp_path,
            env=environment(tmp_path) | wishes,
        )  # fmt: skip
        assert child.stdout == f"{MARKED}\n{MARKED}\n"
        assert child.returncode == 1 and (wishes or child.stderr == notes)
    if "--color" in subprocess.run([*command, "--help"], capture_output=True, encoding="utf-8").stdout:
        child = subprocess.run([*command, "--color", "--figures", "-p", "hi"], capture_output=True, timeout=PATIENCE)
        assert child.stdout.decode() == f"{MARKED}\n"


# --- while it is waited for, and sizes -------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 24])
def test_a_spinner_turns_until_the_first_token_and_is_gone(scripted, columns):
    chat = scripted("Tea.", "--wait", 1)
    chat.resize(columns)
    chat.start("hi")
    chat.until(lambda: chat.screen.rows[-1] in tuple("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"), "the spinner")
    assert chat.ready() == "Assistant: Tea."
    assert not any(sign in row for row in chat.screen.rows for sign in "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")


def test_a_spinner_that_is_stopped_by_ctrl_c_is_gone(scripted):
    chat = scripted("Tea.", "--wait", 1)
    chat.start("hi")
    chat.until(lambda: chat.screen.rows[-1] in tuple("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"), "the spinner")
    chat.interrupt()
    shown = chat.ready()
    assert "[stopped:" in shown or "[cancelled:" in shown
    assert not any(sign in row for row in chat.screen.rows for sign in "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")


def test_an_answer_appears_token_by_token_also_in_code_and_tables(scripted):
    text = "```python\nabcdefghij = 1\n```\n| klmnopqrst | u |\n|---|---|\n| vwxyz | 1 |"
    chat = scripted(text, "--pause", 0.15, "--piece", 3)
    chat.start("hi")
    for part in ("abc", "abcdef", "| klm", "| klmnop", "| vwx"):
        chat.until(lambda part=part: any(row.startswith(part) for row in chat.screen.rows), part)
        assert chat.screen.rows[-1] != "User:"
    assert " klmnopqrst  u" in chat.ready()


def test_a_window_that_changes_during_an_answer_breaks_no_later_row(scripted):
    words = " ".join(f"w{i:03}" for i in range(120))
    chat = scripted(f"{words}\n\n- {words}\n\n```python\nx = 'tea'  # hot\n```", "--pause", 0.02)
    chat.start("hi")
    for columns, seen in ((60, "w030"), (33, "w060"), (70, "w090")):
        chat.see(seen)
        chat.resize(columns)
    chat.ready()
    shown = "".join("".join(chat.screen.rows[:-1]).split())  # narrower, the screen breaks old rows anywhere
    joined = "".join(words.split())
    assert shown.partition("Assistant:")[2] == f"{joined}•{joined}```pythonx='tea'#hot```"


# --- commands --------------------------------------------------------------------------------------------


def test_the_last_answer_is_copied_through_the_terminal_as_it_was_written(sit_down, marked):
    chat = sit_down(marked, *GREEDY, SSH_TTY="/dev/pts/1")
    assert "there is no answer to copy yet" in chat.say("/copy")
    chat.say("hi")
    assert holds(chat.say("/copy"), f"Sent {len(MARKED)} characters to the terminal for its clipboard (OSC 52).")
    assert f"\x1b]52;c;{base64.b64encode(MARKED.encode()).decode()}\x07" in chat.raw


def test_the_last_answer_is_copied_by_a_program_of_the_desktop(sit_down, marked, tmp_path):
    program = tmp_path / "xclip"
    program.write_text(f'#!/bin/sh\ncat > "{tmp_path}/copied-$2"\n')
    program.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    chat = sit_down(marked, *GREEDY, DISPLAY=":7", WAYLAND_DISPLAY="", SSH_TTY="", SSH_CONNECTION="", PATH=path)
    chat.say("hi")
    assert chat.say("/copy") == f"Copied {len(MARKED)} characters (xclip)."
    assert (tmp_path / "copied-clipboard").read_text() == MARKED and "\x1b]52" not in chat.raw


def test_a_conversation_is_exported_and_no_file_replaced(sit_down, marked, tmp_path):
    chat = sit_down(marked, *GREEDY)
    chat.say("hi")
    chat.say("/retry")
    chat.say("you?")
    assert chat.say("/export talk.md") == "Exported to talk.md (turns: 2)."
    turns = "".join(f"**Bob:**\n\n{message}\n\n**Alice:**\n\n{MARKED}\n\n" for message in ("hi", "you?"))
    assert (tmp_path / "talk.md").read_text() == f"# marked.bin\n\n{turns.rstrip()}\n"
    assert holds(chat.say("/export talk.md"), "already exists; /export! talk.md overwrites it")
    chat.say("/undo")
    assert chat.say("/export! talk.md") == "Exported to talk.md (turns: 1)."
    assert (tmp_path / "talk.md").read_text().count("Bob") == 1 and not list(tmp_path.glob(".*part"))


def test_models_beside_the_demo_are_named_at_a_terminal_alone(sit_down, marked, run_cli, tmp_path):
    (tmp_path / "other.bin").write_bytes(b"\0" * 64)
    command = [sys.executable, "-m", "rwkv_np.chat"]
    chat = Terminal([*command, *map(str, GREEDY)], environment(tmp_path), tmp_path)
    assert holds(chat.ready(), "Your models: marked.bin. Start one: rwkv-np chat marked.bin")
    assert chat.leave() == 0
    child = subprocess.run(
        [*command, "-p", "hi"], capture_output=True, encoding="utf-8", env=environment(tmp_path), cwd=tmp_path
    )
    assert "marked.bin" not in child.stderr and child.returncode == 0


# --- what is not lost ------------------------------------------------------------------------------------


def test_a_conversation_that_was_not_saved_can_be_had_back(sit_down, tmp_path):
    model = rambler(tmp_path / "random.bin")
    options = (model, "--temperature", 0, "--max-tokens", 12)
    chat = sit_down(*options)
    first = chat.say("one").split()[1]
    chat.child.send("\x04")
    chat.see("/load last or --load last")
    assert chat.wait() == 0
    kept = tmp_path / "state" / "rwkv-np" / "last.chat"
    assert kept.stat().st_mode & 0o077 == 0
    chat = sit_down(*options, "--load", "last")
    again = chat.say("/load last")
    assert f"Bob: one\nAlice:{first}" in again
    expected = sit_down(*options, "--history", "none")
    expected.say("one")
    assert chat.say("two") == expected.say("two"), "the model has read it again"
    before = kept.read_bytes()
    expected.child.send("\x04")
    expected.wait()
    assert kept.read_bytes() == before, "whoever wants no history keeps nothing"


def test_a_saved_conversation_needs_no_second_place(sit_down, marked, tmp_path):
    chat = sit_down(marked, *GREEDY)
    chat.say("hi")
    chat.say("/save talk.chat")
    assert chat.leave() == 0 and not (tmp_path / "state" / "rwkv-np" / "last.chat").exists()


def test_what_save_named_keeps_its_conversation_when_another_is_loaded(sit_down, marked, tmp_path):
    chat = sit_down(marked, *GREEDY, "--save", "first.chat")
    chat.say("one")
    chat.say("/save other.chat")
    chat.say("two")
    first = (tmp_path / "first.chat").read_bytes()
    assert holds(chat.say("/load other.chat"), "[first.chat keeps the earlier conversation")
    chat.say("three")
    other = (tmp_path / "other.chat").read_bytes()
    assert (tmp_path / "first.chat").read_bytes() == first
    assert chat.say("/save third.chat") == "Saved to third.chat (turns: 2)."
    chat.say("four")
    chat.child.kill(9)
    assert (tmp_path / "other.chat").read_bytes() == other
    assert "Bob: four" in sit_down(marked, *GREEDY).say("/load third.chat"), "answers are saved again"

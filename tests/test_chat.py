"""The chat as its user has it: answers streamed, turns remembered, Ctrl-C survived."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import random_parameters, write_model
from test_completion import GREEDY, PieceTokenizer, ScriptedModel

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.templates import TEMPLATES, template_for
from rwkv_np.sampling import SamplingParams

pexpect = pytest.importorskip("pexpect", reason="the terminal is played by pexpect (not on Windows)")


class Echo(ScriptedModel):
    """Answers every prompt that ends in ':' with the same script, and remembers what it read."""

    def forward(self, tokens, state=()):
        after = (*state, *np.atleast_1d(tokens).tolist())
        said = len(after) - 1 - max(i for i, token in enumerate(after) if token == ord(":"))
        logits = np.zeros(1000, np.float32)
        logits[self.script[said]] = 99
        return logits, after


def conversation(script=b" Hello!\n\nBob", template="raven"):
    params = SamplingParams(**GREEDY, max_tokens=50)
    return Conversation(Echo(script), PieceTokenizer([]), TEMPLATES[template], params)


def text_read(chat):
    return bytes(chat.state).decode()


def test_the_model_reads_a_conversation_as_its_training_text_has_it():
    chat = conversation()
    assert "".join(chat.ask("Hi  ")) == " Hello!"
    assert text_read(chat) == "Bob: Hi\n\nAlice: Hello!"
    assert "".join(chat.ask("And\r\n\r\n \n\nthen?")) == " Hello!"
    assert text_read(chat) == "Bob: Hi\n\nAlice: Hello!\n\nBob: And\nthen?\n\nAlice: Hello!"


def test_an_answer_never_runs_into_the_persons_next_turn():
    for script in (b" A\nBob: B", b" A\n\nB", b" A\nAlice: B"):
        assert "".join(conversation(script).ask("x")) == " A"


def test_a_seed_repeats_a_conversation_but_not_an_answer():
    def answers():
        params = SamplingParams(temperature=1, top_p=1, seed=1, max_tokens=20, stop_ids=())
        chat = Conversation(Echo(b""), PieceTokenizer([]), TEMPLATES["raven"], params)
        chat.model.forward = lambda tokens, state=(): (np.zeros(256, np.float32), (*state, *np.atleast_1d(tokens)))
        return ["".join(chat.ask("x")) for _ in range(2)]

    first, second = answers()
    assert [first, second] == answers() and first != second


def test_reset_forgets_everything():
    chat = conversation()
    list(chat.ask("Hi"))
    chat.reset()
    assert chat.state is None
    list(chat.ask("again"))
    assert text_read(chat) == "Bob: again\n\nAlice: Hello!"


def test_an_answer_that_fails_leaves_the_conversation_where_it_was():
    chat = conversation()
    list(chat.ask("Hi"))
    before = chat.state
    chat.model.script = []  # the next answer raises in its first token
    with pytest.raises(IndexError):
        list(chat.ask("more"))
    assert chat.state == before


def test_the_template_is_chosen_by_the_vocabulary():
    assert template_for(50277).turn("x") == "Bob: x\n\nAlice:"
    assert template_for(65536).turn("x") == "User: x\n\nAssistant:"


# --- the program: its first start compiles kernels, hence the patience ---------------------------


@pytest.fixture
def talkative(tmp_path):
    """A model that never stops: every token follows itself, and 'a' follows all else."""
    arrays = random_parameters(np.random.default_rng(0))
    arrays["head.weight"][:] = 0
    arrays["ln_out.weight"][:], arrays["ln_out.bias"][:] = 0, 1
    arrays["head.weight"][ord("a")] = 1
    return write_model(tmp_path / "talkative.bin", arrays)


def chat_command(model, *options):
    return [sys.executable, "-m", "rwkv_np.chat", str(model), "--temperature", "0", *map(str, options)]


def run_chat(model, *options, stdin=""):
    return subprocess.run(chat_command(model, *options), input=stdin, capture_output=True, text=True, timeout=180)


def test_a_prompt_is_answered_once_on_a_clean_stdout(talkative):
    child = run_chat(talkative, "-p", "hello", "--max-tokens", 7)
    assert child.stdout == "aaaaaaa\n" and child.returncode == 0
    assert "RWKV-4, 2 layers, n_embd 32, FP32; bytes tokenizer, raven template" in child.stderr


def test_piped_lines_are_answered_one_by_one_in_one_conversation(talkative):
    child = run_chat(talkative, "--max-tokens", 3, stdin="你好\n\nhello\n")
    assert child.stdout == "aaa\naaa\n" and child.returncode == 0


def test_a_seed_makes_an_answer_repeatable(tiny_model):
    options = ["-p", "x", "--seed", 4, "--temperature", 1.5, "--top-p", 1, "--max-tokens", 40]
    first, second = (run_chat(tiny_model, *options).stdout for _ in range(2))
    assert first == second and len(first) > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-p", "2"], "Error: top_p is 2.0; expected 0 to 1"),
        (["--tokenizer", "world"], "Error: World: "),
        (["--tokenizer", "/none/tokenizer.json"], "Error: /none/tokenizer.json: "),
    ],
)
def test_what_cannot_be_is_one_line_and_no_traceback(talkative, options, message):
    child = run_chat(talkative, "-p", "x", *options)
    assert child.returncode == 1 and child.stdout == ""
    assert child.stderr.startswith(message) and len(child.stderr.splitlines()) == 1


def test_a_checkpoint_given_to_chat_is_answered_with_the_command_that_converts_it(golden):
    child = run_chat(golden("pth"), "-p", "x")
    assert child.returncode == 1
    assert "is a PyTorch checkpoint" in child.stderr and f"python tools/convert.py {golden('pth')}" in child.stderr


def test_chatting_never_imports_torch(talkative):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rwkv_np.cli.chat import command\n"
        f"command([{str(talkative)!r}, '-p', 'x', '--max-tokens', '2'])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert child.stdout == "aa\n", child.stderr


@pytest.fixture
def terminal(talkative):
    command, *args = chat_command(talkative, "--max-tokens", 2_000_000)
    child = pexpect.spawn(command, args, encoding="utf-8", timeout=120, dimensions=(24, 80))
    child.expect("> ")
    yield child
    child.close(force=True)


def test_ctrl_c_ends_the_answer_and_keeps_the_conversation(terminal):
    terminal.sendline("hello")
    terminal.expect("aaaaaaaaaa")
    terminal.kill(signal.SIGINT)
    terminal.expect_exact("[stopped]")
    terminal.expect("> ")
    terminal.sendline("又一次")
    terminal.expect("aaaaaaaaaa")
    terminal.sendcontrol("c")
    terminal.expect_exact("[stopped]")
    terminal.expect("> ")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_ctrl_c_at_the_prompt_says_how_to_leave(terminal):
    terminal.sendcontrol("c")
    terminal.expect("/exit or Ctrl-D leaves")
    terminal.expect("> ")
    terminal.sendline("/nonsense")
    terminal.expect("/nonsense is no command")
    terminal.sendline("/reset")
    terminal.expect("forgotten")
    terminal.sendline("/exit")
    terminal.expect(pexpect.EOF)

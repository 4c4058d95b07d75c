"""The terminal side of a chat: read a line, stream the answer, and survive Ctrl-C.

Answers go to stdout, everything else to stderr, so that piped output holds answers alone.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from rwkv_np.chat.conversation import Conversation
from rwkv_np.completion import Completion
from rwkv_np.errors import InputError

HELP = "/reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer."
_RESET = ("/reset", "+reset")
_EXIT = ("/exit", "/quit")


def answer(conversation: Conversation, message: str) -> Completion:
    """Stream the answer to `message` to stdout."""
    completion = conversation.ask(message, progress=_show_prompt_progress)
    has_begun = False
    with _ctrl_c_interrupts(completion):
        for piece in completion:
            text = piece if has_begun else piece.lstrip()
            has_begun = has_begun or bool(text)
            print(text, end="", flush=True)
    print(flush=True)
    _say_why(completion)
    return completion


def run(conversation: Conversation) -> None:
    """Talk on the terminal until the person leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (line editing and history for input())
    print(HELP, file=sys.stderr)
    while (message := _read_line()) is not None:
        if message in _EXIT:
            return
        if message in _RESET:
            conversation.reset()
            print("The conversation is forgotten.", file=sys.stderr)
        elif message.startswith("/"):
            print(f"{message.split()[0]} is no command. {HELP}", file=sys.stderr)
        elif message:
            _answer_or_explain(conversation, message)


def run_lines(conversation: Conversation, lines: Iterator[str]) -> None:
    """Answer each line that is not empty, in one conversation."""
    for line in lines:
        if line.strip():
            answer(conversation, line)


def _answer_or_explain(conversation: Conversation, message: str) -> None:
    try:
        answer(conversation, message)
    except InputError as error:  # this message cannot be sent; the conversation goes on
        print(f"Error: {error}", file=sys.stderr)


def _read_line() -> str | None:
    """What the person typed, None at the end of input. Ctrl-C drops the line."""
    while True:
        try:
            return input("> ").strip()
        except EOFError:
            print(file=sys.stderr)
            return None
        except KeyboardInterrupt:
            print(f"\n{HELP}", file=sys.stderr)


@contextlib.contextmanager
def _ctrl_c_interrupts(completion: Completion) -> Iterator[None]:
    """Ctrl-C ends the answer after the token at hand; a second one, while that is computed, is an error."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        completion.interrupt()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _say_why(completion: Completion) -> None:
    notes = {
        "length": f"[stopped after {len(completion.tokens)} tokens; --max-tokens allows more]",
        "interrupted": "[stopped]",
    }
    if sys.stderr.isatty() and completion.stop_reason in notes:
        print(notes[completion.stop_reason], file=sys.stderr)


def _show_prompt_progress(done: int, total: int) -> None:
    if not sys.stderr.isatty() or total < 2 * 128:
        return
    end = "\r\x1b[K" if done == total else "\r"
    print(f"\rreading the prompt: {done} of {total} tokens", end=end, file=sys.stderr, flush=True)

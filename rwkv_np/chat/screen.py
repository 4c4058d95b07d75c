"""What the person sees: answers on stdout, everything else on stderr.

Piped output holds answers alone. Colour is for terminals, and for those who have not set
NO_COLOR. What a model writes is text, never a command to the terminal: control characters
are made visible.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any
from unicodedata import east_asian_width

from rwkv_np.chat.language import Language
from rwkv_np.completion import Completion
from rwkv_np.console import has_color, write_over
from rwkv_np.generation import CHUNK
from rwkv_np.memory import resident_anonymous

_DIM, _BOLD_CYAN, _RED, _RESET = "\x1b[2m", "\x1b[1;36m", "\x1b[31m", "\x1b[0m"
# C0 and C1 controls but for tab and line feed: an answer must not move the cursor or set the title.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Screen:
    """Writes answers and notes, in one language; `quiet` leaves the line of figures out."""

    def __init__(self, language: Language, *, quiet: bool = False) -> None:
        self.language, self.quiet = language, quiet
        self._dim = has_color(sys.stderr)
        self._bright = has_color(sys.stdout)

    # --- answers

    def answer(self, completion: Completion, message: str = "", name: str = "", *, goes_on: bool = False) -> None:
        """Stream `completion` as it is made, then say why it ended and what it took.

        name     who speaks: of use to a person, not to a pipe
        goes_on  it is the rest of an answer, whose leading space belongs between the two
        """
        for text in _trimmed(completion, goes_on):
            # The name comes after the prompt has been read, whose progress is drawn on this line.
            self._name(name)
            name = ""
            print(self._printable(text), end="", flush=True)
        if completion.was_read:
            self._name(name)
            print(flush=True)
        write_over("")
        if sys.stdout.isatty():
            self._say_why(completion)

    def _name(self, name: str) -> None:
        if name and sys.stdout.isatty():
            print(f"{_BOLD_CYAN}{name}:{_RESET}" if self._bright else f"{name}:", end=" ")

    def _printable(self, text: str) -> str:
        if not sys.stdout.isatty():
            return text
        return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)

    def _say_why(self, completion: Completion) -> None:
        if not completion.was_read:
            self.say("given_up")
            return
        if completion.stop_reason in ("length", "interrupted"):
            self.say(completion.stop_reason, tokens=completion.n_new)
        if not self.quiet:
            self.note(self.figures(completion))

    def figures(self, completion: Completion) -> str:
        """What an answer took, in a line."""
        t = completion.timings
        parts = [self.language.say("answer_rate", tokens=completion.n_new, rate=_rate(t.tokens, t.seconds))]
        if t.prompt_seconds and completion.prompt:
            rate = _rate(t.prompt_tokens, t.prompt_seconds)
            parts.append(self.language.say("prompt_rate", tokens=t.prompt_tokens, rate=rate))
        if memory := resident_anonymous():
            parts.append(self.language.say("memory", size=f"{memory / 1e9:.2f}"))
        return f"[{' · '.join(parts)}]"

    # --- everything else

    def say(self, message: str, /, **values: Any) -> None:
        """A message of the language, by its name."""
        self.note(self.language.say(message, **values))

    def note(self, text: str) -> None:
        """A line beside the conversation."""
        text = _wrapped(text)
        print(f"{_DIM}{text}{_RESET}" if self._dim else text, file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        """What was asked for: as bright as an answer, but no answer."""
        print(text, file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        label = f"{_RED}Error:{_RESET}" if self._dim else "Error:"
        print(f"{label} {text}", file=sys.stderr, flush=True)

    def reading(self, done: int, total: int) -> None:
        """How much of a prompt has been read; a terminal alone sees it, and short ones are not worth it."""
        if total > CHUNK:
            write_over(self.language.say("reading", done=done, total=total) if done < total else "")


class JsonScreen(Screen):
    """Each answer as one line of JSON; notes go where they always go."""

    def answer(self, completion: Completion, message: str = "", name: str = "", *, goes_on: bool = False) -> None:
        for _ in completion:
            pass
        t = completion.timings
        print(
            json.dumps(
                {
                    "message": message,
                    "text": completion.text.lstrip(),
                    "tokens": completion.tokens,
                    "stop_reason": completion.stop_reason,
                    "prompt_tokens": t.prompt_tokens,
                    "prompt_seconds": round(t.prompt_seconds, 6),
                    "seconds": round(t.seconds, 6),
                    "tokens_per_second": round(t.tokens / t.seconds, 3) if t.seconds else None,
                },
                ensure_ascii=False,
            ),
            flush=True,
        )


def _trimmed(pieces: Iterable[str], goes_on: bool) -> Iterator[str]:
    """`pieces` without space before the first word, and without line breaks after the last."""
    pending, has_begun = "", goes_on
    for piece in pieces:
        text = pending + (piece if has_begun else piece.lstrip())
        has_begun = has_begun or bool(text)
        yield (shown := text.rstrip("\n"))
        pending = text[len(shown) :]


def _wrapped(text: str) -> str:
    """`text` broken between words where the terminal ends; wide characters it breaks rightly itself."""
    if not sys.stderr.isatty() or any(east_asian_width(c) in "WF" for c in text):
        return text
    columns = shutil.get_terminal_size().columns
    return "\n".join(textwrap.fill(line, columns, break_on_hyphens=False) for line in text.splitlines())


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f}" if tokens and seconds else "-"

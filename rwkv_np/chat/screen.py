"""What the user sees: answers on stdout, everything else on stderr.

Piped output contains only answers. Colour is used on terminals, unless NO_COLOR is set. What a
model writes is text, never a command to the terminal: control characters are made visible.
Thinking is shown dimmed or as one line, and only on a terminal.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rwkv_np.chat.language import Language
from rwkv_np.chat.settings import SWITCHES
from rwkv_np.chat.speech import Speech
from rwkv_np.chat.thinking import Answer, split_thought
from rwkv_np.console import columns, has_color, printable, write_over
from rwkv_np.generation import CHUNK
from rwkv_np.memory import resident_anonymous
from rwkv_np.wrapping import wrapped

_DIM, _RED, _RESET = "\x1b[2m", "\x1b[31m", "\x1b[0m"


class Screen:
    """Writes answers and notes, in one language; `quiet` leaves the line of figures out.

    show_thinking   thoughts are shown, not only counted
    hides_thoughts  only the answer is shown, and no command can follow
    """

    def __init__(self, language: Language, *, quiet: bool = False) -> None:
        self.language, self.quiet = language, quiet
        self.show_thinking, self.hides_thoughts = True, False
        self._dim = has_color(sys.stderr)
        self._is_reading = False

    @property
    def switches(self) -> dict[str, bool]:
        """What can be turned on and off, by its name in `settings`."""
        return {name: getattr(self, name) for name in SWITCHES}

    # --- answers

    def answer(self, completion: Answer, message: str = "", name: str = "", *, goes_on: bool = False) -> None:
        """Stream `completion` as it is made, then say why it ended and what it took.

        name     who speaks; shown on a terminal, not in a pipe
        goes_on  it is the rest of an answer, whose leading space belongs between the two
        """
        speech = Speech(name)
        try:
            is_open = self._stream(completion, speech, goes_on)
        except BaseException:
            speech.break_off()
            raise
        if completion.was_read:
            speech.end()
        write_over("")
        if sys.stdout.isatty():
            self._say_why(completion)
        elif is_open and completion.stop_reason == "length":  # a pipe gets an empty line: say why
            self.say("thought_cut", tokens=completion.n_new)

    def _stream(self, completion: Answer, speech: Speech, goes_on: bool) -> bool:
        """Show what comes; returns whether a thought has begun that did not end."""
        thought, spoken = _trimmers(completion, goes_on)
        shows, n_thought, is_open = self._shows_thoughts(), 0, False
        for is_thought, piece in completion.parts():
            text = (thought if is_thought else spoken).push(piece)
            if is_thought and text:
                n_thought, is_open = completion.timings.tokens + 1, True  # the first is timed with the prompt
                if not shows:
                    write_over(self.language.say("thinking", tokens=n_thought))
            if not text or is_thought and not shows:
                continue
            if is_open and not is_thought:
                self._end_thought(n_thought, speech)
                is_open = False
            speech.write(text, is_dim=is_thought)
        if is_open and not shows:
            self._end_thought(n_thought, speech)
        return is_open

    def _shows_thoughts(self) -> bool:
        return self.show_thinking and not self.hides_thoughts and sys.stdout.isatty()

    def _end_thought(self, n_tokens: int, speech: Speech) -> None:
        """Begin the answer on a line of its own, or say that there was a thought."""
        if self._shows_thoughts():
            speech.write("\n\n")
            return
        write_over("")
        if sys.stdout.isatty() and not self.hides_thoughts:
            self.say("thought", tokens=n_tokens)

    def _say_why(self, completion: Answer) -> None:
        if not completion.was_read:
            self.say("given_up")
            return
        if completion.stop_reason in ("length", "interrupted"):
            once = "_once" if self.hides_thoughts else ""
            self.say(completion.stop_reason + once, tokens=completion.n_new)
        if not self.quiet:
            self.note(self.figures(completion))

    def figures(self, completion: Answer) -> str:
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
        self._put(text, _DIM)

    def show(self, text: str, *, indent: int = 0) -> None:
        """What was asked for: as bright as an answer, but no answer. `indent` is for lines that are broken."""
        self._put(text, indent=indent)

    def show_thought(self, thought: str) -> None:
        """A thought that was folded, or is long past; as dim as those before an answer."""
        self._put(thought, _DIM)

    def error(self, text: str) -> None:
        self._put(text, label="Error:")

    def _put(self, text: str, color: str = "", label: str = "", indent: int = 0) -> None:
        """Text on stderr: in a terminal broken between words, and obeyed by none."""
        if self._is_reading:
            write_over("")
            self._is_reading = False
        text = printable(f"{label} {text}" if label else text, sys.stderr)
        if sys.stderr.isatty():
            n = columns(sys.stderr)
            text = wrapped(text, n, indent=indent if n >= 2 * indent else 0)
        if self._dim:
            text = (
                f"{color}{text}{_RESET}" if color else f"{_RED}{label}{_RESET}{text[len(label) :]}" if label else text
            )
        print(text, file=sys.stderr, flush=True)

    def reading(self, done: int, total: int) -> None:
        """How much of a prompt has been read; a terminal alone sees it, and short ones are not worth it."""
        if total > CHUNK:
            self._is_reading = done < total
            write_over(self.language.say("reading", done=done, total=total) if done < total else "")


class JsonScreen(Screen):
    """Each answer as one line of JSON; notes go where they always go."""

    def answer(self, completion: Answer, message: str = "", name: str = "", *, goes_on: bool = False) -> None:
        parts = list(completion.parts())
        t = completion.timings
        print(
            json.dumps(
                {
                    "message": message,
                    **_text_and_reasoning(completion, parts),
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


def _text_and_reasoning(completion: Answer, parts: list[tuple[bool, str]]) -> dict[str, str | None]:
    """What was answered, and what was thought before by a model that can: None where it was nothing."""
    if completion.before is None:
        return {"text": completion.text.lstrip()}
    thought, text = ("".join(part for is_thought, part in parts if is_thought is wanted) for wanted in (True, False))
    return {"text": text.lstrip(), "reasoning": thought.strip() or None}


def _trimmers(completion: Answer, goes_on: bool) -> tuple[_Trimmer, _Trimmer]:
    """For the thought and for the answer: what goes on is not at its beginning."""
    thought, answer = split_thought(completion.before or "")
    return _Trimmer(goes_on and bool(thought)), _Trimmer(goes_on and (thought is None or bool(answer.strip())))


class _Trimmer:
    """Takes away space before the first word, and line breaks after the last."""

    def __init__(self, has_begun: bool) -> None:
        self._pending, self._has_begun = "", has_begun

    def push(self, piece: str) -> str:
        """What of the text so far can be shown."""
        text = self._pending + (piece if self._has_begun else piece.lstrip())
        self._has_begun = self._has_begun or bool(text)
        shown = text.rstrip("\n")
        self._pending = text[len(shown) :]
        return shown


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f}" if tokens and seconds else "-"

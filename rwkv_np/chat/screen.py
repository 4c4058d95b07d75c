"""What the user sees: answers on stdout, everything else on stderr.

Piped output contains only answers. Colours, rendered Markdown and the spinner are for terminals only. The model's
output is text, never a command to the terminal: control characters are made visible. Thinking is shown dimmed or as
one line, and only on a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rwkv_np.chat.language import Language
from rwkv_np.chat.settings import SWITCHES
from rwkv_np.chat.speech import Looks, Speech
from rwkv_np.chat.spinner import Spinner, spinning
from rwkv_np.chat.styles import DIM, RED, RESET
from rwkv_np.chat.thinking import Answer, split_thought
from rwkv_np.console import columns, has_color, printable, write_over
from rwkv_np.generation import CHUNK
from rwkv_np.memory import resident_anonymous
from rwkv_np.wrapping import wrapped


class Screen:
    """Writes answers and notes, in one language.

    figures         tokens and speed are shown after each answer
    quiet           they are shown nowhere, not in the bottom line either
    markdown        the Markdown of answers is rendered
    color           whether to use colours; None: the terminal and its variables decide
    show_thinking   thoughts are shown, not only counted
    hides_thoughts  only the answer is shown, and no command can follow
    """

    def __init__(
        self,
        language: Language,
        *,
        quiet: bool = False,
        figures: bool = False,
        markdown: bool = True,
        color: bool | None = None,
    ) -> None:
        self.language, self.quiet, self.figures = language, quiet, figures
        self.markdown, self.color = markdown, color
        self.show_thinking, self.hides_thoughts = True, False
        self._has_color = has_color(sys.stderr, color)
        self._is_reading = self._has_shown = False
        self._spinner: Spinner | None = None
        self._last_figures = ""

    @property
    def switches(self) -> dict[str, bool]:
        """The settings that can be turned on and off, by name."""
        return {name: getattr(self, name) for name in SWITCHES}

    # --- answers

    def answer(
        self, completion: Answer, message: str = "", name: str = "", *, goes_on: bool = False, before: str = ""
    ) -> None:
        """Stream `completion`, then say why it ended.

        name     the speaker; shown on a terminal, not in a pipe
        goes_on  it is the rest of an answer; its leading space belongs between the two parts
        before   that answer's text so far
        """
        self._has_shown = True
        speech = Speech(name, Looks(self.color, self.markdown), before)
        try:
            with self.waiting() as spinner:
                is_open = self._stream(completion, speech, goes_on, spinner)
        except BaseException:
            speech.break_off()
            raise
        if completion.was_read:
            speech.end()
        write_over("")
        if sys.stdout.isatty():
            self._say_why(completion)
        elif is_open and completion.stop_reason == "length":  # a pipe gets an empty line: give the reason
            self.say("thought_cut", tokens=completion.n_new)

    def _stream(self, completion: Answer, speech: Speech, goes_on: bool, spinner: Spinner) -> bool:
        """Show the text as it arrives; returns whether the thinking did not end."""
        thought, spoken = _trimmers(completion, goes_on)
        shows, n_thought, is_open = self._shows_thoughts(), 0, False
        for is_thought, piece in completion.parts():
            text = (thought if is_thought else spoken).push(piece)
            if text:
                spinner.stop()
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
        """Begin the answer on a new line, or note that the model was thinking."""
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
        self._last_figures = self._describe(completion)
        if self.figures and not self.quiet:
            self.note(f"[{self._last_figures}]")

    def _describe(self, completion: Answer) -> str:
        """The tokens and speed of an answer, in a line."""
        t = completion.timings
        parts = [self.language.say("answer_rate", tokens=completion.n_new, rate=_rate(t.tokens, t.seconds))]
        if 0 < t.passes < t.tokens:
            parts.append(self.language.say("per_pass", n=f"{t.tokens / t.passes:.1f}"))
        if t.prompt_seconds and completion.prompt:
            rate = _rate(t.prompt_tokens, t.prompt_seconds)
            parts.append(self.language.say("prompt_rate", tokens=t.prompt_tokens, rate=rate))
        if memory := resident_anonymous():
            parts.append(self.language.say("memory", size=f"{memory / 1e9:.2f}"))
        return " · ".join(parts)

    def bottom_line(self, model: str) -> str:
        """The line below the input: the model's name, and the figures of its last answer."""
        return " · ".join(part for part in (model, self._last_figures) if part and not self.quiet)

    def separate(self) -> None:
        """Before the user types: an empty line, if anything was shown since the last time."""
        if self._has_shown:
            print(file=sys.stdout if sys.stdout.isatty() else sys.stderr, flush=True)
        self._has_shown = False

    # --- everything else

    def say(self, message: str, /, **values: Any) -> None:
        """A message of the language, by its name."""
        self.note(self.language.say(message, **values))

    def note(self, text: str) -> None:
        """A note outside the conversation."""
        self._put(text, DIM)

    def show(self, text: str, *, indent: int = 0) -> None:
        """Text that the user asked for, as bright as an answer. `indent` is for wrapped lines."""
        self._put(text, indent=indent)

    def show_thought(self, thought: str) -> None:
        """The text of an earlier thought, dimmed like the thoughts before answers."""
        self._put(thought, DIM)

    def error(self, text: str) -> None:
        self._put(text, label="Error:")

    def _put(self, text: str, color: str = "", label: str = "", indent: int = 0) -> None:
        """Text on stderr. On a terminal it is wrapped between words, and its control characters are made visible."""
        self._has_shown = True
        if self._spinner:
            self._spinner.stop()
        if self._is_reading:
            write_over("")
            self._is_reading = False
        text = printable(f"{label} {text}" if label else text, sys.stderr)
        if sys.stderr.isatty():
            n = columns(sys.stderr)
            text = wrapped(text, n, indent=indent if n >= 2 * indent else 0)
        if self._has_color:
            text = f"{color}{text}{RESET}" if color else f"{RED}{label}{RESET}{text[len(label) :]}" if label else text
        print(text, file=sys.stderr, flush=True)

    def reading(self, done: int, total: int) -> None:
        """Show how much of a prompt has been read; only on a terminal, and not for short prompts."""
        if total <= CHUNK:
            return
        text = self.language.say("reading", done=done, total=total) if done < total else ""
        if self._spinner:
            self._spinner.text = text
        else:
            self._is_reading = done < total
            write_over(text)

    @contextmanager
    def waiting(self) -> Iterator[Spinner]:
        """Show a spinner on a terminal, with the text of `reading`, until it is stopped."""
        with spinning() as self._spinner:
            try:
                yield self._spinner
            finally:
                self._spinner = None


class JsonScreen(Screen):
    """Each answer as one line of JSON; notes go to stderr as usual."""

    def answer(
        self, completion: Answer, message: str = "", name: str = "", *, goes_on: bool = False, before: str = ""
    ) -> None:
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
                    "tokens_per_pass": round(t.tokens / t.passes, 3) if t.passes else None,
                },
                ensure_ascii=False,
            ),
            flush=True,
        )


def _text_and_reasoning(completion: Answer, parts: list[tuple[bool, str]]) -> dict[str, str | None]:
    """The answer, and the thought of a model that supports thinking (None if there was none)."""
    if completion.before is None:
        return {"text": completion.text.lstrip()}
    thought, text = ("".join(part for is_thought, part in parts if is_thought is wanted) for wanted in (True, False))
    return {"text": text.lstrip(), "reasoning": thought.strip() or None}


def _trimmers(completion: Answer, goes_on: bool) -> tuple[_Trimmer, _Trimmer]:
    """One for the thought and one for the answer. A text that is continued is not at its beginning."""
    thought, answer = split_thought(completion.before or "")
    return _Trimmer(goes_on and bool(thought)), _Trimmer(goes_on and (thought is None or bool(answer.strip())))


class _Trimmer:
    """Removes spaces before the first word, and line breaks after the last."""

    def __init__(self, has_begun: bool) -> None:
        self._pending, self._has_begun = "", has_begun

    def push(self, piece: str) -> str:
        """The part of the text so far that can be shown."""
        text = self._pending + (piece if self._has_begun else piece.lstrip())
        self._has_begun = self._has_begun or bool(text)
        shown = text.rstrip("\n")
        self._pending = text[len(shown) :]
        return shown


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f}" if tokens and seconds else "-"

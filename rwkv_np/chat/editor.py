"""The input line: prompt_toolkit, with our keys, history and completion.

Enter sends, as in every chat; a pasted text keeps its lines, and Alt+Enter or a backslash at
the end of a line starts a new line. The history is kept between sessions.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.styles import Style

from rwkv_np.chat.commands import COMMANDS
from rwkv_np.chat.reflow import erase_all_on_resize
from rwkv_np.chat.session import Session
from rwkv_np.chat.settings import NAMES
from rwkv_np.chat.thinking import MODES
from rwkv_np.console import has_color

# The bottom line is dim, not reversed as by default: a bar across the window would distract from the conversation, and
# its painted spaces would wrap when the window becomes narrower.
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "bottom-toolbar.text": "noreverse dim"})


class Editor:
    """Reads what the user types; `history` is a file, or None for this session only."""

    def __init__(self, session: Session, history: Path | None) -> None:
        self._session, self._has_said_problem = session, False
        self._prompt: PromptSession[str] = PromptSession(
            history=_open_history(history),
            completer=CommandCompleter(session),
            complete_while_typing=False,
            key_bindings=_keys(),
            prompt_continuation=lambda width, line, wrapped: " " * width,
            enable_suspend=True,
            # Answers may go to a file while the user types.
            output=create_output(always_prefer_tty=True),
            style=_STYLE,
            color_depth=_color_depth(session.screen.color),
        )
        erase_all_on_resize(self._prompt.app)

    def read(self) -> str:
        """A line, or several. Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
        name = self._session.conversation.template.user
        shown = self._session.screen.bottom_line(self._session.model["name"])
        self._prompt.bottom_toolbar = shown or None
        self._session.screen.separate()
        line = self._prompt.prompt(FormattedText([("bold ansigreen", f"{name}: ")]), default=self._session.draft or "")
        self._say_problem()
        return line

    def _say_problem(self) -> None:
        """Report once, between two inputs, that lines are no longer saved."""
        problem = getattr(self._prompt.history, "problem", None)
        if problem and not self._has_said_problem:
            self._has_said_problem = True
            self._session.screen.note(f"{problem}. The input history is kept for this session only")


def _color_depth(wanted: bool | None) -> ColorDepth | None:
    """The colours for prompt_toolkit; None if its own detection agrees. (It knows NO_COLOR, but not FORCE_COLOR.)"""
    if wanted is None and not has_color(sys.stdout):
        return ColorDepth.DEPTH_1_BIT
    return {None: None, True: ColorDepth.DEPTH_8_BIT, False: ColorDepth.DEPTH_1_BIT}[wanted]


class KeptHistory(FileHistory):
    """Lines in a file that only the user may read; if it cannot be read or written, they last for this session.

    problem  what was wrong with the file, or None
    """

    problem: str | None

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path, self.problem = path, None
        with self._noting():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NONBLOCK", 0), 0o600))
            if not path.is_file():
                raise OSError(errno.EINVAL, "is not a regular file")

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problem = self.problem or f"{self.path}: {error.strerror or error}"

    def load_history_strings(self) -> Iterable[str]:
        lines: list[str] = []
        with self._noting():
            lines = [] if self.problem else list(super().load_history_strings())
        return lines

    def store_string(self, string: str) -> None:
        with self._noting():
            if not self.problem:
                super().store_string(string)


def _open_history(path: Path | None) -> History:
    return InMemoryHistory() if path is None else KeptHistory(path)


def _keys() -> KeyBindings:
    keys = KeyBindings()
    is_typing = ~is_searching  # in a search, Enter takes the line that was found

    @keys.add("escape", "enter", filter=is_typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter", filter=is_typing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\" and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return keys


class CommandCompleter(Completer):
    """Completes commands after a slash, and their arguments."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        word, space, argument = text[1:].partition(" ")
        if not space:
            yield from self._commands(word)
            return
        kind = next((command.completes for command in COMMANDS if command.name == word.rstrip("!")), "")
        if kind == "file":
            yield from self._paths.get_completions(Document(argument), complete_event)
        else:
            yield from _matching(argument, self._choices(kind))

    def _commands(self, word: str) -> Iterator[Completion]:
        for command in COMMANDS:
            for name in (command.name, *command.also):
                if name.startswith(word):
                    text = name + (" " if command.argument else "")
                    meaning = self._session.screen.language.help[command.name]
                    yield Completion(text, -len(word), display=f"/{name}", display_meta=meaning)

    def _choices(self, kind: str) -> Iterable[str]:
        if kind == "branch":
            return self._session.conversation.branches
        if kind == "setting":
            return NAMES
        if kind == "think":
            return MODES
        return [command.name for command in COMMANDS] if kind == "command" else ()


def _matching(word: str, choices: Iterable[str]) -> Iterator[Completion]:
    return (Completion(choice, -len(word)) for choice in choices if choice.startswith(word))

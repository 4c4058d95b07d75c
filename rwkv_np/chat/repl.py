"""Reads the input lines: from a user at a terminal, or from a pipe.

At a terminal no error ends the chat: it is shown, and the conversation is unchanged. That includes
internal errors (bugs), which are caught only here. In a pipe the first error ends the program, as
scripts expect.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rwkv_np.chat.actions import Leave
from rwkv_np.chat.line import handle
from rwkv_np.chat.session import Session
from rwkv_np.errors import RwkvError, one_line


class Lines(Protocol):
    """A source of lines that a user types."""

    def read(self) -> str:
        """The next line. Raises EOFError, KeyboardInterrupt."""


def run(session: Session, lines: Lines) -> None:
    """Chat on the terminal until the user exits; a conversation that was not saved is kept as the last one."""
    session.screen.say("welcome")
    is_going_on, is_kept = True, False
    try:
        while is_going_on:
            try:
                is_going_on = _take_line(session, lines)
            except KeyboardInterrupt:  # while reading or printing something: an answer handles Ctrl-C itself
                session.screen.say("given_up")
    finally:  # also if the terminal was closed
        is_kept = session.keep_last()
    if is_kept:
        session.screen.say("kept_last")


def _take_line(session: Session, lines: Lines) -> bool:
    """Handle one line; False to exit."""
    try:
        line = lines.read()
    except EOFError:
        return False
    except KeyboardInterrupt:
        session.draft = None
        session.screen.say("again")
        return True
    try:
        handle(session, line)
    except Leave:
        return False
    except BrokenPipeError:
        raise  # the reader of the answers is gone
    except Exception as error:
        session.screen.error(_what_went_wrong(session, error))
    return True


def _what_went_wrong(session: Session, error: Exception) -> str:
    """The message for the user; an unexpected exception is kept for /traceback."""
    if isinstance(error, (RwkvError, OSError)):
        return one_line(error)
    if isinstance(error, MemoryError):
        return "not enough memory; the conversation is unchanged"
    session.fault = error
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return (
        f"{said}. This is a bug in rwkv_np; the conversation is unchanged. "
        "/traceback shows where it happened: please include it in a report"
    )


def run_lines(session: Session, lines: Iterable[str]) -> None:
    """Handle each line, in one conversation. Raises RwkvError, OSError."""
    for line in lines:
        if line.strip():
            try:
                handle(session, line)
            except Leave:
                return
        if session.was_interrupted:
            return

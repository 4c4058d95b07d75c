"""Where lines come from: a person at a terminal, or a pipe.

At a terminal nothing that goes wrong ends the chat: an error is shown, and the conversation is
where it was. That is so for our own mistakes too, and here is the one place that sees to it. In a
pipe the first error ends it, as in any program that works for another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rwkv_np.chat.actions import Leave
from rwkv_np.chat.line import handle
from rwkv_np.chat.session import Session
from rwkv_np.errors import RwkvError, one_line


class Lines(Protocol):
    """What a person types on."""

    def read(self) -> str:
        """The next line. Raises EOFError, KeyboardInterrupt."""


def run(session: Session, lines: Lines) -> None:
    """Talk on the terminal until the person leaves."""
    session.screen.say("welcome")
    is_going_on = True
    while is_going_on:
        try:
            is_going_on = _take_line(session, lines)
        except KeyboardInterrupt:  # while something was read or said: an answer ends by itself
            session.screen.say("given_up")


def _take_line(session: Session, lines: Lines) -> bool:
    """Do what one line says; False to leave."""
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
        raise  # nobody reads the answers any more
    except Exception as error:
        session.screen.error(_what_went_wrong(session, error))
    return True


def _what_went_wrong(session: Session, error: Exception) -> str:
    """A line for the person; what the program did not expect is kept for /traceback."""
    if isinstance(error, (RwkvError, OSError)):
        return one_line(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory for that; the conversation is as it was"
    session.fault = error
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return (
        f"{said}. That is a mistake in rwkv_np; the conversation is as it was. "
        "/traceback shows where it happened: please report it with that"
    )


def run_lines(session: Session, lines: Iterable[str]) -> None:
    """Do what each line says, in one conversation. Raises RwkvError, OSError."""
    for line in lines:
        if line.strip():
            try:
                handle(session, line)
            except Leave:
                return
        if session.was_interrupted:
            return

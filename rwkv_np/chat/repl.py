"""Where lines come from: a person at a terminal, or a pipe.

At a terminal nothing that goes wrong ends the chat: an error is shown, and the conversation is
where it was. In a pipe the first error ends it, as in any program that works for another.
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
    while True:
        try:
            line = lines.read()
        except EOFError:
            return
        except KeyboardInterrupt:
            session.draft = None
            session.screen.say("again")
            continue
        try:
            handle(session, line)
        except Leave:
            return
        except KeyboardInterrupt:  # while something was read: the answer itself ends by itself
            session.screen.say("given_up")
        except (RwkvError, OSError) as error:
            session.screen.error(one_line(error))


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

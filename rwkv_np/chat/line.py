"""What a line of input does: it is a command (commands.py), or a message for the session.

Terminal and pipe go through `handle`; repl.py reads the lines. A
session does not know the commands, which are built on it.
"""

from __future__ import annotations

import re

from rwkv_np.chat.commands import find_command
from rwkv_np.chat.session import Session
from rwkv_np.errors import InputError

# In rwkv.cpp's chat these may be part of a message, and apply to that message only.
_INLINE = re.compile(r"(?:^|(?<=\s))-(temp|top_p)=(\S*)(?:\s+|$)")
_INLINE_NAMES = {"temp": "temperature", "top_p": "top_p"}


def handle(session: Session, line: str) -> None:
    """Handle a line of input. Raises RwkvError, OSError: nothing was changed; Leave: to exit."""
    # A byte order mark, which some editors put before a text, would hide a command.
    line, session.changes = _take_inline_settings(line.strip().lstrip("\ufeff").lstrip())
    found = find_command(line)
    if found:
        command, argument = found
        command.run(session, argument)
    elif line or session.attached:
        session.say(line[1:] if line.startswith("//") else line)
    session.keep()


def _take_inline_settings(line: str) -> tuple[str, dict[str, float]]:
    """(`line` without the inline settings, their values)."""
    changes = {}
    for name, value in _INLINE.findall(line):
        try:
            changes[_INLINE_NAMES[name]] = float(value)
        except ValueError:
            raise InputError(f"-{name}={value} in the message; expected a number, as in -{name}=0.8") from None
    return (_INLINE.sub("", line).strip(), changes) if changes else (line, changes)

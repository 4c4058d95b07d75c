"""How text may look in the chat, and the escape sequences for it.

Only attributes and the terminal's own 16 colours are used, which follow the user's theme, dark or
light. Blue and yellow are not used: they are hard to read on black and on white.
"""

from __future__ import annotations

import enum

RESET = "\x1b[0m"


class Style(enum.Flag):
    """Looks that can be combined, as in BOLD | ITALIC."""

    PLAIN = 0
    BOLD = enum.auto()
    ITALIC = enum.auto()
    DIM = enum.auto()
    CODE = enum.auto()
    HEADING = enum.auto()


_CODES = {Style.BOLD: "1", Style.DIM: "2", Style.ITALIC: "3", Style.CODE: "36", Style.HEADING: "1;35"}
_sequences: dict[Style, str] = {Style.PLAIN: ""}


def sequence(style: Style) -> str:
    """The escape sequence that turns `style` on; empty for plain text."""
    if style not in _sequences:  # combining flags takes microseconds, and each token needs it
        codes = ";".join(code for flag, code in _CODES.items() if flag in style)
        _sequences[style] = f"\x1b[{codes}m"
    return _sequences[style]


LABEL = "\x1b[1;36m"  # who speaks
DIM = sequence(Style.DIM)  # notes, thinking
RED = "\x1b[31m"  # errors

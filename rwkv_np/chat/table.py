"""A table with aligned columns, drawn by rich when all of its rows are known."""

from __future__ import annotations

import io
import re

from rwkv_np.chat.styles import RESET

_DIVIDER = re.compile(r" *\|[ :|-]*-[ :|-]*")
_UNSEEN = re.compile(r"(\x1b\[[\d;]*m| )*$")  # spaces at the end of a row, and their colours
_LOOKS = {
    "markdown.table.border": "dim", "markdown.table.header": "bold", "markdown.code": "cyan",
    "markdown.code_block": "cyan",
}  # fmt: skip
NARROWEST = 20  # columns of a window in which tables are drawn


def draw(text: str, columns: int) -> str | None:
    """The Markdown table `text`, drawn for that many columns; None if it is not a table, or does not fit."""
    lines = text.split("\n")
    if len(lines) < 2 or not _DIVIDER.fullmatch(lines[1]) or columns < NARROWEST:
        return None
    from rich.console import Console  # 100 ms, which a chat without tables does not need
    from rich.markdown import Markdown
    from rich.theme import Theme

    console = Console(
        file=io.StringIO(), width=columns, force_terminal=True, color_system="standard", legacy_windows=False,
        no_color=False, theme=Theme(_LOOKS),
    )  # fmt: skip
    with console.capture() as captured:
        # No links: a word must not hide the address that it leads to.
        console.print(Markdown(text, hyperlinks=False))
    rows = [_UNSEEN.sub("", row) for row in captured.get().split("\n")]
    return "\n".join(row + RESET for row in rows if row) or None

"""Record a chat with the demo model as a picture: the real program on a virtual screen, as SVG.

    python tools/record_terminal.py docs/terminal.svg
    python tools/record_terminal.py other.svg --columns 100 -l "Hello!" -l "/settings"

The program runs in a pseudo-terminal, lines are typed into it, and pyte reports the characters and
colours on the screen. Only the answers' speeds differ from one recording to the next.

Characters are placed by terminal cells, not by the font: each run of text has a fixed width, so the
picture is the same with every monospaced font, and Chinese characters take two cells as in a terminal.
This needs packages of the tests (pexpect, pyte).
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import click
import pexpect
import pyte

from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.cli import Command

LINES = (
    "Hello! Who are you?",
    "What is the capital of Peru?",
    "How do you say tea in Chinese?",
    "中国的首都是哪里？",
    "Tell me a story.",
)
PATIENCE = 120  # seconds for an answer; the first run compiles the kernels

ROWS = 28
CELL, ROW, SIZE = 8.4, 19, 14  # width and height of a cell, and the font's size
MARGIN, BAR = 16, 34
# pyte's names of the colours that the chat uses, on a dark background.
COLORS = {
    "default": "#d8dee9", "green": "#a3be8c", "cyan": "#88c0d0", "red": "#e0707c", "magenta": "#c79bc4",
    "brightblack": "#8490a6",
}  # fmt: skip
DIM = re.compile(r"\x1b\[(0;)?2m")  # pyte does not support dim text: it is shown in gray


class Screen(pyte.Screen):
    """A screen that answers the program's questions, such as where the cursor is."""

    def __init__(self, columns: int, rows: int, child: pexpect.spawn) -> None:
        super().__init__(columns, rows)
        self._child = child

    def write_process_input(self, data: str) -> None:
        self._child.send(data)


Run = tuple[int, str, str, bool, bool]  # the first cell, the text, the colour, whether it is bold, or italic
PROGRAM = ("-m", "rwkv_np.chat")


def record(
    lines: Iterable[str], columns: int, rows: int, program: Sequence[str] = PROGRAM, user: str = "", **env: str
) -> pyte.Screen:
    """The screen after a chat in which those lines were typed.

    program  what Python runs; `user` is the name before its input line
    env      variables of its environment
    """
    prompt = f"{user or TEMPLATES['raven'].user}:"
    with tempfile.TemporaryDirectory() as home:
        child = pexpect.spawn(
            sys.executable, [*program], env=_environment(home) | env, dimensions=(rows, columns), encoding="utf-8"
        )
        screen = Screen(columns, rows, child)
        stream = pyte.Stream(screen)
        stream.feed("$ rwkv-np chat\r\n" if program is PROGRAM else "")
        _wait_for_prompt(child, screen, stream, prompt)
        for line in lines:
            child.send(line + "\r")
            _wait_for_prompt(child, screen, stream, prompt)
        child.close(force=True)
    return screen


def _environment(home: str) -> dict[str, str]:
    """The environment of a user without settings, with English language and a terminal with colours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RWKV_NP_", "LC_", "NO_COLOR"))}
    cache = {name: os.environ[name] for name in ("RWKV_NP_CACHE",) if name in os.environ}
    return kept | cache | {
        "LANG": "C.UTF-8", "TERM": "xterm-256color", "RWKV_NP_SEED": "1", "RWKV_NP_HISTORY": "none",
        "XDG_CONFIG_HOME": home, "PYTHONUTF8": "1",
    }  # fmt: skip


def _wait_for_prompt(child: pexpect.spawn, screen: pyte.Screen, stream: pyte.Stream, prompt: str) -> None:
    """Update the screen with the program's output until it shows the next prompt."""
    end, is_answered = time.monotonic() + PATIENCE, False
    while time.monotonic() < end:
        try:
            data = child.read_nonblocking(65536, timeout=0.5)
        except pexpect.TIMEOUT:
            if is_answered and screen.display[screen.cursor.y].strip() == prompt:
                return
            continue
        except pexpect.EOF:
            break
        is_answered = is_answered or "\n" in data
        stream.feed(DIM.sub(lambda found: f"\x1b[{found[1] or ''}90m", data))
    raise click.ClickException("the prompt did not appear; the screen shows:\n" + "\n".join(screen.display))


def runs(screen: pyte.Screen, y: int) -> Iterator[Run]:
    """The runs of a row with the same style; a wide character is a run of its own."""
    run: Run | None = None
    for x in range(screen.columns):
        cell = screen.buffer[y][x]
        if not cell.data:  # the second half of a wide character
            continue
        is_wide = x + 1 < screen.columns and not screen.buffer[y][x + 1].data
        if run and not is_wide and run[2:] == (cell.fg, cell.bold, cell.italics) and run[0] + len(run[1]) == x:
            run = (run[0], run[1] + cell.data, *run[2:])
            continue
        if run:
            yield run
        run = (x, cell.data, cell.fg, cell.bold, cell.italics)
        if is_wide:
            yield run
            run = None
    if run:
        yield run


def draw(screen: pyte.Screen, title: str) -> str:
    """The screen as an SVG of a window."""
    n_rows = screen.lines
    width, height = round(2 * MARGIN + CELL * screen.columns), BAR + MARGIN + ROW * n_rows
    texts = [_text(run, y) for y in range(n_rows) for run in runs(screen, y) if run[1].strip()]
    x, y = MARGIN + CELL * screen.cursor.x, BAR + ROW * screen.cursor.y
    buttons = "".join(
        f'<circle cx="{MARGIN + 4 + 20 * i}" cy="{BAR / 2:g}" r="6" fill="{color}"/>'
        for i, color in enumerate(("#bf616a", "#ebcb8b", "#a3be8c"))
    )
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#242933"/>',
        buttons,
        f'<rect x="{x:g}" y="{y + 2:g}" width="{CELL}" height="{ROW - 3}" fill="{COLORS["default"]}"/>',
        f'<g font-size="{SIZE}" xml:space="preserve" '
        "font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK SC', monospace\">",
        *texts,
        "</g>",
        "</svg>",
        "",
    ])  # fmt: skip


def _text(run: Run, y: int) -> str:
    x, text, color, is_bold, is_italic = run
    text = text.rstrip()
    n_cells = 2 if len(text) == 1 and ord(text) > 0x2E7F else len(text)
    bold = ' font-weight="bold"' * is_bold + ' font-style="italic"' * is_italic
    fill = COLORS.get(color, COLORS["default"])
    return (
        f'<text x="{MARGIN + CELL * x:g}" y="{BAR + ROW * y + SIZE:g}" fill="{fill}"{bold} '
        f'textLength="{CELL * n_cells:g}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
    )


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-l", "--line", "lines", multiple=True, default=LINES, show_default=False, help="A line; repeatable.")
@click.option("--columns", default=84, help="Width of the screen.")
@click.option("--rows", default=ROWS, help="Height of the screen; of a longer chat, the picture shows the end.")
def command(out: Path, lines: tuple[str, ...], columns: int, rows: int) -> None:
    """Chat with the demo model and write the screen to OUT as SVG."""
    screen = record(lines, columns, rows)
    out.write_text(draw(screen, "A chat with the demo model: " + " ".join(lines)), encoding="utf-8")
    click.echo("\n".join(row.rstrip() for row in screen.display))


if __name__ == "__main__":
    command()

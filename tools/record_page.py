"""Take a screenshot of the server's page: the real server with the demo model, in a real browser.

    python tools/record_page.py docs/page.png
    python tools/record_page.py other.png --width 360 --height 740 --scheme dark -l "Hello!"

It needs the packages of the server and its tests (playwright) and chromium, for example from Debian. Decoding is
greedy, so only the speeds differ from one recording to the next.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

LINES = ("What is the capital of Peru?", "秘鲁用什么货币？", "给我讲个故事。")
OLDER = ("中国的首都是哪里？", "Who wrote Hamlet?", "What is 7 times 8?")
BROWSER = os.environ.get("RWKV_NP_BROWSER") or shutil.which("chromium")
PATIENCE = 120_000  # milliseconds; the first run compiles


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server with the demo model."""
    command = [sys.executable, "-m", "rwkv_np.serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"Open (http\S+)", line):
                    yield found[1]
                    break
            else:
                raise click.ClickException("the server did not start")
        finally:
            process.terminate()


def record(url: str, lines: tuple[str, ...], width: int, height: int, scheme: str) -> bytes:
    """The page after a conversation with these messages, as PNG."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        size = {"width": width, "height": height}
        page = browser.new_page(viewport=size, color_scheme=scheme, locale="en-US")
        page.set_default_timeout(PATIENCE)
        page.add_init_script("""localStorage["rwkv-np.settings"] = '{"temperature": 0}'""")
        page.goto(url)
        page.wait_for_selector("#line:not(:empty)")
        for older in OLDER if width > height else ():
            _say(page, older)
            page.keyboard.press("Control+Shift+O")
        for line in lines:
            _say(page, line)
        page.locator("#input").blur()
        page.mouse.move(0, 0)
        picture: bytes = page.screenshot()
        browser.close()
    return picture


def _say(page, line: str) -> None:  # type: ignore[no-untyped-def]
    page.fill("#input", line)
    page.click("#send")
    page.wait_for_selector("#send.stop", state="detached")
    page.wait_for_selector(".turn.assistant:last-child .figures")


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--line", "-l", "lines", multiple=True, default=LINES, help="A message; may be repeated.")
@click.option("--width", default=1120, show_default=True)
@click.option("--height", default=780, show_default=True)
@click.option("--scheme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
def command(out: Path, lines: tuple[str, ...], width: int, height: int, scheme: str) -> None:
    """Write the picture OUT."""
    if BROWSER is None:
        raise click.ClickException("there is no chromium; install one, or name it in RWKV_NP_BROWSER")
    with serving() as url:
        out.write_bytes(record(url, lines, width, height, scheme))
    click.echo(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    command()

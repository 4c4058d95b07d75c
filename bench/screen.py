"""The cost of showing an answer: microseconds per token between the model and a terminal.

    python bench/screen.py
    python bench/screen.py --json

Texts are written as in the chat, five characters per token, to a pseudo-terminal of 80 columns that another process
reads. The demo model takes about 2,000 us per token on one core. `worst` is mostly the import of pygments or rich, or
the drawing of a table: at most once per answer.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import click

from rwkv_np.chat.speech import Speech
from rwkv_np.cli import Command

PROSE = "The **kettle** is on the stove, and the water in it is `hot`; *nobody* has had tea so far. "
CODE = '    for name, price in sorted(prices.items()):  # the cheapest last\n        print(f"{name}: {price}")\n'
ROW = "| green tea | 3.50 | from the **hills** |\n"
TEXTS = {
    "prose": PROSE * 40,
    "Chinese": "今天天气很好，我们一起去公园散步吧。人工智能的发展**改变**了我们的生活方式。" * 40,
    "list": "".join(f"{i}. {PROSE}\n" for i in range(40)),
    "code": f"```python\n{CODE * 20}```\n",
    "table": f"| tea | price | origin |\n|---|---:|---|\n{ROW * 18}\n",
}
PIECE = 5  # characters


def time_tokens(text: str) -> list[float]:
    """The seconds to show each token of `text`."""
    speech, seconds = Speech("Alice"), []
    for start in range(0, len(text), PIECE):
        begin = time.perf_counter()
        speech.write(text[start : start + PIECE])
        seconds.append(time.perf_counter() - begin)
    speech.end()
    return seconds


def to_terminal() -> subprocess.Popen[bytes]:
    """Connect stdout to a terminal that another process reads."""
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    os.environ |= {"TERM": "xterm-256color"}
    reader = subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(ours)
    sys.stdout = os.fdopen(theirs, "w", encoding="utf-8")
    return reader


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--runs", type=click.IntRange(1), default=5, help="Number of runs for the median.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def command(runs: int, as_json: bool) -> None:
    """Measure the time to show a token."""
    out, reader = sys.stdout, to_terminal()
    try:
        times = {name: [time_tokens(text) for _ in range(runs)] for name, text in TEXTS.items()}
    finally:
        sys.stdout.close()
        sys.stdout = out
        reader.wait()
    found = {
        name: {
            "mean_us": round(1e6 * statistics.median(sum(run) / len(run) for run in runs_of), 1),
            "worst_us": round(1e6 * max(map(max, runs_of)), 1),
        }
        for name, runs_of in times.items()
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'text':10}{'mean us':>10}{'worst us':>10}")
    for name, row in found.items():
        click.echo(f"{name:10}{row['mean_us']:10.1f}{row['worst_us']:10.1f}")


if __name__ == "__main__":
    command()

"""How long the server's page keeps the browser busy while a long answer arrives.

    python bench/page.py                     # 10,000 tokens at 300 a second, of each kind of text
    python bench/page.py --kinds code,list --tokens 2000

A browser that is busy for more than 50 ms at a time does not scroll or handle a key in time. The figures are for the
tasks of the page's main thread, from the browser's own trace: the longest in processor time (which does not depend on
other programs), the longest in wall-clock time, and how many took more than 50 ms of processor time. It needs chromium
and the package playwright, and starts its own scripted server.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browsing import Visitor, chromium
from scripted_server import Pause, ScriptedServer

LONG = 50.0  # milliseconds
WORDS = "the of to and state model token time *mixing* **channel** `key` value receptance decay vector".split()
LETTERS = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动"


def prose(i: int) -> str:
    return random.choice(WORDS) + (". " if i % 13 == 12 else "\n\n" if i % 90 == 89 else " ")


def paragraph(i: int) -> str:
    """Chinese without a line break: the worst case for the browser's layout."""
    return random.choice(LETTERS) + ("。" if i % 20 == 19 else "")


def lines(i: int) -> str:
    return random.choice(WORDS) + ("\n" if i % 10 == 9 else " ")


def code(i: int) -> str:
    return "```python\n" if i == 0 else random.choice(["x = ", "foo(", "bar) ", "+ 1\n", "    "])


def bullets(i: int) -> str:
    return "\n- " if i % 15 == 0 else random.choice(WORDS) + " "


def table(i: int) -> str:
    if i == 0:
        return "| a | b |\n|---|---|\n"
    return (
        ("| " if i % 8 == 1 else "") + random.choice(WORDS) + (" |\n" if i % 8 == 0 else " | " if i % 8 == 4 else " ")
    )


KINDS: dict[str, Callable[[int], str]] = {
    "prose": prose, "paragraph": paragraph, "lines": lines, "code": code, "list": bullets, "table": table,
}  # fmt: skip


@click.command()
@click.option("--kinds", default=",".join(KINDS), show_default=True)
@click.option("--tokens", default=10_000, show_default=True)
@click.option("--rate", default=300, show_default=True, help="Tokens per second.")
def main(kinds: str, tokens: int, rate: int) -> None:
    """Measure each kind of text."""

    def reply(body: dict) -> Iterator[object]:
        make = KINDS[body["messages"][-1]["content"]]
        begin = time.perf_counter()
        for i in range(tokens):
            yield make(i)
            yield Pause(max(0.0, begin + (i + 1) / rate - time.perf_counter()))

    random.seed(1)
    print(f"{'kind':12}{'longest, CPU ms':>17}{'by the clock':>14}{f'over {LONG:.0f} ms':>12}{'busy, CPU s':>13}")
    with ScriptedServer(reply) as server, chromium() as browser:
        for kind in kinds.split(","):
            visitor = Visitor(browser, server.url).ready()
            browser.start_tracing(page=visitor.page, categories=["toplevel", "disabled-by-default-devtools.timeline"])
            visitor.page.set_default_timeout(tokens / rate * 3000 + 60_000)
            visitor.ask(kind)
            cpu, wall = _tasks(browser.stop_tracing())
            n_long = sum(each > LONG for each in cpu)
            print(f"{kind:12}{max(cpu):17.1f}{max(wall):14.1f}{n_long:12}{sum(cpu) / 1000:13.1f}", flush=True)
            visitor.context.close()


def _tasks(trace: bytes) -> tuple[list[float], list[float]]:
    """Processor and wall-clock milliseconds of each task of the busiest renderer main thread."""
    events = json.loads(trace)["traceEvents"]
    threads: dict[tuple[int, int], list[dict]] = {}
    mains = {
        (each["pid"], each["tid"])
        for each in events
        if each["name"] == "thread_name" and each["args"]["name"] == "CrRendererMain"
    }
    for each in events:
        if each.get("ph") == "X" and each["name"].endswith("RunTask") and (each["pid"], each["tid"]) in mains:
            threads.setdefault((each["pid"], each["tid"]), []).append(each)
    busiest = max(threads.values(), key=lambda tasks: sum(each.get("tdur", 0) for each in tasks))
    return [each.get("tdur", 0) / 1000 for each in busiest], [each["dur"] / 1000 for each in busiest]


if __name__ == "__main__":
    main()

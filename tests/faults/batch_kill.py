"""Kill (or signal) one batch job at random moments, again and again, until it is done: the bytes of one start.

    python tests/faults/batch_kill.py [--rounds 20] [--rows 60] [--seed 0]

A round is a job from its first start to its end. No answer that was in the file may be lost by a kill, and in the end
both files must be those of a job that nobody disturbed.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from rwkv_np import demo

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def start(requests: Path, answers: Path, running: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rwkv_np.batch", demo.MODEL, requests, answers, "--threads", 1]
    words = [*map(str, command), "--max-running", str(running)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def requests_of(path: Path, n: int, chance: random.Random) -> None:
    """Rows of all kinds, some of them wrong."""
    rows: list[object] = []
    for i in range(n):
        said = [{"role": "user", "content": f"Tell me a story about {chance.randrange(9)}."}]
        body = {"messages": said, "max_tokens": chance.randrange(1, 60), "ignore_eos": True, "n": chance.choice([1, 2])}
        row = {"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        rows.append(
            chance.choices([row, {"prompt": f"Once {i}"}, {"x": 1}, row | {"custom_id": "r0"}], [8, 2, 1, 1])[0]
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def play(folder: Path, n_rows: int, chance: random.Random) -> int:
    """One round; returns how often the job was ended."""
    requests, whole, answers = folder / "requests.jsonl", folder / "whole.jsonl", folder / "answers.jsonl"
    requests_of(requests, n_rows, chance)
    begin = time.monotonic()
    job = start(requests, whole, 8)
    assert job.communicate(timeout=600) and job.returncode == 0
    seconds, kept, n_ends = time.monotonic() - begin, [], 0
    while True:
        job = start(requests, answers, chance.choice([2, 3, 8]))
        try:
            job.wait(seconds * chance.uniform(0.1, 0.7) if n_ends < 12 else 600)
        except subprocess.TimeoutExpired:
            number = chance.choice(SIGNALS)
            job.send_signal(number)
        said = job.communicate(timeout=60)[1]
        if job.returncode == 0:
            break
        assert job.returncode in (-9, 130, 143, -2, -15), said
        found = lines(answers)
        assert set(kept) <= set(found), "answers are lost"
        kept, n_ends = found, n_ends + 1
    for end in (".jsonl", ".errors.jsonl"):
        assert lines(answers.with_suffix(end)) == lines(whole.with_suffix(end)), end
    return n_ends


@click.command()
@click.option("--rounds", default=20)
@click.option("--rows", default=60)
@click.option("--seed", default=0)
def main(rounds: int, rows: int, seed: int) -> None:
    """Play the rounds."""
    n_ends = 0
    for i in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            n_ends += play(Path(folder), rows, random.Random(1000 * seed + i))
        click.echo(f"round {i + 1}: the bytes of one start; {n_ends} ends so far")


if __name__ == "__main__":
    main()

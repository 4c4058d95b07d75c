"""Kill (or signal) all commands that write files at random moments. Started by hand, for any number of rounds.

    python tests/faults/kill.py --rounds 200
    python tests/faults/kill.py --rounds 50 --jobs train,chat --signals TERM,HUP,INT --seed 7

Each round starts a job, in one round of three two jobs in the same folder, and ends one of them at a random
moment. The conditions of jobs.py must then be true. After a signal that can be caught, no incomplete file may be
left, and stderr has no traceback. The last line is one JSON document; the exit status is 1 if a failure was
found.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from jobs import JOBS, Job, strays  # noqa: E402

LIMIT = 600  # seconds after which a job counts as hanging
# Before our code runs and while Python exits, a signal has its default effect.
EXPECTED = {"KILL": {-9}, "TERM": {143, -15}, "HUP": {129, -1}, "INT": {130, -2}}


def start(job: Job, folder: Path) -> subprocess.Popen[str]:
    job.prepare(folder)
    (folder.parent / "stdin").write_text(job.stdin)
    with open(folder.parent / "stdin", encoding="utf-8") as stdin:
        return subprocess.Popen(
            job.command(folder), cwd=folder, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def usual_time(job: Job, folder: Path) -> float:
    """Seconds of the whole job, which must succeed."""
    for _ in range(2):  # the first may compile
        shutil.rmtree(folder, ignore_errors=True)
        began = time.monotonic()
        child = start(job, folder)
        out, err = child.communicate(timeout=LIMIT)
        assert child.returncode == 0, err
        job.check(folder, out, err)
    return time.monotonic() - began


def check(job: Job, folder: Path, child: subprocess.Popen[str], name: str) -> str:
    """Raise AssertionError if something is wrong; returns how the child ended."""
    out, err = child.communicate(timeout=LIMIT)
    job.check(folder, out, err)
    if child.returncode == 0:
        return "ended before"
    if child.returncode == 1 and "already exists" in err.splitlines()[-1]:
        return "refused"  # the other process was faster
    assert child.returncode in EXPECTED[name], f"exit status {child.returncode}: {err[-500:]}"
    if name != "KILL" and "Traceback" in err:
        # Ctrl-C while Python starts or ends, or while a script imports PyTorch, does not reach our code.
        assert name == "INT" and err.rstrip().endswith("KeyboardInterrupt") and "/click/" not in err, err[-2000:]
        return "INT while importing"
    return name


def play(job: Job, name: str, folder: Path, seconds: float, rng: random.Random) -> str:
    children = [start(job, folder) for _ in range(2 if job.name != "train" and rng.random() < 1 / 3 else 1)]
    time.sleep(seconds * len(children) * rng.uniform(0.4, 1.05))
    children[0].send_signal(getattr(signal, f"SIG{name}"))
    ends = [check(job, folder, child, name) for child in children]
    if name != "KILL":
        assert not strays(folder), f"left behind: {strays(folder)}"
    return ends[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--signals", default="KILL,KILL,TERM,HUP,INT")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ends = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="rwkv-np-faults-") as base:
        folder = Path(base) / "work"
        seconds = {name: usual_time(JOBS[name], folder) for name in options.jobs.split(",")}
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            failures = play_rounds(options, folder, seconds, ends)
        finally:  # Ctrl-C shows the results so far
            print(json.dumps({"rounds": sum(ends.values()), "ends": dict(sorted(ends.items()))}))
    sys.exit(1 if failures else 0)


def play_rounds(options: argparse.Namespace, folder: Path, seconds: dict[str, float], ends: Counter[str]) -> int:
    """Play the rounds and count how they end; returns how many failed."""
    rng, failures = random.Random(options.seed), 0
    for number in range(options.rounds):
        job, name = JOBS[rng.choice(list(seconds))], rng.choice(options.signals.split(","))
        shutil.rmtree(folder, ignore_errors=True)
        try:
            ends[f"{job.name}: {play(job, name, folder, seconds[job.name], rng)}"] += 1
        except Exception:
            failures += 1
            ends["failed"] += 1
            print(f"round {number}, {job.name}, {name}: {traceback.format_exc(limit=-2)}", flush=True)
    return failures


if __name__ == "__main__":
    main()

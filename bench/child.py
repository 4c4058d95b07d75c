"""Run a program on a file in a child process, and measure its time and memory.

`convert.py` and `quantize.py` in this folder decide what is run, and on what. The time is that of
the whole process, including its start and imports. If the last line of its stdout is a JSON document
with `seconds`, that is the time of the library call alone, and it is reported too.

Memory is the peak of RssAnon, sampled every 20 ms: the memory of the process itself, without the
pages of mapped files that the kernel can reclaim at any time. Only Linux reports it (/proc).
"""

from __future__ import annotations

import filecmp
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import click

SAMPLE_S = 0.02

Arguments = Callable[[Path], Sequence["str | Path"]]
"""The command line that writes the file at a path."""


@dataclass(frozen=True)
class Run:
    """One process from its start to its end."""

    seconds: float  # to within SAMPLE_S
    mb_per_s: float  # read and written
    peak_rss_anon_mb: float
    peak_rss_mb: float
    call_seconds: float | None  # the library call alone, if the program reports it


def measure(arguments: Arguments, source: Path, destination: Path, cold: bool = False) -> Run:
    """Run a program that reads `source` and writes `destination`; `cold` drops `source` from the page cache first."""
    destination.unlink(missing_ok=True)
    os.sync()  # otherwise this run would wait for the writes of an earlier one
    if cold:
        _drop_from_cache(source)
    command = arguments(destination)
    anon = total = 0
    # Files, because the child would block on a pipe that nobody reads.
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        while child.poll() is None:
            memory = _memory_kb(child.pid)
            anon, total = max(anon, memory.get("RssAnon", 0)), max(total, memory.get("VmHWM", 0))
            time.sleep(SAMPLE_S)
        seconds = time.perf_counter() - start
        if child.returncode:
            raise click.ClickException(f"{command[1]} ended with exit code {child.returncode}:\n{_text(stderr)}")
        call_seconds = _call_seconds(_text(stdout))
    n_bytes = source.stat().st_size + destination.stat().st_size
    return Run(seconds, n_bytes / 1e6 / seconds, anon * 1024 / 1e6, total * 1024 / 1e6, call_seconds)


def compare(
    programs: Mapping[str, Arguments], source: Path, folder: Path, runs: int, cold: bool = False
) -> dict[str, object]:
    """Run one or two programs alternately, A B A B; returns the medians of each and the ratios of the pairs."""
    outputs = {who: folder / f"{who}.bin" for who in programs}
    measured: dict[str, list[Run]] = {who: [] for who in programs}
    for _ in range(runs):
        for who, arguments in programs.items():
            measured[who].append(measure(arguments, source, outputs[who], cold))
            _show(who, measured[who][-1])
    result: dict[str, object] = {who: _medians(all_runs) for who, all_runs in measured.items()}
    if len(programs) == 2:
        ours, theirs = measured.values()
        same = filecmp.cmp(*outputs.values(), shallow=False)
        ratios = _ratios(ours, theirs)
        text = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        click.echo(f"speed relative to rwkv.cpp (median of pairs): {text}; the files are "
                   + ("the same" if same else "DIFFERENT"))  # fmt: skip
        result |= {"speed_ratio": ratios, "same_bytes": same}
    return result


def disk_write_mb_per_s(folder: Path, n_bytes: int = 10**9) -> float:
    """Write `n_bytes` sequentially to a new file in `folder` and wait until they are on the disk."""
    piece = os.urandom(10**6)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(n_bytes // len(piece)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        return n_bytes / 1e6 / (time.perf_counter() - start)


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _call_seconds(stdout: str) -> float | None:
    lines = stdout.splitlines()
    if not lines or not lines[-1].startswith("{"):
        return None
    return float(json.loads(lines[-1])["seconds"])


def _memory_kb(pid: int) -> dict[str, int]:
    """The sizes in /proc/PID/status; empty when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except ProcessLookupError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}


def _drop_from_cache(path: Path) -> None:
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _show(who: str, run: Run) -> None:
    call = "" if run.call_seconds is None else f"  (call alone {run.call_seconds:.2f} s)"
    click.echo(
        f"{who:8} {run.seconds:7.2f} s {run.mb_per_s:8,.0f} MB/s "
        f"RssAnon {run.peak_rss_anon_mb:7,.0f} MB  RSS {run.peak_rss_mb:7,.0f} MB{call}"
    )


def _medians(runs: list[Run]) -> dict[str, float]:
    rows = [asdict(run) for run in runs]
    known = [key for key, value in rows[0].items() if value is not None]
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in known}


def _ratios(ours: list[Run], theirs: list[Run]) -> dict[str, float]:
    pairs = list(zip(ours, theirs, strict=True))
    ratios = {"process": statistics.median(b.seconds / a.seconds for a, b in pairs)}
    calls = [(a.call_seconds, b.call_seconds) for a, b in pairs]
    if all(a and b for a, b in calls):
        ratios["call"] = statistics.median(b / a for a, b in calls if a and b)
    return {name: round(ratio, 3) for name, ratio in ratios.items()}

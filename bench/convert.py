"""Time and memory of a conversion, and those of rwkv.cpp's converter on the same checkpoint.

    python bench/convert.py 1b5
    python bench/convert.py 1b5 --rival rwkv.cpp/python/convert_pytorch_to_ggml.py --runs 3
    python bench/convert.py RWKV-4-Raven-3B.pth --folder /mnt/disk

Converting does a few operations a weight, so what bounds it is moving bytes: the checkpoint
is read once and the model file written once. Both lie in the page cache here where they fit
(`--cold` drops the checkpoint from it before each run), so the ceiling is a copy in memory
and the disk's write speed is what one falls to when the cache is full; it is measured in the
same run. The rival takes turns with us, A B A B, and ratios are taken pair by pair.

Memory is the peak of RssAnon, sampled every 20 ms: what the process itself holds, without the
pages of mapped files that the kernel takes back at will. Linux alone tells it (/proc).
"""

from __future__ import annotations

import filecmp
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from make_checkpoint import make_checkpoint
from shapes import SHAPES, checkpoint_shapes, vocab_size

from rwkv_np.cli import Command

SAMPLE_S = 0.02
TOOL = Path(__file__).parents[1] / "tools" / "convert.py"


@dataclass(frozen=True)
class Run:
    """One conversion in a process of its own, its start and the import of torch included."""

    seconds: float
    mb_per_s: float  # read and written
    peak_rss_anon_mb: float
    peak_rss_mb: float


def measure(program: Path, source: Path, destination: Path, data_type: str, cold: bool) -> Run:
    """Run `program SOURCE DESTINATION DATA_TYPE` and watch it."""
    destination.unlink(missing_ok=True)
    os.sync()  # what an earlier run wrote must not be paid for by this one
    if cold:
        _drop_from_cache(source)
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, program, source, destination, data_type], stdout=subprocess.DEVNULL
    )
    anon = total = 0
    while child.poll() is None:
        memory = _memory_kb(child.pid)
        anon, total = max(anon, memory.get("RssAnon", 0)), max(total, memory.get("VmHWM", 0))
        time.sleep(SAMPLE_S)
    seconds = time.perf_counter() - start
    if child.returncode:
        raise click.ClickException(f"{program} ended with exit code {child.returncode}")
    n_bytes = source.stat().st_size + destination.stat().st_size
    return Run(seconds, n_bytes / 1e6 / seconds, anon * 1024 / 1e6, total * 1024 / 1e6)


def disk_write_mb_per_s(folder: Path, n_bytes: int = 10**9) -> float:
    """Write `n_bytes` in a row to a new file in `folder` and wait until the disk holds them."""
    piece = os.urandom(10**6)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(n_bytes // len(piece)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        return n_bytes / 1e6 / (time.perf_counter() - start)


def _memory_kb(pid: int) -> dict[str, int]:
    """The lines of /proc/PID/status that are sizes; none once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except ProcessLookupError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}


def _drop_from_cache(path: Path) -> None:
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _show(who: str, run: Run) -> None:
    click.echo(
        f"{who:8} {run.seconds:7.2f} s {run.mb_per_s:8,.0f} MB/s "
        f"RssAnon {run.peak_rss_anon_mb:7,.0f} MB  RSS {run.peak_rss_mb:7,.0f} MB"
    )


def _medians(runs: list[Run]) -> dict[str, float]:
    rows = [asdict(run) for run in runs]
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("checkpoint")
@click.argument("data_type", type=click.Choice(["FP16", "FP32"]), default="FP16")
@click.option("--rival", type=click.Path(exists=True, path_type=Path), help="convert_pytorch_to_ggml.py")
@click.option("--runs", type=click.IntRange(min=1), default=3, help="Conversions by each program.")
@click.option("--cold", is_flag=True, help="Read the checkpoint from the disk each time.")
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Where the files are made.")
def command(
    checkpoint: str, data_type: str, rival: Path | None, runs: int, cold: bool, folder: Path | None
) -> None:
    """Time the conversion of CHECKPOINT: a file, or the name of a published shape to make one of."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        source = Path(checkpoint)
        if checkpoint in SHAPES:
            source = place / f"{checkpoint}.pth"
            make_checkpoint(source, checkpoint_shapes(*SHAPES[checkpoint], vocab_size(checkpoint)))
        disk = disk_write_mb_per_s(place)
        click.echo(f"{_cpu_name()}, {os.cpu_count()} CPUs, disk writes {disk:,.0f} MB/s")
        click.echo(f"{source.name}: {source.stat().st_size / 1e6:,.1f} MB to {data_type}, cold: {cold}")
        result = _compare(source, place, data_type, rival, runs, cold)
        click.echo(json.dumps({"checkpoint": checkpoint, "data_type": data_type, "cold": cold,
                               "disk_write_mb_per_s": round(disk), **result}))  # fmt: skip


def _compare(
    source: Path, place: Path, data_type: str, rival: Path | None, runs: int, cold: bool
) -> dict[str, object]:
    programs = {"rwkv_np": TOOL} | ({"rival": rival} if rival else {})
    outputs = {who: place / f"{who}.bin" for who in programs}
    measured: dict[str, list[Run]] = {who: [] for who in programs}
    for _ in range(runs):
        for who, program in programs.items():
            measured[who].append(measure(program, source, outputs[who], data_type, cold))
            _show(who, measured[who][-1])
    result: dict[str, object] = {who: _medians(all_runs) for who, all_runs in measured.items()}
    if rival:
        pairs = zip(measured["rwkv_np"], measured["rival"], strict=True)
        ratio = statistics.median(theirs.seconds / ours.seconds for ours, theirs in pairs)
        same = filecmp.cmp(*outputs.values(), shallow=False)
        click.echo(f"{ratio:.2f} times the rival's speed (median of pairs); the files are "
                   + ("the same" if same else "NOT THE SAME"))  # fmt: skip
        result |= {"speed_ratio": round(ratio, 3), "same_bytes": same}
    return result


if __name__ == "__main__":
    command()

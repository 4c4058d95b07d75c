"""Measure time and memory of quantizing, and compare with rwkv.cpp's quantizer on the same model file.

    python bench/quantize.py 1b5
    python bench/quantize.py 1b5 Q4_1 Q8_0 --rival rwkv.cpp/build/librwkv.so --runs 5
    python bench/quantize.py RWKV-4-Raven-3B-FP16.bin --folder /mnt/disk

A weight takes about a nanosecond of one core, two bytes read and less than one byte written. If the
files fit in the page cache, the cores are the limit; otherwise the disk is. So its write speed is
measured in the same run, and the time to write the result at that speed is shown.

The rival program runs alternately with ours, A B A B, and ratios are taken from pairs: of whole
processes (ours imports Numba, rwkv.cpp's is a call through ctypes) and of the calls alone. Our first
run comes before these and does not count, since it may have to compile the encoder.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import click
from child import Arguments, compare, cpu_name, disk_write_mb_per_s, measure
from make_checkpoint import make_checkpoint
from shapes import SHAPES, checkpoint_of

from rwkv_np.cli import Command
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.quantize import TYPES

TOOL = Path(__file__).parents[1] / "tools" / "quantize.py"
RIVAL = Path(__file__).with_name("rival_quantize.py")


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.argument("data_types", type=click.Choice(TYPES), nargs=-1)
@click.option("--rival", type=click.Path(exists=True, path_type=Path), help="rwkv.cpp's library, to compare.")
@click.option("--runs", type=click.IntRange(min=1), default=3, help="Number of runs of each program.")
@click.option("--cold", is_flag=True, help="Read the model file from the disk each time.")
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Folder for the files.")
def command(
    model: str, data_types: tuple[str, ...], rival: Path | None, runs: int, cold: bool, folder: Path | None
) -> None:
    """Time quantizing MODEL to DATA_TYPES (Q4_1). MODEL is a file or a published shape (a random model is made)."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        source = _model_file(model, place) if model in SHAPES else Path(model)
        disk = disk_write_mb_per_s(place)
        click.echo(f"{cpu_name()}, {os.cpu_count()} CPUs, disk writes {disk:,.0f} MB/s")
        results = {}
        for data_type in data_types or ("Q4_1",):
            programs: dict[str, Arguments] = {"rwkv_np": _ours(source, data_type)}
            if rival:
                programs["rival"] = _theirs(rival, source, data_type)
            n_bytes = _first_run(programs["rwkv_np"], source, place, data_type, disk)
            result = compare(programs, source, place, runs, cold)
            results[data_type] = {"n_bytes": n_bytes, **result}
        click.echo(json.dumps({"model": model, "source_bytes": source.stat().st_size, "cold": cold,
                               "disk_write_mb_per_s": round(disk), "data_types": results}))  # fmt: skip


def _model_file(shape: str, place: Path) -> Path:
    checkpoint, path = place / f"{shape}.pth", place / f"{shape}-FP16.bin"
    make_checkpoint(checkpoint, checkpoint_of(shape))
    convert(checkpoint, path)
    checkpoint.unlink()
    return path


def _first_run(ours: Arguments, source: Path, place: Path, data_type: str, disk: float) -> int:
    """Let Numba compile and fill its cache; returns the size of the result."""
    path = place / "first.bin"
    first = measure(ours, source, path)
    n_bytes = path.stat().st_size
    click.echo(
        f"{source.name}: {source.stat().st_size / 1e6:,.1f} MB to {data_type}, {n_bytes / 1e6:,.1f} MB, "
        f"written by the disk in {n_bytes / 1e6 / disk:.2f} s; first run {first.seconds:.2f} s"
    )
    path.unlink()
    return n_bytes


def _ours(source: Path, data_type: str) -> Arguments:
    return lambda destination: [sys.executable, TOOL, source, destination, data_type, "--json"]


def _theirs(library: Path, source: Path, data_type: str) -> Arguments:
    return lambda destination: [sys.executable, RIVAL, library, source, destination, data_type]


if __name__ == "__main__":
    command()

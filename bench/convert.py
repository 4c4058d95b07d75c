"""Measure time and memory of a conversion, and compare with rwkv.cpp's converter on the same checkpoint.

    python bench/convert.py 1b5
    python bench/convert.py 1b5 --rival rwkv.cpp/python/convert_pytorch_to_ggml.py --runs 3
    python bench/convert.py RWKV-4-Raven-3B.pth --folder /mnt/disk

Converting takes only a few operations per weight, so the limit is moving bytes: the checkpoint is
read once and the model file written once. Both stay in the page cache if they fit (`--cold` drops the
checkpoint from it before each run), so the fastest possible speed is that of a copy in memory. When
the cache is full, the speed drops to the disk's write speed, which is measured in the same run. The
rival program runs alternately with ours, A B A B, and each ratio is taken from one pair. Most of a
short run is starting Python and importing torch, in both programs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import click
from child import Arguments, compare, cpu_name, disk_write_mb_per_s
from make_checkpoint import make_checkpoint
from shapes import SHAPES, checkpoint_of

from rwkv_np.cli import Command

TOOL = Path(__file__).parents[1] / "tools" / "convert.py"


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("checkpoint")
@click.argument("data_type", type=click.Choice(["FP16", "FP32"]), default="FP16")
@click.option("--rival", type=click.Path(exists=True, path_type=Path), help="rwkv.cpp's converter, to compare.")
@click.option("--runs", type=click.IntRange(min=1), default=3, help="Number of conversions with each program.")
@click.option("--cold", is_flag=True, help="Read the checkpoint from the disk each time.")
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Folder for the files.")
def command(checkpoint: str, data_type: str, rival: Path | None, runs: int, cold: bool, folder: Path | None) -> None:
    """Time the conversion of CHECKPOINT: a file, or a published shape (a random checkpoint is made)."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        source = Path(checkpoint)
        if checkpoint in SHAPES:
            source = place / f"{checkpoint}.pth"
            make_checkpoint(source, checkpoint_of(checkpoint))
        disk = disk_write_mb_per_s(place)
        click.echo(f"{cpu_name()}, {os.cpu_count()} CPUs, disk writes {disk:,.0f} MB/s")
        click.echo(f"{source.name}: {source.stat().st_size / 1e6:,.1f} MB to {data_type}, cold: {cold}")
        programs = {"rwkv_np": _arguments(TOOL, source, data_type)}
        if rival:
            programs["rival"] = _arguments(rival, source, data_type)
        result = compare(programs, source, place, runs, cold)
        click.echo(json.dumps({"checkpoint": checkpoint, "data_type": data_type, "cold": cold,
                               "disk_write_mb_per_s": round(disk), **result}))  # fmt: skip


def _arguments(program: Path, source: Path, data_type: str) -> Arguments:
    return lambda destination: [sys.executable, program, source, destination, data_type]


if __name__ == "__main__":
    command()

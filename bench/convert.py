"""Time and memory of a conversion, and those of rwkv.cpp's converter on the same checkpoint.

    python bench/convert.py 1b5
    python bench/convert.py 1b5 --rival rwkv.cpp/python/convert_pytorch_to_ggml.py --runs 3
    python bench/convert.py RWKV-4-Raven-3B.pth --folder /mnt/disk

Converting does a few operations a weight, so what bounds it is moving bytes: the checkpoint
is read once and the model file written once. Both lie in the page cache here where they fit
(`--cold` drops the checkpoint from it before each run), so the ceiling is a copy in memory
and the disk's write speed is what one falls to when the cache is full; it is measured in the
same run. The rival takes turns with us, A B A B, and ratios are taken pair by pair. Most of a
short run is the start of Python and the import of torch, with both programs.
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
@click.option("--rival", type=click.Path(exists=True, path_type=Path), help="convert_pytorch_to_ggml.py")
@click.option("--runs", type=click.IntRange(min=1), default=3, help="Conversions by each program.")
@click.option("--cold", is_flag=True, help="Read the checkpoint from the disk each time.")
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Where the files are made.")
def command(checkpoint: str, data_type: str, rival: Path | None, runs: int, cold: bool, folder: Path | None) -> None:
    """Time the conversion of CHECKPOINT: a file, or the name of a published shape to make one of."""
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

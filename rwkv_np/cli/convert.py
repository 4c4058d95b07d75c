"""`rwkv-np convert`: a checkpoint becomes a model file."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click

from rwkv_np.cli import Command
from rwkv_np.cli.progress import byte_progress
from rwkv_np.conversion.convert import convert
from rwkv_np.files.hub import fetch, is_remote
from rwkv_np.files.output import check_destination

# rwkv.cpp's older spellings are still in people's scripts.
_TYPES = {"FP16": "FP16", "FP32": "FP32", "float16": "FP16", "float32": "FP32"}


@click.command(cls=Command, name="convert", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("destination", type=click.Path())
@click.argument("data_type", type=click.Choice(list(_TYPES)), default="FP16")
@click.option("--overwrite", is_flag=True, help="Overwrite DESTINATION if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(source: str, destination: str, data_type: str, overwrite: bool, as_json: bool) -> None:
    """Write the RWKV checkpoint SOURCE to DESTINATION as a model file of rwkv.cpp's format.

    SOURCE is a .pth or .safetensors file, or hf://OWNER/REPO/FILE to download one.
    DATA_TYPE is FP16 (the default) or FP32.
    """
    # Before a download of gigabytes, not after it.
    check_destination(destination, None if is_remote(source) else source, overwrite)
    path = _fetched(source) if is_remote(source) else source
    start = time.perf_counter()
    with byte_progress("Converting") as progress:
        result = convert(path, destination, _TYPES[data_type], overwrite=overwrite, progress=progress)
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(json.dumps({"destination": destination, **asdict(result), "seconds": round(seconds, 3)}))
    else:
        click.echo(
            f"{destination}: {result.n_parameters} parameters, {result.n_weights:,} weights, "
            f"{result.n_bytes / 1e6:,.1f} MB, in {seconds:.1f} s"
        )


def _fetched(source: str) -> str:
    with byte_progress("Downloading") as progress:
        return fetch(source, progress=progress)

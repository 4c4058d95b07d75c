"""`rwkv-np convert`: convert a checkpoint to a model file, and a model file to or from GGUF."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict

import click

from rwkv_np.cli import Command
from rwkv_np.cli.progress import byte_progress
from rwkv_np.conversion.checkpoint_to_gguf import checkpoint_to_gguf
from rwkv_np.conversion.convert import Converted, Progress, convert
from rwkv_np.conversion.folder import Folder, is_repository
from rwkv_np.conversion.from_gguf import from_gguf
from rwkv_np.conversion.to_gguf import to_gguf
from rwkv_np.errors import FormatError
from rwkv_np.files.gguf import is_gguf
from rwkv_np.files.hub import fetch, is_remote
from rwkv_np.files.output import check_destination
from rwkv_np.files.sniff import kind

# rwkv.cpp's older spellings are still used in scripts.
_TYPES = {"FP16": "FP16", "FP32": "FP32", "float16": "FP16", "float32": "FP32"}


@click.command(cls=Command, name="convert", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("destination", type=click.Path())
@click.argument("data_type", type=click.Choice(list(_TYPES)), default="FP16")
@click.option("--decode", is_flag=True, help="Write matrices whose type only GGUF has (Q4_K, ...) as DATA_TYPE.")
@click.option("--overwrite", is_flag=True, help="Overwrite DESTINATION if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(source: str, destination: str, data_type: str, decode: bool, overwrite: bool, as_json: bool) -> None:
    """Write the RWKV checkpoint SOURCE to DESTINATION as a model file of rwkv.cpp's format.

    SOURCE is a .pth or .safetensors file, or hf://OWNER/REPO/FILE to download one; or a folder in the layout of
    the transformers library, or hf://OWNER/REPO to download it.
    DATA_TYPE is FP16 (the default) or FP32.

    SOURCE may also be a GGUF file: types that both formats have stay as they are. And a checkpoint or a model
    file of RWKV-6 or 7 becomes a GGUF file for llama.cpp if the name of DESTINATION ends in .gguf.
    """
    # Fail before a download of gigabytes, not after it.
    check_destination(destination, None if is_remote(source) else source, overwrite)
    path = _fetched(source) if is_remote(source) else source
    start = time.perf_counter()
    with byte_progress("Converting") as progress:
        result = _converted(path, destination, _TYPES[data_type], decode, overwrite, progress)
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(json.dumps({"destination": destination, **asdict(result), "seconds": round(seconds, 3)}))
    else:
        click.echo(
            f"{destination}: {result.n_parameters} parameters, {result.n_weights:,} weights, "
            f"{result.n_bytes / 1e6:,.1f} MB, in {seconds:.1f} s"
        )


def _converted(
    source: str, destination: str, data_type: str, decode: bool, overwrite: bool, progress: Progress
) -> Converted:
    """What both names ask for: the source says what it is, and a destination that ends in .gguf is one."""
    becomes_gguf = destination.lower().endswith(".gguf")
    is_file = os.path.isfile(source)
    if is_file and is_gguf(source):
        if becomes_gguf:
            raise FormatError(source, "is a GGUF file already; give the destination another ending, such as .bin")
        return from_gguf(source, destination, data_type, decode=decode, overwrite=overwrite, progress=progress)
    if not becomes_gguf:
        return convert(source, destination, data_type, overwrite=overwrite, progress=progress)
    if not is_file or kind(source) in ("checkpoint", "legacy", "safetensors"):
        return checkpoint_to_gguf(source, destination, data_type, overwrite=overwrite, progress=progress)
    return to_gguf(source, destination, overwrite=overwrite, progress=progress)


def _fetched(source: str) -> str:
    with byte_progress("Downloading") as progress:
        if is_repository(source):  # its files are then found where they are kept
            Folder(source, progress).weights()
            return source
        return fetch(source, progress=progress)

"""`rwkv-np quantize`: make a model file smaller."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict

import click

from rwkv_np.cli import Command
from rwkv_np.cli.config import model_path
from rwkv_np.cli.progress import byte_progress
from rwkv_np.conversion.quantize import NUMBERS, TYPES, Quantized, quantize


def _parse_keep(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [value.rpartition("=") for value in values]
    if wrong := [value for value, (pattern, _, _) in zip(values, pairs, strict=True) if not pattern]:
        raise click.BadParameter(f"{wrong[0]!r} does not have the form PATTERN=TYPE")
    return [(pattern, data_type) for pattern, _, data_type in pairs]


@click.command(cls=Command, name="quantize", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path())
@click.argument("destination", type=click.Path())
@click.argument("data_type", type=click.Choice([*TYPES, *NUMBERS]), default="Q4_1")
@click.option("--head", metavar="TYPE", help="Type of head.weight.  [default: unchanged]")
@click.option(
    "--keep", metavar="PATTERN=TYPE", multiple=True, callback=_parse_keep,
    help="Type for matrices whose names match, such as 'blocks.0.*=Q8_0'. May be repeated; "
    "the last match wins.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Threads of the encoder.  [default: all cores, at most 16]")
@click.option("--overwrite", is_flag=True, help="Overwrite DESTINATION if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def command(
    source: str, destination: str, data_type: str, head: str | None, keep: list[tuple[str, str]],
    threads: int | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the FP16 or FP32 model SOURCE to DESTINATION with its matrices quantized.

    SOURCE is a file, or the name of an installed model, such as g1-0.1b:FP16.

    DATA_TYPE is Q4_1 by default. The numbers 2, 3 and 4 of rwkv.cpp's old script are Q4_0, Q4_1
    and Q4_1_O; the last writes a version 100 file, for programs of April 2023.
    """
    source = model_path(source)
    if head:
        keep = [("head.weight", head), *keep]
    from rwkv_np.kernels.cache import is_first_run  # imports numba, which --help does not need

    if is_first_run("encode"):
        click.echo("Compiling the encoder for this processor: only once, takes a few seconds.", err=True)
    start = time.perf_counter()
    with byte_progress("Quantizing") as draw:
        results = quantize(
            source, destination, data_type, keep=keep, overwrite=overwrite, threads=threads,
            progress=(lambda result, done, total: draw(result.name, done, total)) if as_json else _show,
        )  # fmt: skip
    total = _total(results, time.perf_counter() - start)
    if as_json:
        parameters = [asdict(result) for result in results]
        click.echo(json.dumps({"destination": destination, **total, "parameters": parameters}))
    else:
        click.echo(
            f"{destination}: {total['source_bytes'] / 1e6:,.1f} MB to {total['n_bytes'] / 1e6:,.1f} MB, "
            f"{total['bits_per_weight']:.2f} bits per weight, in {total['seconds']:.1f} s"
        )


def _total(results: list[Quantized], seconds: float) -> dict[str, float]:
    n_bytes = sum(result.n_bytes for result in results)
    weights = sum(math.prod(result.shape) for result in results)
    return {
        "source_bytes": sum(result.source_bytes for result in results),
        "n_bytes": n_bytes,
        "bits_per_weight": 8 * n_bytes / weights,
        "seconds": round(seconds, 3),
    }


def _show(r: Quantized, done: int, total: int) -> None:
    """Print the line of one parameter, which also shows the overall progress."""
    shape, types = " x ".join(map(str, r.shape)), f"{r.source_type} -> {r.data_type}"
    error = "copied" if r.error is None else f"error {100 * r.error:.2f} %"
    size = f"{r.source_bytes / 1e6:9.2f} MB -> {r.n_bytes / 1e6:9.2f} MB"
    note = f"  ({r.note})" if r.note else ""
    click.echo(f"{100 * done // total:3d} %  {r.name:34} {shape:>14}  {types:15} {size}  {error}{note}")

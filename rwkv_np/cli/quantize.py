"""`rwkv-np quantize`: make a model file smaller."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from rwkv_np.cli import Command
from rwkv_np.cli.config import model_path
from rwkv_np.cli.progress import RunningLine, byte_progress
from rwkv_np.console import write_over
from rwkv_np.conversion.quantize import NEVER_UNASKED, NUMBERS, TYPES, Quantized, quantize

if TYPE_CHECKING:
    from rwkv_np.calibration import Calibrated

NOT_BETTER = 3  # exit status: the file is written, but is not better than plain rounding
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def _parse_bytes(ctx: click.Context, option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?) ?([KMG]I?)?B?", value.strip().upper())
    if not found or not float(found[1]):
        raise click.BadParameter(f"{value!r} is not a size; expected a number of bytes, such as 4.5GB or 800MB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


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
@click.option(
    "--emb-head", metavar="TYPE", help="Type of emb.weight and head.weight, such as Q8_0.  [default: unchanged]"
)
@click.option("--search", is_flag=True, help="Search better scales: other bytes, same layout. Needs no text; minutes.")
@click.option(
    "--calibrate",
    "text",
    type=click.Path(),
    metavar="TEXT",
    help="Encode for text such as the UTF-8 file TEXT, of the kind that the model is used for. Hours for a 7B model; "
    "started again after an interruption, it continues.",
)
@click.option(
    "--tokens", type=click.IntRange(512), help="With --calibrate: how much of TEXT is read.  [default: 32768]"
)
@click.option(
    "--size",
    callback=_parse_bytes,
    metavar="BYTES",
    help="With --calibrate: the best mixture of types that fits, such as 4.5GB.",
)
@click.option("--bits", type=click.FloatRange(1, 32), help="The same, in bits per weight of the whole file.")
@click.option(
    "--memory", callback=_parse_bytes, metavar="BYTES", help="With --calibrate: use about that much.  [default: half]"
)
@click.option("--seed", type=int, default=0, help="With --calibrate: of the random numbers.  [default: 0]")
@click.option(
    "--tokenizer", help="With --calibrate: a tokenizer.json, or 20B, world or bytes.  [default: by the vocabulary]"
)
@click.option("--threads", type=click.IntRange(1), help="Threads of the encoder.  [default: all cores, at most 16]")
@click.option("--overwrite", is_flag=True, help="Overwrite DESTINATION if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def command(
    source: str, destination: str, data_type: str, head: str | None, keep: list[tuple[str, str]],
    emb_head: str | None, search: bool, text: str | None, size: int | None, bits: float | None,
    threads: int | None, overwrite: bool, as_json: bool, **calibration: Any,
) -> None:  # fmt: skip
    """Write the FP16 or FP32 model SOURCE to DESTINATION with its matrices quantized.

    SOURCE is a file, or the name of an installed model, such as g1-0.1b:FP16.

    DATA_TYPE is Q4_1 by default. The numbers 2, 3 and 4 of rwkv.cpp's old script are Q4_0, Q4_1
    and Q4_1_O; the last writes a version 100 file, for programs of April 2023.

    With --calibrate, the exit status is 3 if the new file is not better than plain rounding would be.

    \b
    rwkv-np quantize model-FP16.bin model-Q4_1.bin Q4_1 --calibrate chats.txt
    rwkv-np quantize model-FP16.bin model-small.bin --size 4.5GB --calibrate chats.txt
    """
    _check(text, search, size, bits, calibration)
    source = model_path(source)
    if head:
        keep = [("head.weight", head), *keep]
    if emb_head:
        keep = [*((name, emb_head) for name in NEVER_UNASKED), *keep]
    from rwkv_np.kernels.cache import is_first_run  # imports numba, which --help does not need

    if is_first_run("encode"):
        click.echo("Compiling the encoder for this processor: only once, takes a few seconds.", err=True)
    start = time.perf_counter()
    found = None
    if text:
        found = _calibrate(source, destination, data_type, text, size, bits, keep=keep, overwrite=overwrite,
                           threads=threads, **calibration)  # fmt: skip
        results = found.results
    else:
        with byte_progress("Quantizing") as draw:
            results = quantize(
                source, destination, data_type, keep=keep, search=search, overwrite=overwrite, threads=threads,
                progress=(lambda result, done, total: draw(result.name, done, total)) if as_json else _show,
            )  # fmt: skip
    total = _total(results, time.perf_counter() - start)
    if as_json:
        document = {"destination": destination, **total, "parameters": [asdict(result) for result in results]}
        click.echo(json.dumps(document | (_facts(found) if found else {})))
    else:
        click.echo(
            f"{destination}: {total['source_bytes'] / 1e6:,.1f} MB to {total['n_bytes'] / 1e6:,.1f} MB, "
            f"{total['bits_per_weight']:.2f} bits per weight, in {total['seconds']:.1f} s"
        )
    if found:
        _judge(found, destination)


def _check(text: str | None, search: bool, size: int | None, bits: float | None, calibration: dict[str, Any]) -> None:
    """Options that need --calibrate are an error without it."""
    given = {"--size": size, "--bits": bits} | {f"--{n}": calibration[n] for n in ("tokens", "memory", "tokenizer")}
    if not text and (wrong := [name for name, value in given.items() if value is not None]):
        raise click.UsageError(f"{wrong[0]} needs --calibrate TEXT: what each type loses is measured on a text")
    if text and search:
        raise click.UsageError("--calibrate includes the search; leave out --search")
    if size is not None and bits is not None:
        raise click.UsageError("--size and --bits are the same; give one of them")


def _calibrate(
    source: str, destination: str, data_type: str, text: str, size: int | None, bits: float | None,
    *, tokens: int | None, memory: int | None, **options: Any,
) -> Calibrated:  # fmt: skip
    from rwkv_np.calibration import calibrate
    from rwkv_np.calibration.calibrate import N_TOKENS
    from rwkv_np.models.containers import read_model

    if bits is not None:
        size = int(bits * sum(p.n_weights for p in read_model(source).parameters.values()) / 8)
    try:
        return calibrate(
            source, destination, NUMBERS.get(data_type, data_type) if size is None else None, text, n_bytes=size,
            n_tokens=tokens or N_TOKENS, max_memory=memory, progress=RunningLine(), **options,
        )  # fmt: skip
    finally:
        write_over("")


def _facts(found: Calibrated) -> dict[str, Any]:
    """What calibration adds to the JSON document."""
    return {
        "is_better": found.is_better,
        "verdict": [compared._asdict() for compared in found.verdict],
        "mixture": [{"name": one.name, **one.choice._asdict()} for one in found.mixture],
    }


def _judge(found: Calibrated, destination: str) -> None:
    """Say what calibration bought, on stderr; exit with a status of its own if that is nothing."""
    from rwkv_np.calibration import mixture

    for line in mixture.table(found.mixture) if found.mixture else ():
        click.echo(line, err=True)
    if not found.verdict:
        click.echo("All matrices fit as Q8_0, which calibration does not change.", err=True)
    for compared in found.verdict:
        click.echo(f"On {compared}", err=True)
    if found.is_better:
        return
    worse = " and ".join(f"on {compared.text}" for compared in found.verdict if not compared.is_better)
    click.echo(
        f"WARNING: {destination} is NOT better than plain rounding {worse}. The text is probably not of the kind that "
        "the model was trained on or is used for. Calibrate on another text, or use --search, which needs none.",
        err=True,
    )
    raise click.exceptions.Exit(NOT_BETTER)


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

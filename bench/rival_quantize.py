"""Quantize with rwkv.cpp's library, and print the time of the call: the rival program of `quantize.py`.

    python bench/rival_quantize.py build/librwkv.so MODEL-FP16.bin MODEL-Q4_1.bin Q4_1

It runs in a separate process, so that its memory and start time are measured separately. The library
reports every parameter on stderr or, in some versions, on stdout. That output is discarded, and one
JSON document is printed instead.
"""

from __future__ import annotations

import ctypes
import json
import os
import time

import click


@click.command()
@click.argument("library", type=click.Path(exists=True))
@click.argument("source", type=click.Path(exists=True))
@click.argument("destination", type=click.Path())
@click.argument("data_type")
def command(library: str, source: str, destination: str, data_type: str) -> None:
    """Quantize SOURCE to DESTINATION with librwkv.so of rwkv.cpp at LIBRARY."""
    quantize = ctypes.CDLL(library).rwkv_quantize_model_file
    quantize.argtypes, quantize.restype = [ctypes.c_char_p] * 3, ctypes.c_bool
    stdout, stderr, nowhere = os.dup(1), os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    start = time.perf_counter()
    is_done = quantize(source.encode(), destination.encode(), data_type.encode())
    seconds = time.perf_counter() - start
    os.dup2(stderr, 2)
    if not is_done:
        raise click.ClickException(f"{library} could not quantize {source} to {data_type}")
    os.write(stdout, json.dumps({"seconds": seconds}).encode())


if __name__ == "__main__":
    command()

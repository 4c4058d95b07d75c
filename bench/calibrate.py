"""Measure what calibrating a model costs, on one layer of its shape, and extrapolate to all layers and tokens.

    python bench/calibrate.py 1b5
    python bench/calibrate.py 7b --windows 4 --steps fisher,stream

A layer's cost is a part for each token (the sensitivities; the forward passes, and collecting H) and a part that does
not depend on them (encoding each kind of matrix). Each is measured alone, on random weights and text: times depend on
shapes only. What is left out: reading and writing files, and the comparison at the end (a tenth of the forward passes).
"""

from __future__ import annotations

import json
import resource
import time
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
from child import cpu_name
from rwkv_np.kernels.formats import FORMATS
from rwkv_np.kernels.threads import default_threads
from shapes import SHAPES, sizes
from synthetic import synthetic_model

from rwkv_np.calibration import gptq
from rwkv_np.calibration.body import Body
from rwkv_np.calibration.calibrate import N_TOKENS, _columns
from rwkv_np.calibration.fisher import sensitivities
from rwkv_np.calibration.hessian import Hessian
from rwkv_np.calibration.text import WINDOW
from rwkv_np.cli import Command

STEPS = ("fisher", "head", "stream", "square", "key", "value")


class Bench:
    """One layer with random weights, and windows of random text."""

    def __init__(self, shape: str, n_windows: int, memory: float, data_type: str) -> None:
        self.config, self.parameters = synthetic_model(shape, "FP16", n_layer=1, n_vocab=256)
        self.whole, self.rng = sizes(shape), np.random.default_rng(0)
        self.windows = [self.rng.integers(0, 256, WINDOW).astype(np.int32) for _ in range(n_windows)]
        self.part, self.threads, self.format = _columns(int(memory * 1e9)), default_threads(), FORMATS[data_type]
        self.names = [n for n, p in self.parameters.items() if self.config.record.is_quantizable(n, p.shape)]

    @property
    def n_tokens(self) -> int:
        return WINDOW * len(self.windows)

    def fisher(self) -> None:
        """The sensitivities of the layer: forward twice, backward once."""
        sensitivities(self.parameters, self.windows, np.random.default_rng(0), threads=self.threads)

    def head(self) -> None:
        """The head, forward and backward, of all tokens."""
        w = self.rng.standard_normal((self.whole.vocab_size, self.whole.n_embd), np.float32)
        for _ in self.windows:
            (self.rng.standard_normal((WINDOW, self.whole.n_embd), np.float32) @ w.T) @ w

    def stream(self) -> None:
        """H of all matrices, stage by stage, and the way of the windows through the layer; nothing is encoded."""
        ones = {name: np.ones(self.n_tokens, np.float32) for name in self.names}
        encode, gptq.encode = gptq.encode, lambda f, w, *_: gptq.Encoded(np.empty(0, f.block), 0.0)
        try:
            body = Body(SimpleNamespace(parameters=self.parameters), self.config, self.windows, ones, self.threads,
                        self.part)  # type: ignore[arg-type]  # fmt: skip
            types: Any = {name: SimpleNamespace(format=self.format, name=self.format.name) for name in self.names}
            body.encode(types, _Forgetful(self.parameters), lambda *_: None)
        finally:
            gptq.encode = encode

    def matrix(self, n_rows: int, n_in: int) -> None:
        """Encode one matrix whose H is known."""
        hessian, x = Hessian(n_in, self.part), self.rng.standard_normal((2048, n_in), np.float32)
        hessian.add(x, np.ones(len(x), np.float32))
        gptq.encode(self.format, self.rng.standard_normal((n_rows, n_in), np.float32), hessian, self.threads)


class _Forgetful:
    """A store that keeps nothing, and gives the source's matrix: what is measured is the time of the others."""

    def __init__(self, parameters: dict) -> None:
        self._parameters = parameters

    def load(self, *_: object) -> None:
        return None

    def save(self, name: str, *_: object):
        return self._parameters[name]


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("shape", type=click.Choice(sorted(SHAPES)))
@click.option("--windows", default=4, help="Windows of 512 tokens that are measured.")
@click.option("--memory", default=6.0, help="As the command's --memory, in GB.")
@click.option("--type", "data_type", default="Q4_1")
@click.option("--steps", default=",".join(STEPS), help="What is measured.")
def command(shape: str, windows: int, memory: float, data_type: str, steps: str) -> None:
    """Time each step of calibrating SHAPE on one layer, and print the total for 32k tokens as JSON."""
    bench = Bench(shape, windows, memory, data_type)
    c, f = bench.whole.n_embd, bench.whole.dim_ffn
    runs = {
        "square": lambda: bench.matrix(c, c),
        "key": lambda: bench.matrix(f, c),
        "value": lambda: bench.matrix(c, f),
    }
    bench.matrix(64, 64)  # compiles
    seconds = {}
    for step in steps.split(","):
        start = time.perf_counter()
        (runs.get(step) or getattr(bench, step))()
        seconds[step] = time.perf_counter() - start
        click.echo(f"{step:8} {seconds[step]:8.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    click.echo(f"{cpu_name()}, {bench.threads} threads, peak {peak:.2f} GB")
    click.echo(json.dumps({"shape": shape, "windows": windows, "seconds": seconds, "total": _total(bench, seconds)}))


def _total(bench: Bench, seconds: dict[str, float]) -> float | None:
    """Seconds for all layers and 32k tokens; None if a step is missing."""
    if set(seconds) < set(STEPS):
        return None
    shapes = [bench.parameters[name].shape for name in bench.names]
    n_square = sum(shape == (bench.whole.n_embd,) * 2 for shape in shapes)
    scale = N_TOKENS / bench.n_tokens
    layer = scale * (seconds["fisher"] + seconds["stream"])
    layer += n_square * seconds["square"] + seconds["key"] + seconds["value"]
    return bench.whole.n_layer * layer + scale * seconds["head"]


if __name__ == "__main__":
    command()

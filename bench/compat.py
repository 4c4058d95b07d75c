"""The cost of the compatible interfaces: milliseconds per token through each, compared with the library's own.

Each reads a token and chooses the next. They take turns, so that the load of other programs affects all equally. The
last line is a JSON document of medians.

    python bench/compat.py --shape 169m --format Q4_1
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from shapes import SHAPES
from synthetic import write_synthetic

import rwkv_np
from rwkv_np.compat import PIPELINE, RWKV
from rwkv_np.compat.rwkv_cpp import RWKVModel, load_rwkv_shared_library, sampling
from rwkv_np.sampler import Sampler

ROUND = 16  # tokens of one turn


def library_step(path: Path) -> Callable[[int], int]:
    model, sampler = rwkv_np.load(path), Sampler(rwkv_np.SamplingParams(presence_penalty=0, frequency_penalty=0))
    state = model.initial_state()
    return lambda token: sampler.choose(model.advance(token, state))


def official_step(path: Path) -> Callable[[int], int]:
    model, state = RWKV(path, "cpu fp32"), None
    pipeline = PIPELINE(model, "rwkv_vocab_v20230424")

    def step(token: int) -> int:
        nonlocal state
        out, state = model.forward([token], state)
        return pipeline.sample_logits(out, temperature=1.0, top_p=0.5)

    return step


def rwkv_cpp_step(path: Path) -> Callable[[int], int]:
    model = RWKVModel(load_rwkv_shared_library(), str(path), 4096)
    logits = state = None

    def step(token: int) -> int:
        nonlocal logits, state
        logits, state = model.eval(token, state, state, logits, use_numpy=True)
        return sampling.sample_logits(logits, 1.0, 0.5)

    return step


STEPS = {"library": library_step, "official package": official_step, "rwkv.cpp": rwkv_cpp_step}


@click.command(context_settings={"show_default": True})
@click.option("--shape", type=click.Choice(list(SHAPES)), default="169m", help="A published shape.")
@click.option("--format", "type_name", default="Q4_1", help="The data type of the model.")
@click.option("--rounds", default=20, help=f"Turns of each, of {ROUND} tokens.")
def main(shape: str, type_name: str, rounds: int) -> None:
    """Measure the time per token through each interface."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_synthetic(Path(folder) / "model.bin", shape, type_name)
        steps = {name: make(path) for name, make in STEPS.items()}
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for i in range(rounds + 1):
            for name, step in steps.items():
                token = 1
                for _ in range(ROUND):
                    begin = time.perf_counter()
                    token = step(token)
                    if i:  # the first turn compiles
                        taken[name].append(1e3 * (time.perf_counter() - begin))
    medians = {name: float(np.median(found)) for name, found in taken.items()}
    for name, found in medians.items():
        click.echo(f"{name:>18}  {found:.3f} ms, {found / medians['library']:.3f} of the library's")
    click.echo(json.dumps({"shape": shape, "type": type_name, "ms": medians}))


if __name__ == "__main__":
    main()

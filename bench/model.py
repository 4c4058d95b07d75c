"""Measure one model: bytes per token, memory speed, the maximum speed, and the share we reach.

Decoding reads every weight once per token, except those of hidden channels that are zero (`active_channels` is the
share of the others). So its maximum speed is bandwidth / bytes that are really read (`bytes_read_per_token`). A prompt
reads all weights, once for many tokens, and is limited by arithmetic. The state (`state_bytes`), which each token
also reads and writes, is not counted in the maximum. The bandwidth is measured right before each decode
timing; the reported share is the median of these pairs.

    python bench/model.py --shape 1b5 --format Q4_1 [--head-fp16]
    python bench/model.py --shape v7-1b5 --format Q4_K
    python bench/model.py --shape 1b5 --format Q4_1 --active 0.11
    python bench/model.py MODEL.bin

The last line is one JSON document.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
from measure import float32_rate
from shapes import SHAPES
from synthetic import synthetic_model, write_synthetic

from rwkv_np.evaluation.machine import processor
from rwkv_np.evaluation.speed import decode, prefill, seconds
from rwkv_np.files.parameter import Parameter
from rwkv_np.memory import resident_anonymous
from rwkv_np.models import model_config
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.containers import read_model
from rwkv_np.models.engine import Engine

FORMATS = ("FP32", "FP16", "Q4_0", "Q4_1", "Q4_1_O", "Q5_0", "Q5_1", "Q8_0")
GGUF_FORMATS = ("BF16", "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")  # models in memory
PROMPTS = (16, 128, 512)


Source = Callable[[], tuple[ModelConfig, Mapping[str, Parameter]]]


def from_file(path: Path) -> tuple[ModelConfig, Mapping[str, Parameter]]:
    """The configuration and the parameters of a model file."""
    file = read_model(path)
    return model_config(file), file.parameters


def load(path: Path, **options) -> Engine:
    """The fused engine on the model file at `path`."""
    return Engine(*from_file(path), **options)


def load_seconds(source: Source, **options) -> tuple[Engine, float]:
    """The model, and its loading time with a warm page cache and compiled kernels."""
    Engine(*source(), **options)  # compiles the kernels, and fills the page cache
    models = []
    taken = seconds(lambda: models.append(Engine(*source(), **options)))
    return models[0], taken


def matrix_operations(model: Engine) -> int:
    """Multiplications and additions in the layers' matrices, per token."""
    shapes = model.config.record.parameter_shapes(model.config)
    return 2 * sum(math.prod(shape) for name, shape in shapes.items() if "blocks." in name and is_matrix(model, shape))


def is_matrix(model: Engine, shape: tuple[int, ...]) -> bool:
    """Whether a parameter of a layer is a matrix that is multiplied with a vector, or several such matrices.

    RWKV-6 has a parameter of three dimensions with five matrices. RWKV-7's r_k has two dimensions, but is a vector.
    """
    return len(shape) > 1 and model.config.n_embd in shape[-2:] and min(shape[-2:]) > 1


def card(name: str, source: Source, threads: int | None, head_q8_0: bool | None) -> dict:
    """All measurements, in the order of the output lines."""
    options = {"threads": threads, "head_q8_0": head_q8_0}
    model, loading = load_seconds(source, **options)
    anonymous = resident_anonymous()
    decoding = decode(model)
    activity = model.activity()
    prompts = {n: prefill(model, n) for n in PROMPTS}
    rate, float32 = prompts[128] * matrix_operations(model), float32_rate(4096, model.config.n_embd, 128)
    n_bytes = sum(parameter.n_bytes for parameter in source()[1].values())
    return {
        "model": name, "version": model.config.record.title, "type": model.config.data_type,
        "layers": model.config.n_layer, "n_embd": model.config.n_embd, "processor": processor(),
        "threads": model.n_threads, "kernels": model.kernels.path, "head_q8_0": head_q8_0,
        "bytes_per_token": model.n_bytes_per_token, "active_channels": activity and activity.channels,
        "active_blocks": activity and activity.blocks, "bytes_read_per_token": decoding.n_bytes_per_token,
        "state_bytes": model.state_layout.n_bytes, "read_gb_s": decoding.bandwidth / 1e9,
        "ceiling_tok_s": decoding.bandwidth / decoding.n_bytes_per_token,
        "decode_tok_s": decoding.tokens_per_s, "decode_p10_p90_ms": [
            1e3 * float(np.percentile(decoding.seconds, p)) for p in (10, 90)
        ],
        "share_of_ceiling": decoding.share, "prefill_tok_s": prompts,
        "prefill_over_decode": prompts[128] / decoding.tokens_per_s,
        "prefill_gop_s": rate / 1e9, "numpy_float32_gop_s": float32 / 1e9,
        "prefill_over_numpy": rate / float32,
        "load_s": loading, "load_gb_s": n_bytes / loading / 1e9,
        "rss_anon_gb": anonymous / 1e9 if anonymous else None,
    }  # fmt: skip


@click.command(context_settings={"show_default": True})
@click.argument("model", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--shape", type=click.Choice(list(SHAPES)), help="Create a random model with this published shape.")
@click.option(
    "--format", "type_name", type=click.Choice(FORMATS + GGUF_FORMATS), default="Q4_1", help="Data type of that model."
)
@click.option(
    "--active", type=click.FloatRange(0, 0.5, min_open=True), help="Share of active hidden channels in that model."
)
@click.option("--threads", type=int, help="Number of threads; default: the physical cores.")
@click.option("--head-q8-0/--head-fp16", default=None, help="Format of the head.  [default: Q8_0 if quantized]")
def main(
    model: Path | None, shape: str | None, type_name: str, active: float | None, threads: int | None,
    head_q8_0: bool | None,
) -> None:  # fmt: skip
    """Measure MODEL, or a synthetic model with a given --shape."""
    if (model is None) == (shape is None):
        raise click.UsageError("Give either MODEL or --shape.")
    if active and (model or type_name in GGUF_FORMATS):
        raise click.UsageError(f"--active needs --shape and one of the formats {', '.join(FORMATS)}.")
    with tempfile.TemporaryDirectory() as folder:
        if shape and type_name in GGUF_FORMATS:
            made = synthetic_model(shape, type_name)
            found = card(f"{shape}-{type_name}", lambda: made, threads, head_q8_0)
        else:
            version = 100 if type_name == "Q4_1_O" else 101
            made_at = Path(folder) / f"{shape}-{type_name}.bin"
            path = model or write_synthetic(made_at, shape, type_name, version, active=active)
            found = card(path.name, lambda: from_file(path), threads, head_q8_0)
    for name, value in found.items():
        click.echo(f"{name:>22}  {f'{value:.3g}' if isinstance(value, float) else value}")
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()

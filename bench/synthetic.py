"""Write model files of any published shape and data type with random weights, in seconds.

Speed depends on shapes and types, not on what was learned. Blocks are drawn once into a pool of
a few MB and repeated from random positions. The scales keep activations of order one, so that no
kernel sees infinities or subnormal numbers that a real model would not produce.

    python bench/synthetic.py 1b5 Q4_1 MODEL.bin
    python bench/synthetic.py v7-1b5 Q4_K MODEL.gguf
    python bench/synthetic.py 1b5 Q4_1 MODEL.bin --active 0.11

With random weights half of the hidden channels of a feed-forward layer are active (not zero after the squared ReLU),
and with trained ones a tenth. With `--active` about that share is: the norm before gets a bias, and the weights of
`ffn.key` a mean that turns it into a negative number for each channel. `bench/model.py` shows the real share.

No file of rwkv.cpp has GGUF's other types: `synthetic_model` makes such a model in memory, with the types that
llama.cpp's quantizer chooses, and a GGUF file is written from it.
"""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from statistics import NormalDist
from typing import BinaryIO

import click
import numpy as np
from rwkv_np.kernels.encode import encode
from rwkv_np.kernels.formats import Format
from shapes import SHAPES, architecture, sizes

from rwkv_np.conversion.to_gguf import world_vocabulary, write_gguf
from rwkv_np.files.format import Header, write_header, write_parameter_header
from rwkv_np.files.ggml_types import GGML_TYPES
from rwkv_np.files.opened import InMemory
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import DataType, by_name
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.registry import ARCHITECTURES

POOL_BLOCKS = 2**18
CHUNK_BYTES = 2**24


def _block_pool(data_type: DataType, n_in: int, rng: np.random.Generator) -> np.ndarray:
    """Random blocks whose weights have the spread 1 / sqrt(n_in)."""
    spread = np.float32(1 / np.sqrt(n_in))
    if data_type.format.encode is None:
        return _random_blocks(data_type.format, spread, rng)
    if not data_type.format.is_quantized:
        return (rng.standard_normal(4 * POOL_BLOCKS, np.float32) * spread).astype(data_type.format.block)
    weights = rng.standard_normal((POOL_BLOCKS // 64, data_type.format.block_size), np.float32) * spread
    return np.tile(data_type.format.encode(weights), 16)


def _random_blocks(format: Format, spread: np.float32, rng: np.random.Generator) -> np.ndarray:
    """The same for a format without an encoder: random bits, with scales that give the spread and the mean 0."""
    if format.layout.is_bfloat:
        return ((rng.standard_normal(4 * POOL_BLOCKS, np.float32) * spread).view(np.uint32) >> 16).astype(np.uint16)
    blocks = rng.integers(0, 256, POOL_BLOCKS // 64 * format.block.itemsize, np.uint8).view(format.block)
    blocks["d"] = 1
    if format.layout.has_min:
        blocks["m"] = 0
        mean = format.decode(blocks).mean()
        blocks["m"] = 1
        blocks["m"] = mean / (mean - format.decode(blocks).mean())
    scale = spread / format.decode(blocks).std()
    for name in {"d", "m"} & set(blocks.dtype.names or ()):
        blocks[name] *= scale
    return np.tile(blocks, 16)


def _write_matrix(file: BinaryIO, shape: tuple[int, ...], data_type: DataType, rng: np.random.Generator) -> None:
    pool = _block_pool(data_type, shape[-1], rng).view(np.uint8)
    size = data_type.format.block.itemsize
    left = data_type.format.n_bytes(int(np.prod(shape)))
    while left:
        start = size * int(rng.integers(0, len(pool) // size // 2))
        part = pool[start : start + min(left, CHUNK_BYTES)]
        file.write(part.data)
        left -= len(part)


class _Keys:
    """The matrices `ffn.key` of a model whose hidden channels are active in a share of about `active`.

    The norm before it has a bias of 1, so the product of a random row has a variance of about 5/3: 1 from the bias,
    and 2/3 from the normed vector, which is mixed with that of the token before. A negative mean of the weights moves
    the product below zero. (Measured: .109 for .11.) All layers have the same rows, each in another order.
    """

    def __init__(self, active: float, data_type: DataType, rng: np.random.Generator) -> None:
        self.data_type, self.rng = data_type, rng
        self.mean = NormalDist(0, math.sqrt(5 / 3)).inv_cdf(active)
        self.rows = np.empty((0, 0), np.uint8)

    def write(self, file: BinaryIO, shape: tuple[int, ...]) -> None:
        if not self.rows.size:
            parts = np.array_split(range(shape[0]), 8)
            self.rows = np.concatenate([self._encoded(len(part), shape[1]) for part in parts])
        self.rows = np.roll(self.rows, int(self.rng.integers(len(self.rows))), axis=0)
        file.write(self.rows.data)

    def _encoded(self, n_rows: int, n_in: int) -> np.ndarray:
        w = self.rng.standard_normal((n_rows, n_in), np.float32) / np.float32(math.sqrt(n_in))
        w += np.float32(self.mean / n_in)
        format = self.data_type.format
        blocks, *_ = encode(format, w.reshape(-1, format.block_size))
        return blocks.view(np.uint8).reshape(n_rows, -1)


def _decay(version: str, w: np.ndarray) -> np.ndarray:
    """The decay as stored in a file of that version of RWKV."""
    if version == "v6":
        return w
    return -np.exp(w) if version == "v4" else np.exp(-np.exp(w))


def _vector(version: str, name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if name.endswith(".w0"):
        return np.linspace(-6, 0, n).astype(np.float32)
    if name.endswith("time_decay"):
        return _decay(version, np.linspace(-5, 1, n)).astype(np.float32)
    if ".time_mix" in name or ".time_maa" in name or ".x_" in name:
        return rng.random(n, np.float32)
    x = rng.standard_normal(n).astype(np.float32) / 10
    return x + np.float32(1) if name.endswith(("weight", "k_k", "k_a")) else x


def write_synthetic(
    path: Path | str, shape: str, type_name: str, version: int = 101, seed: int = 0, active: float | None = None
) -> Path:
    """Write a model file of that shape and type; matrices that are not quantized are FP16, as in real files.

    active  the share of hidden channels that are not zero; by default a half, as random weights give
    """
    record, of = ARCHITECTURES[architecture(shape)], sizes(shape)
    data_type, float_type, vector_type = (by_name(name, version) for name in (type_name, "FP16", "FP32"))
    assert data_type and float_type and vector_type
    rng = np.random.default_rng(seed)
    keys = _Keys(active, data_type, rng) if active else None
    with open(path, "wb") as file:
        write_header(file, Header(version, of.vocab_size, of.n_embd, of.n_layer, data_type.code))
        for name, _, size, is_vector, *_ in record.plan(record.checkpoint_shapes(of)):
            stored = vector_type if is_vector else data_type
            is_thin = name.endswith(("_w1", "_w2"))  # RWKV-6's thin matrices stay FP32 until they are quantized
            if data_type.format.is_quantized and record.is_quantizable(name, size):
                stored = data_type
            elif data_type.format.is_quantized and not is_vector:
                stored = float_type
            write_parameter_header(file, name, size, stored)
            if keys and name.endswith("ffn.key.weight"):
                keys.write(file, size)
            elif is_vector and not is_thin:
                bias = float(keys is not None and name.endswith("ln2.bias"))
                file.write((_vector(record.name, name, math.prod(size), rng) + np.float32(bias)).tobytes())
            else:
                _write_matrix(file, size, stored, rng)
    return Path(path)


def synthetic_model(
    shape: str, type_name: str, seed: int = 0, *, n_layer: int | None = None, n_vocab: int | None = None
) -> tuple[ModelConfig, dict[str, Parameter]]:
    """A model of that shape in memory, or some of its layers; thin matrices are FP16, a quantized one's head Q6_K."""
    record, of = ARCHITECTURES[architecture(shape)], sizes(shape, n_vocab)
    of = dataclasses.replace(of, n_layer=n_layer or of.n_layer)
    types = {data_type.name: data_type for data_type in GGML_TYPES.values()}
    rng, parameters = np.random.default_rng(seed), {}
    for name, _, size, is_vector, *_ in record.plan(record.checkpoint_shapes(of)):
        chosen = types["FP32" if is_vector else "FP16"]
        if record.is_quantizable(name, size) or name == "emb.weight":
            chosen = types[type_name]
        elif name == "head.weight":
            chosen = types["Q6_K"] if types[type_name].format.is_quantized else types[type_name]
        data = io.BytesIO()
        if is_vector and not name.endswith(("_w1", "_w2")):
            data.write(_vector(record.name, name, math.prod(size), rng).tobytes())
        else:
            _write_matrix(data, size, chosen, rng)
        parameters[name] = Parameter(name, size, chosen, InMemory(np.frombuffer(data.getbuffer(), np.uint8)))
    names = tuple(sorted({p.data_type.name for p in parameters.values()}))
    config = ModelConfig(**vars(of), record=record, file_version=101, data_type=type_name, data_types=names)
    return config, parameters


def write_synthetic_gguf(path: Path | str, shape: str, type_name: str, seed: int = 0) -> Path:
    """Write a GGUF file of that shape of RWKV-6 or 7, with the World vocabulary, made in memory."""
    config, parameters = synthetic_model(shape, type_name, seed)
    write_gguf(parameters, config, str(path), str(path), world_vocabulary(str(path), config), overwrite=True)
    return Path(path)


@click.command()
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("type_name", metavar="TYPE")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--active", type=click.FloatRange(0, 0.5, min_open=True), help="Share of active hidden channels.")
def main(shape: str, type_name: str, path: Path, active: float | None) -> None:
    """Write a model of SHAPE and TYPE to PATH, which is a GGUF file if its name ends in .gguf."""
    if path.suffix != ".gguf":
        write_synthetic(path, shape, type_name, active=active)
    elif active:
        raise click.UsageError("--active makes files of rwkv.cpp's format only.")
    else:
        write_synthetic_gguf(path, shape, type_name)


if __name__ == "__main__":
    main()

"""Write a synthetic RWKV checkpoint with a published shape: random weights of plausible scale.

    python bench/make_checkpoint.py 1b5 /tmp/1b5.pth
    python bench/make_checkpoint.py 7b /tmp/7b.safetensors --dtype float16

The file's extension selects its format. Tensors are filled one by one, directly in the mapped file,
so a 14B checkpoint (28 GB) needs no more memory than a small one. The noise is one block of a
million numbers, repeated, because drawing 14 billion would take longer than the timed work.
"""

from __future__ import annotations

import json
import math
import mmap
import random
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
import torch
from shapes import SHAPES, checkpoint_of

from rwkv_np.cli import Command
from rwkv_np.files.output import check_destination, new_file

# A prime, so that no two rows of a matrix start at the same position in the block.
N_NOISE = 1_000_003
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_SAFETENSORS_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}

# name's ending -> (mean, deviation) of a normal distribution
_VECTORS = {
    "weight": (1.0, 0.1),
    "bias": (0.0, 0.1),
    "time_decay": (-1.5, 1.5),
    "time_first": (math.log(0.3), 0.5),
    "time_faaaa": (0.0, 0.5),
    "w0": (-3.0, 2.0),
    "a0": (0.0, 0.5),
    "v0": (1.0, 0.2),
    "k_k": (0.85, 0.1),
    "k_a": (1.0, 0.1),
}

Shapes = dict[str, tuple[int, ...]]


class Noise:
    """Random values for any parameter, from a seed."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._normal = torch.randn(N_NOISE, generator=generator)
        self._uniform = torch.rand(N_NOISE, generator=generator)
        self._starts = random.Random(seed)

    def pieces(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """The values of a parameter, flat, in pieces of at most N_NOISE."""
        start = self._starts.randrange(N_NOISE)  # otherwise all matrices of one shape would be equal
        block = self._block(name, shape).roll(start).to(dtype)
        n_weights = math.prod(shape)
        for offset in range(0, n_weights, N_NOISE):
            yield block[: n_weights - offset]

    def _block(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith(("_w1", "_w2")):  # RWKV-6's thin matrices, which are transposed
            return self._normal * shape[-2] ** -0.5
        if ".time_mix_" in name or ".time_maa_" in name or ".x_" in name:
            return self._uniform
        if name == "emb.weight":
            return self._normal * 0.5
        if len(shape) == 2 and ".time_" not in name:
            return self._normal * shape[1] ** -0.5  # keeps the variance of the input
        mean, deviation = _VECTORS[name.rpartition(".")[2]]
        return self._normal * deviation + mean


def write_pth(path: str, shapes: Shapes, dtype: str, noise: Noise) -> None:
    """Write a .pth: first the file with space for the data, then the data through a mapping of the file."""
    with torch.serialization.skip_data():
        torch.save({name: torch.empty(shape, dtype=DTYPES[dtype]) for name, shape in shapes.items()}, path)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        tensors = torch.load(path, mmap=True, weights_only=True)
    for name, tensor in tensors.items():
        flat, offset = tensor.view(-1), 0
        for piece in noise.pieces(name, tensor.shape, tensor.dtype):
            flat[offset : offset + len(piece)] = piece
            offset += len(piece)


def write_safetensors(file: BinaryIO, shapes: Shapes, dtype: str, noise: Noise) -> None:
    """Write a .safetensors, sorted by name as in the safetensors package."""
    header, end = {}, 0
    for name in sorted(shapes):
        start, end = end, end + math.prod(shapes[name]) * DTYPES[dtype].itemsize
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[dtype], "shape": shapes[name], "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in sorted(shapes):
        pieces = noise.pieces(name, shapes[name], DTYPES[dtype])
        file.writelines(piece.view(torch.uint8).numpy().data for piece in pieces)


def make_checkpoint(
    destination: str | Path, shapes: Shapes, dtype: str = "bfloat16", seed: int = 0, overwrite: bool = False
) -> None:
    """Write a checkpoint with tensors of those names and shapes. Raises OutputError."""
    n_bytes = sum(map(math.prod, shapes.values())) * DTYPES[dtype].itemsize
    check_destination(destination, None, overwrite, n_bytes)
    with new_file(destination, overwrite=overwrite) as file:
        if Path(destination).suffix == ".safetensors":
            write_safetensors(file, shapes, dtype, Noise(seed))
        else:
            write_pth(file.name, shapes, dtype, Noise(seed))


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("destination", type=click.Path())
@click.option("--vocab", type=click.IntRange(min=1), help="Rows of the embedding. [default: as published; toy: 256]")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="bfloat16", help="Data type of every tensor.")
@click.option("--seed", default=0, help="Random seed; the same seed gives the same file.")
@click.option("--overwrite", is_flag=True, help="Replace DESTINATION if it exists.")
def command(shape: str, destination: str, vocab: int | None, dtype: str, seed: int, overwrite: bool) -> None:
    """Write a synthetic checkpoint with the published SHAPE to DESTINATION (.pth or .safetensors)."""
    shapes = checkpoint_of(shape, vocab)
    make_checkpoint(destination, shapes, dtype, seed, overwrite)
    click.echo(f"{destination}: {len(shapes)} tensors, {Path(destination).stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    command()

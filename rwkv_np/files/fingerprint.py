"""A fingerprint that identifies a model file, without reading gigabytes.

A state is valid only for the exact weights that made it. Two models of the same shape, or one
model in two types, differ in nearly every parameter, so a few bytes of each are enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from rwkv_np.errors import PathLike
from rwkv_np.files.format import read_model_file
from rwkv_np.files.gguf import GgufFile, Tensor, is_gguf
from rwkv_np.files.parameter import Parameter

PIECES, PIECE = 16, 64  # 1 KiB of each parameter: 0.5 MB of a 7B model's 14 GB


def fingerprint(path: PathLike) -> str:
    """32 hexadecimal digits of names, shapes, types and sampled weights. Raises FormatError, OSError."""
    found = hashlib.sha256()
    for part in _parts(path):
        found.update(f"{part.name} {part.shape} {part.data_type.name}\n".encode())
        found.update(_sample(part))
    return found.hexdigest()[:32]


def _parts(path: PathLike) -> Iterable[Parameter | Tensor]:
    """The parameters, or the tensors of a GGUF file under their own names."""
    if not is_gguf(path):
        return read_model_file(path).parameters.values()
    return GgufFile(path).tensors.values()


def _sample(part: Parameter | Tensor) -> bytes:
    n_bytes = part.stored.size
    starts = np.linspace(0, max(0, n_bytes - PIECE), PIECES).astype(int).tolist()
    return b"".join(part.stored.read(start, min(PIECE, n_bytes)).tobytes() for start in starts)

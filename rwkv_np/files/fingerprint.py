"""A fingerprint that identifies a model file, without reading gigabytes.

A state is valid only for the exact weights that made it. Two models of the same shape, or one
model in two types, differ in nearly every parameter, so a few bytes of each are enough.
"""

from __future__ import annotations

import hashlib

import numpy as np

from rwkv_np.errors import PathLike
from rwkv_np.files.format import read_model_file
from rwkv_np.files.parameter import Parameter

PIECES, PIECE = 16, 64  # 1 KiB of each parameter: 0.5 MB of a 7B model's 14 GB


def fingerprint(path: PathLike) -> str:
    """32 hexadecimal digits of names, shapes, types and sampled weights. Raises FormatError, OSError."""
    found = hashlib.sha256()
    for parameter in read_model_file(path).parameters.values():
        found.update(f"{parameter.name} {parameter.shape} {parameter.data_type.name}\n".encode())
        found.update(_sample(parameter))
    return found.hexdigest()[:32]


def _sample(parameter: Parameter) -> bytes:
    n_bytes = parameter.n_bytes
    starts = np.linspace(0, max(0, n_bytes - PIECE), PIECES).astype(int).tolist()
    return b"".join(parameter.stored.read(start, min(PIECE, n_bytes)).tobytes() for start in starts)

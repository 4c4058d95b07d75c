"""Edits of .npy files: an unexpected type, order or shape, with data that matches it or does not.

The header is written by hand, since NumPy would not write invalid headers.
"""

from __future__ import annotations

import io
import math
from random import Random

import numpy as np
from mutations import EXTREMES, blind, pack

TYPES = (
    "|u1", "|i1", "|b1", "<f2", ">f4", "<f8", ">f8", "<i4", "<i8", ">i8", "<u4", "<u8", "<u2", "<c8", "<c16", "|O",
    "|S4", "<U1", "|V4", "<M8[s]", "<m8[ns]", "|S0", "<f16", "f", "", "x", "<f4,<f4",
)  # fmt: skip
VALUES = (float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45, 0.0)
HEADERS = (
    "", "{}", "None", "{'descr': '<f4'}", "[" * 300, "(" * 5000, "{'descr': '<f4', 'fortran_order': 0, 'shape': ()}",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}", "x" * 60_000, "__import__('os')", "\0" * 60,
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 1}", "9" * 5000, "{'descr': 1, 'shape': 2, 3: 4}",
)  # fmt: skip


def write(header: str, data: bytes, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """A .npy file with a header that may be nonsense."""
    text = header.encode("latin-1", "replace")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    n_bytes = 2 if version[0] == 1 else 4
    return b"\x93NUMPY" + bytes(version) + pack(len(text) if length is None else length, n_bytes) + text + data


def edit_array(data: bytes, rng: Random) -> bytes:
    """Apply an edit to a .npy file."""
    try:
        x = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception:  # it was edited before
        return blind(data, rng)
    if rng.random() < 0.15:
        return blind(data, rng, [0, 6, 8, 10, 128, len(data)])
    return rng.choice((_type, _type, _shape, _order, _value, _value, _header))(x, rng)


def _describe(descr: str, shape: object, is_fortran: object = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {is_fortran}, 'shape': {shape}, }}"


def _fit(data: bytes, n_bytes: int, rng: Random) -> bytes:
    """The data, usually with the right length."""
    if rng.random() < 0.3 or not 0 <= n_bytes < 2**20:
        return data
    return (data * (n_bytes // max(1, len(data)) + 1))[:n_bytes].ljust(n_bytes, b"\0")


def _type(x: np.ndarray, rng: Random) -> bytes:
    descr = rng.choice(TYPES)
    try:
        size = np.dtype(descr).itemsize
    except TypeError:
        size = 4
    if rng.random() < 0.3 and x.dtype.kind == "f" and descr in ("<f2", ">f4", "<f8", ">f8"):  # the same numbers
        return write(_describe(descr, x.shape), x.astype(descr).tobytes())
    return write(_describe(descr, x.shape), _fit(x.tobytes(), size * x.size, rng))


def _shape(x: np.ndarray, rng: Random) -> bytes:
    shapes = (
        (), (0,), (x.size,), (x.size + 1,), (1, *x.shape), (*x.shape, 1), x.shape[::-1], (-1,), (rng.choice(EXTREMES),),
        (2**31, 2**31), (2**32, 2**32), (0, 2**63), (1,) * 40, (True,), (1.5,), "3", None, [3], (x.size // 2, 2),
    )  # fmt: skip
    shape = rng.choice(shapes)
    n = math.prod(shape) if isinstance(shape, tuple) and all(isinstance(size, int) for size in shape) else 1
    descr = x.dtype.str if rng.random() < 0.8 else "|S0"
    return write(_describe(descr, shape), _fit(x.tobytes(), n * x.itemsize, rng))


def _order(x: np.ndarray, rng: Random) -> bytes:
    order = rng.choice((True, True, 1, None, "'C'"))
    return write(_describe(x.dtype.str, x.shape, order), x.tobytes())


def _value(x: np.ndarray, rng: Random) -> bytes:
    if x.dtype.kind != "f" or not x.size:
        found = x.tobytes()
        return write(_describe(x.dtype.str, x.shape), found[: len(found) // 2])
    x = np.ascontiguousarray(x)
    flat, at = x.reshape(-1), rng.randrange(x.size)
    flat[at : at + rng.choice((1, 1, 10, x.size))] = rng.choice(VALUES)
    return write(_describe(x.dtype.str, x.shape), x.tobytes())


def _header(x: np.ndarray, rng: Random) -> bytes:
    if rng.random() < 0.5:
        return write(rng.choice(HEADERS), x.tobytes(), rng.choice(((1, 0), (2, 0), (3, 0))))
    version = rng.choice(((0, 0), (1, 1), (2, 0), (3, 0), (4, 0), (255, 255)))
    length = rng.choice((None, *EXTREMES))
    return write(_describe(x.dtype.str, x.shape), x.tobytes(), version, length)

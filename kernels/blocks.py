"""How the blocks of 32 weights are stored in a file, with plain NumPy decoders and encoders.

These functions are the definition: an encoder gives, bit for bit, what rwkv.cpp writes for the
same float32 values, and the jitted kernels of this folder are tested against them. `formats.py`
says which decoder and encoder belong together.

`d` and `m` are the scale and the minimum of a block, `qs` its nibbles (or bytes), `qh` its
fifth bits. A `_V100` layout is from April 2023; the others are used since 2023-05-27.

Source: the layouts of rwkv.cpp and ggml at those dates, checked against files they wrote.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

BLOCK_SIZE = 32
NO_OUTLIER = 0xFFFF

Encoder = Callable[[np.ndarray], np.ndarray]

_D16, _M16, _QH, _QS = ("d", "<f2"), ("m", "<f2"), ("qh", "<u4"), ("qs", "u1", 16)
_D32, _M32 = ("d", "<f4"), ("m", "<f4")

Q4_0 = np.dtype([_D16, _QS])
Q4_1 = np.dtype([_D16, _M16, _QS])
Q5_0 = np.dtype([_D16, _QH, _QS])
Q5_1 = np.dtype([_D16, _M16, _QH, _QS])
Q8_0 = np.dtype([_D16, ("qs", "i1", 32)])
Q4_0_V100 = np.dtype([_D32, _QS])
Q4_1_V100 = np.dtype([_D32, _M32, _QS])
Q4_1_O = np.dtype([_D16, _M16, ("outlier_index", "<u2"), ("outlier_value", "<f2"), _QS])


# --- nibbles and fifth bits -------------------------------------------------------------------


def _halves(qs: np.ndarray) -> np.ndarray:
    """Version 101: low nibbles are elements 0-15, high nibbles 16-31. (..., 16) -> (..., 32)"""
    return np.concatenate([qs & 0x0F, qs >> 4], axis=-1)


def _pack_halves(q: np.ndarray) -> np.ndarray:
    return (q[..., :16] & 0x0F) | ((q[..., 16:] & 0x0F) << 4)


def _neighbours(qs: np.ndarray) -> np.ndarray:
    """Version 100: byte j holds elements 2j (low) and 2j + 1 (high). (..., 16) -> (..., 32)"""
    return np.stack([qs & 0x0F, qs >> 4], axis=-1).reshape(*qs.shape[:-1], BLOCK_SIZE)


def _pack_neighbours(q: np.ndarray) -> np.ndarray:
    return q[..., 0::2] | (q[..., 1::2] << 4)


_BITS = np.arange(BLOCK_SIZE, dtype=np.uint32)


def _fifth_bits(qh: np.ndarray) -> np.ndarray:
    return ((qh[..., None] >> _BITS) & 1).astype(np.uint8) << 4


def _pack_fifth_bits(q: np.ndarray) -> np.ndarray:
    return ((q >> 4).astype(np.uint32) << _BITS).sum(axis=-1, dtype=np.uint32)


def _affine(q: np.ndarray, d: np.ndarray, m: np.ndarray | None = None) -> np.ndarray:
    """q d, or q d + m, in float32. A damaged file may contain any scale, so infinities are passed through."""
    with np.errstate(invalid="ignore", over="ignore"):
        x = q.astype(np.float32) * d[..., None].astype(np.float32)
        return x if m is None else x + m[..., None].astype(np.float32)


# --- exact float32 arithmetic of the encoders ---------------------------------------------


def _fused_multiply_add(a: np.ndarray, b: np.ndarray, c: float) -> np.ndarray:
    """a b + c rounded once to float32, as a CPU with FMA does it.

    Rounding the product first differs in 13 of 59,904 bytes of the golden Q4_0 file. The
    product of two float32 is exact in float64; the sum is made odd where float64 had to
    round it (Boldo and Melquiond 2008), so that the second rounding cannot go wrong.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    total = product + c
    rest = (product - (total - c)) + (c - (total - (total - c)))  # Knuth's two-sum
    even = (total.view(np.int64) & 1) == 0
    towards = np.where(rest > 0, np.inf, -np.inf)
    total = np.where((rest != 0) & even, np.nextafter(total, towards), total)
    return total.astype(np.float32)


def _inverse(d: np.ndarray) -> np.ndarray:
    """1 / d in float32, 0 where d is 0, and infinity where d is too small to invert."""
    return np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)


def _truncate(x: np.ndarray, largest: int) -> np.ndarray:
    """The integer part, at most `largest`. Where 1 / d overflowed it is 0, as in code that x86 compilers make."""
    return np.where(np.isfinite(x), np.minimum(x, largest), 0).astype(np.uint8)


def _round_half_away(x: np.ndarray) -> np.ndarray:
    whole = np.trunc(x)
    x = np.where(np.abs(x - whole) >= 0.5, whole + np.sign(x), whole)
    return np.where(np.isfinite(x), x, 0)


def _first(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, index[..., None], axis=-1)[..., 0]


def _largest_magnitude(x: np.ndarray) -> np.ndarray:
    """The first element of largest magnitude, with its sign; +0 (never -0) for a block of zeros."""
    return _first(x, np.abs(x).argmax(axis=-1)) + np.float32(0)


def _range(x: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(d, m): the step from the smallest to the largest element, and the smallest (the first one of equals)."""
    m = _first(x, x.argmin(axis=-1))
    return (_first(x, x.argmax(axis=-1)) - m) / np.float32(steps), m


def _blocks(dtype: np.dtype, **fields: np.ndarray) -> np.ndarray:
    blocks = np.empty(next(iter(fields.values())).shape, dtype)
    for name, value in fields.items():
        blocks[name] = value
    return blocks


def pack(block: np.dtype, q: np.ndarray, d: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Blocks of Q4_0, Q4_1, Q5_0 or Q5_1 from integers q (..., 32) uint8, and d and m (...) with float16 values."""
    fields = {"d": d, "m": m, "qh": _pack_fifth_bits(q), "qs": _pack_halves(q)}
    return _blocks(block, **{name: fields[name] for name in block.names or ()})


def _quiet(encode: Encoder) -> Encoder:
    """Scales that overflow or vanish are part of the format, so NumPy should not warn about them."""

    @functools.wraps(encode)
    def quietly(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return encode(np.asarray(x, np.float32))

    return quietly


# --- decoders and encoders ---------------------------------------------------------------------


def decode_q4_0(b: np.ndarray) -> np.ndarray:
    return _affine(_halves(b["qs"]).astype(np.int8) - 8, b["d"])


@_quiet
def encode_q4_0(x: np.ndarray) -> np.ndarray:
    d = _largest_magnitude(x) / np.float32(-8)
    q = _truncate(_fused_multiply_add(x, _inverse(d)[..., None], 8.5), 15)
    return _blocks(Q4_0, d=d, qs=_pack_halves(q))


def decode_q4_1(b: np.ndarray) -> np.ndarray:
    return _affine(_halves(b["qs"]), b["d"], b["m"])


@_quiet
def encode_q4_1(x: np.ndarray) -> np.ndarray:
    d, m = _range(x, 15)
    q = _truncate(_fused_multiply_add(x - m[..., None], _inverse(d)[..., None], 0.5), 15)
    return _blocks(Q4_1, d=d, m=m, qs=_pack_halves(q))


def decode_q5_0(b: np.ndarray) -> np.ndarray:
    q = _halves(b["qs"]) | _fifth_bits(b["qh"])
    return _affine(q.astype(np.int8) - 16, b["d"])


@_quiet
def encode_q5_0(x: np.ndarray) -> np.ndarray:
    d = _largest_magnitude(x) / np.float32(-16)
    q = _truncate(_fused_multiply_add(x, _inverse(d)[..., None], 16.5), 31)
    return _blocks(Q5_0, d=d, qh=_pack_fifth_bits(q), qs=_pack_halves(q))


def decode_q5_1(b: np.ndarray) -> np.ndarray:
    return _affine(_halves(b["qs"]) | _fifth_bits(b["qh"]), b["d"], b["m"])


@_quiet
def encode_q5_1(x: np.ndarray) -> np.ndarray:
    d, m = _range(x, 31)
    q = _truncate(_fused_multiply_add(x - m[..., None], _inverse(d)[..., None], 0.5), 31)
    return _blocks(Q5_1, d=d, m=m, qh=_pack_fifth_bits(q), qs=_pack_halves(q))


def decode_q8_0(b: np.ndarray) -> np.ndarray:
    return _affine(b["qs"], b["d"])


@_quiet
def encode_q8_0(x: np.ndarray) -> np.ndarray:
    d = np.abs(x).max(axis=-1) / np.float32(127)
    q = _round_half_away(x * _inverse(d)[..., None])
    return _blocks(Q8_0, d=d, qs=q.astype(np.int8))


def decode_q4_0_v100(b: np.ndarray) -> np.ndarray:
    return _affine(_neighbours(b["qs"]).astype(np.int8) - 8, b["d"])


@_quiet
def encode_q4_0_v100(x: np.ndarray) -> np.ndarray:
    d = np.abs(x).max(axis=-1) / np.float32(7)
    q = _round_half_away(x * _inverse(d)[..., None]) + 8
    return _blocks(Q4_0_V100, d=d, qs=_pack_neighbours(q.astype(np.uint8)))


def decode_q4_1_v100(b: np.ndarray) -> np.ndarray:
    return _affine(_neighbours(b["qs"]), b["d"], b["m"])


@_quiet
def encode_q4_1_v100(x: np.ndarray) -> np.ndarray:
    d, m = _range(x, 15)
    q = _round_half_away((x - m[..., None]) * _inverse(d)[..., None])
    return _blocks(Q4_1_V100, d=d, m=m, qs=_pack_neighbours(q.astype(np.uint8)))


def decode_q4_1_o(b: np.ndarray) -> np.ndarray:
    x = _affine(_neighbours(b["qs"]), b["d"], b["m"])
    is_outlier = np.arange(BLOCK_SIZE) == b["outlier_index"][..., None]
    return np.where(is_outlier, b["outlier_value"][..., None].astype(np.float32), x)


@_quiet
def encode_q4_1_o(x: np.ndarray) -> np.ndarray:
    """The element of largest magnitude is stored separately, so that the other 31 share a finer step."""
    has_outlier = x.any(axis=-1)
    index = np.where(has_outlier, np.abs(x).argmax(axis=-1), NO_OUTLIER)
    is_outlier = np.arange(BLOCK_SIZE) == index[..., None]
    outlier = np.where(is_outlier, x, 0).sum(axis=-1)
    m = _first(x, np.where(is_outlier, np.inf, x).argmin(axis=-1))
    d = (_first(x, np.where(is_outlier, -np.inf, x).argmax(axis=-1)) - m) / np.float32(15)
    q = _round_half_away((x - m[..., None]) * _inverse(d)[..., None])
    q = np.where(is_outlier, 0, q).astype(np.uint8)
    return _blocks(Q4_1_O, d=d, m=m, outlier_index=index, outlier_value=outlier, qs=_pack_neighbours(q))


def decode_float(b: np.ndarray) -> np.ndarray:
    return b[..., None].astype(np.float32)


@_quiet
def encode_fp32(x: np.ndarray) -> np.ndarray:
    return x[..., 0].astype("<f4")


@_quiet
def encode_fp16(x: np.ndarray) -> np.ndarray:
    return x[..., 0].astype("<f2")

"""How the blocks of GGUF's other types are stored, with plain NumPy decoders: the definition of these types.

A superblock is 256 weights in a row with one float16 scale (and one for minima). Parts of 16 or 32 weights
have their own scale (and minimum), a small integer that multiplies the shared one. IQ4_XS and IQ4_NL, which
has blocks of 32, store indexes of a table instead of equal steps.

`d` is the scale and `m` the scale of the minima; `scales` are the integers; `qs` the low bits of the quants, `qh`
their other bits. There are no encoders yet. `blocks.py` has the types that rwkv.cpp's files share with GGUF.

Source: ggml's layouts, checked bit for bit against the `gguf` package and files that llama.cpp wrote.
"""

from __future__ import annotations

import numpy as np

SUPERBLOCK = 256
TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)

_D, _M = ("d", "<f2"), ("m", "<f2")

Q2_K = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), _D, _M])
Q3_K = np.dtype([("qh", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), _D])
Q4_K = np.dtype([_D, _M, ("scales", "u1", 12), ("qs", "u1", 128)])
Q5_K = np.dtype([_D, _M, ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)])
Q6_K = np.dtype([("qs", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D])
IQ4_NL = np.dtype([_D, ("qs", "u1", 16)])
IQ4_XS = np.dtype([_D, ("scales_high", "<u2"), ("scales_low", "u1", 4), ("qs", "u1", 128)])


def _fields(of: np.ndarray, bits: int) -> np.ndarray:
    """Cut bytes into numbers of `bits` bits, the lowest first: (..., n) -> (..., 8 / bits, n)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (of[..., None, :] >> shifts) & np.uint8(2**bits - 1)


def _quants(of: np.ndarray, bits: int, n: int) -> np.ndarray:
    """The fields of each group of n bytes, as elements in order: (..., bytes) -> (..., weights)."""
    groups = of.reshape(*of.shape[:-1], -1, n)
    return _fields(groups, bits).reshape(*of.shape[:-1], -1)


def _scaled(q: np.ndarray, d: np.ndarray, m: np.ndarray | None = None) -> np.ndarray:
    """q d, or q d - m, in float32, for the parts (..., n) of a superblock. Infinities are passed through."""
    parts = q.astype(np.float32).reshape(*d.shape, -1)
    with np.errstate(invalid="ignore", over="ignore"):
        x = parts * d[..., None]
        return (x if m is None else x - m[..., None]).reshape(q.shape)


def _times(d: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The scales of the parts, float32 (..., n): exact, as an 8-bit number times a float16 fits."""
    with np.errstate(invalid="ignore"):
        return d[..., None].astype(np.float32) * scales.astype(np.float32)


def decode_q2_k(b: np.ndarray) -> np.ndarray:
    d, m = _times(b["d"], b["scales"] & 15), _times(b["m"], b["scales"] >> 4)
    return _scaled(_quants(b["qs"], 2, 32), d, m)


def q3_k_scales(b: np.ndarray) -> np.ndarray:
    """The scales of 16 parts, -32 .. 31: their low four bits are in the first 8 bytes, two more in the last 4."""
    low, high = _quants(b["scales"][..., :8], 4, 8), _quants(b["scales"][..., 8:], 2, 4)
    return (low | high << 4).astype(np.int8) - np.int8(32)


def decode_q3_k(b: np.ndarray) -> np.ndarray:
    q = (_quants(b["qs"], 2, 32) | _quants(b["qh"], 1, 32) << 2).astype(np.int8) - np.int8(4)
    return _scaled(q, _times(b["d"], q3_k_scales(b)))


def q4_k_scales(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scales and minima of 8 parts, 0 .. 63. Those of the last four parts are in the bits that the first leave."""
    a, b, c = np.moveaxis(b["scales"].reshape(*b["scales"].shape[:-1], 3, 4), -2, 0)
    scales = np.concatenate([a & 63, c & 15 | a >> 6 << 4], axis=-1)
    minima = np.concatenate([b & 63, c >> 4 | b >> 6 << 4], axis=-1)
    return scales, minima


def decode_q4_k(b: np.ndarray) -> np.ndarray:
    scales, minima = q4_k_scales(b)
    return _scaled(_quants(b["qs"], 4, 32), _times(b["d"], scales), _times(b["m"], minima))


def decode_q5_k(b: np.ndarray) -> np.ndarray:
    scales, minima = q4_k_scales(b)
    q = _quants(b["qs"], 4, 32) | _quants(b["qh"], 1, 32) << 4
    return _scaled(q, _times(b["d"], scales), _times(b["m"], minima))


def decode_q6_k(b: np.ndarray) -> np.ndarray:
    q = (_quants(b["qs"], 4, 64) | _quants(b["qh"], 2, 32) << 4).astype(np.int8) - np.int8(32)
    return _scaled(q, _times(b["d"], b["scales"]))


def iq4_xs_scales(b: np.ndarray) -> np.ndarray:
    """The scales of 8 parts, -32 .. 31."""
    low = _fields(b["scales_low"], 4).swapaxes(-1, -2).reshape(*b.shape, 8)
    high = b["scales_high"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    return (low | high.astype(np.uint8) << 4).astype(np.int8) - np.int8(32)


def decode_iq4_xs(b: np.ndarray) -> np.ndarray:
    return _scaled(TABLE[_quants(b["qs"], 4, 16)], _times(b["d"], iq4_xs_scales(b)))


def decode_iq4_nl(b: np.ndarray) -> np.ndarray:
    return _scaled(TABLE[_quants(b["qs"], 4, 16)], b["d"][..., None].astype(np.float32))


def decode_bf16(b: np.ndarray) -> np.ndarray:
    """A bfloat16 is the upper half of a float32."""
    return (b[..., None].astype(np.uint32) << 16).view(np.float32)


# name -> (block, decoder) of the types whose blocks have SUPERBLOCK weights
TYPES = {
    "Q2_K": (Q2_K, decode_q2_k),
    "Q3_K": (Q3_K, decode_q3_k),
    "Q4_K": (Q4_K, decode_q4_k),
    "Q5_K": (Q5_K, decode_q5_k),
    "Q6_K": (Q6_K, decode_q6_k),
    "IQ4_XS": (IQ4_XS, decode_iq4_xs),
}

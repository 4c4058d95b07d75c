"""Every kernel with its inputs and shapes: one table for both tests and benchmarks.

A case says how to make inputs, how to run the kernel, what its NumPy reference gives for them,
and how much the two may differ. Matrix products have one case per format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from rwkv_np.kernels import equations, groupnorm, lora_mix, mixing, products, sample, wkv4, wkv5, wkv7
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import WANTS_FLOAT, Rows
from rwkv_np.kernels.formats import FORMATS
from rwkv_np.kernels.matmul import PackedMatrix, matmul, matmul_reference
from rwkv_np.kernels.pack import unpack_reference
from rwkv_np.kernels.pointers import address
from rwkv_np.kernels.threads import default_threads

from rwkv_np import sampling

# (rows, columns, vectors): one tile or less, partial tiles at the end, every kernel of tiles.COUNTS.
PRODUCT_SHAPES = ((1, 32, 1), (32, 64, 2), (33, 96, 15), (100, 256, 4))
SUPERBLOCK_SHAPES = ((1, 256, 1), (32, 512, 2), (33, 768, 15), (100, 256, 4))
TIMED_SHAPES = ((2048, 2048), (8192, 2048), (2048, 8192), (4096, 4096))
FLOAT32 = 2.0**-24  # the error of one rounding
HEAD = 48  # channels of a head in the tests: not a power of two, and not whole blocks


def random_rows(format: str, n_rows: int, n_in: int, rng: np.random.Generator) -> np.ndarray:
    """Random rows as in a file, (n_rows, bytes of a row) uint8; scales of order one."""
    row = FORMATS[format]
    layout = row.layout
    if layout.is_bfloat:
        halves = rng.standard_normal((n_rows, n_in)).astype(np.float32).view(np.uint32) >> 16
        return halves.astype(np.uint16).view(np.uint8)
    if layout.is_float:
        kind = np.float16 if layout.bits == 16 else np.float32
        return rng.standard_normal((n_rows, n_in)).astype(kind).view(np.uint8)
    if row.block.fields and row.encode is None:
        return _random_superblocks(row, n_rows, n_in, rng)
    blocks = rng.integers(0, 256, (n_rows, n_in // row.block_size, row.block.itemsize), np.uint8)
    n_scales = 1 + layout.has_min
    kind = np.float16 if layout.scale_bytes == 2 else np.float32
    scales = rng.standard_normal((*blocks.shape[:2], n_scales)).astype(kind).view(np.uint8)
    blocks[:, :, : n_scales * layout.scale_bytes] = scales
    if layout.has_outliers:
        _put_outliers(blocks, rng)
    return blocks.reshape(n_rows, -1)


def _random_superblocks(row, n_rows, n_in, rng):
    """Random rows of one of GGUF's types."""
    raw = rng.integers(0, 256, (n_rows, row.n_bytes(n_in)), np.uint8)
    blocks = raw.view(row.block)
    for name in set(row.block.fields) & {"d", "m"}:
        blocks[name] = rng.standard_normal(blocks.shape)
    return raw


def _put_outliers(blocks, rng):
    """Add an outlier to each block but the first; the nibble of an outlier is zero."""
    shape = blocks.shape[:2]
    columns = rng.integers(0, lay.BLOCK, shape).astype(np.uint16)
    columns[0, 0] = 0xFFFF
    blocks[:, :, 4:6] = columns[:, :, None].view(np.uint8)
    blocks[:, :, 6:8] = (10 * rng.standard_normal((*shape, 1))).astype(np.float16).view(np.uint8)
    for place in zip(*np.nonzero(columns < lay.BLOCK)):
        column = int(columns[place])
        blocks[place][8 + column // 2] &= 0x0F if column % 2 else 0xF0


def product_bound(raw: np.ndarray, format: str, n_in: int, x: np.ndarray) -> np.ndarray:
    """The allowed error of float32: one rounding per term of a sum, relative to the sum of magnitudes."""
    row = FORMATS[format]
    weights = np.abs(unpack_reference(raw, row, n_in))
    if not row.layout.is_float:
        # The terms of the sum are the parts q d, zero d and m of a weight: each may be larger than the weight.
        blocks = weights.reshape(len(raw), -1, lay.BLOCK).max(axis=2)
        weights = weights + 3 * np.repeat(blocks, lay.BLOCK, axis=1)
    magnitudes = np.abs(x).astype(np.float64) @ weights.T
    n_terms = n_in if row.layout.is_float else 4 * row.layout.n_parts * lay.n_blocks_of(n_in)
    return (n_terms + 8) * FLOAT32 * magnitudes


def product_shapes(format: str) -> tuple:
    """The shapes to test: rows of whole blocks."""
    return SUPERBLOCK_SHAPES if FORMATS[format].block_size > lay.BLOCK else PRODUCT_SHAPES


def run_product(raw, format, n_in, x, path=None):
    """Pack the matrix and multiply."""
    return matmul(PackedMatrix.from_file(raw, format, n_in, path), x)


@dataclass(frozen=True)
class Case:
    """A kernel other than a product. `tolerance` is relative to the largest result."""

    make: Callable
    run: Callable
    reference: Callable
    tolerance: float
    shapes: tuple = ((1, 32), (3, 64), (9, 96))  # (tokens, channels)
    timed: tuple = ((1, 768), (1, 2048), (128, 2048))


@njit
def _layer_norm(x, weight, bias, out):
    for t in range(x.shape[0]):
        at = t * x.shape[1] * 4
        place = address(out, at)
        mixing.layer_norm_row(address(x, at), address(weight, 0), address(bias, 0), x.shape[1], x.shape[1], place)


def _mixed_by(equation):
    @njit
    def mix(x, before, share, rows, memory):
        for t in range(x.shape[0]):
            at = t * x.shape[1] * 4
            mixing.mix_row(
                equation, address(x, at), address(before, at), address(share, 0), address(rows, 0),
                address(memory, 0), t, x.shape[0],
            )  # fmt: skip

    return mix


_mix, _lerp = map(_mixed_by, ("mix", "lerp"))


@njit
def _lora_lerp(x, before, share, moved, rows, memory):
    for t in range(x.shape[0]):
        at = t * x.shape[1] * 4
        for i in range(x.shape[1] // 32):
            lora_mix.lerp_block(
                address(x, at), address(before, at), address(share, 0), address(moved, at + 128 * i), i,
                address(rows, 0), address(memory, 0), t, x.shape[0],
            )  # fmt: skip


@njit
def _group_norm(x, weight, bias, n, epsilon, out):
    for t in range(x.shape[0]):
        for head in range(x.shape[1]):
            at = 4 * x.shape[2] * (t * x.shape[1] + head)
            groupnorm.group_norm_row(
                address(x, at), address(weight, 4 * n * head), address(bias, 4 * n * head), n, x.shape[2], epsilon,
                address(out, at),
            )  # fmt: skip


@njit
def _decay(x, start):
    for t in range(x.shape[0]):
        wkv5.decay_row(address(x, 4 * t * x.shape[1]), address(start, 0), x.shape[1] // 16)


@njit
def _gate(y, gate, rows, memory):
    for t in range(y.shape[0]):
        at = 4 * t * y.shape[1]
        wkv5.put_gated(
            1, address(y, at), address(gate, at), 0, y.shape[1] // 32, address(rows, 0), address(memory, 0), t,
            y.shape[0],
        )  # fmt: skip


@njit
def _wkv5(r, k, v, w, u, n, w_stride, state, out):
    t, stride = out.shape[1], 4 * (r.shape[0] - 32) // out.shape[1]
    for head in range(state.shape[0]):
        at, n_padded = 4 * n * head, state.shape[2]
        wkv5.wkv5_head(
            address(r, at), address(k, at), address(v, at), address(w, at), address(u, at), t, stride, w_stride, n,
            n_padded, address(state, 4 * head * n * n_padded), address(out, 4 * head * t * n_padded),
        )  # fmt: skip


@njit
def _wkv7(work, n, state):
    for head in range(state.shape[0]):
        n_padded = state.shape[2]
        place = address(state, 4 * head * n * n_padded)
        wkv7.wkv7(address(work, 4 * head * work.shape[1] * work.shape[2] * n_padded), work.shape[1], n, n_padded, place)


@njit
def _wkv(kvr, w, u, state, rows, memory):
    for block in range(kvr.shape[0]):
        k, v, r = address(kvr[block, 0], 0), address(kvr[block, 1], 0), address(kvr[block, 2], 0)
        wkv4.wkv_block(
            k, v, r, 0, kvr.shape[2], kvr.shape[2], address(w, 0), address(u, 0), address(state, 0), w.shape[0],
            block, address(rows, 0), address(memory, 0),
        )  # fmt: skip


def _ending(name):
    """A function that runs the ending of a product on lanes (C / 32, T, 32)."""

    @njit
    def run(lanes, args, scratch):
        for tile in range(lanes.shape[0]):
            place = address(lanes, tile * lanes.shape[1] * 128)
            products.end_product(name, place, lanes.shape[1], tile, address(args, 0), address(scratch, 0))

    def end(x, scratch, *numbers):
        run(_lanes(x), np.array([*products.ENDING * (0,), *numbers]), scratch)

    return end


_squared_relu, _sigmoid, _add, _add_gated = map(_ending, ("squared_relu", "sigmoid", "add", "add_gated"))


_tanh = _ending("tanh")
_put, _to_rows, _to_tanh_rows, _to_sigmoid_rows = map(_ending, ("put", "rows", "tanh_rows", "sigmoid_rows"))


def _rows(n_channels):
    """Float32 values alone, from the start of a scratch buffer on."""
    return Rows(0, 0, 4 * n_channels, n_channels // 32, WANTS_FLOAT, 1)


def _written(put, *inputs):
    """What a kernel writes as float32 values of vectors, for inputs of which the first is (tokens, channels)."""
    out = np.zeros_like(inputs[0])
    put(*inputs, np.array(_rows(out.shape[1])), out)
    return out


def _lanes(x):
    """Rearrange (T, C) to the layout of the products: (C / 32, T, 32)."""
    return np.ascontiguousarray(x.reshape(len(x), -1, 32).transpose(1, 0, 2))


def _normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def _run_layer_norm(x, weight, bias):
    out = np.empty_like(x)
    _layer_norm(x, weight, bias, out)
    return out


def _run_mix(x, before, share):
    return _written(_mix, x, before, share)


def _run_lerp(x, before, share):
    return _written(_lerp, x, before, share)


def _run_lora_lerp(x, before, share, moved):
    return _written(_lora_lerp, x, before, share, moved)


def _run_group_norm(x, weight, bias):
    """Heads of HEAD channels, followed by numbers that must not be read."""
    heads = _padded(x.reshape(len(x), -1, HEAD), 64)
    out = np.full_like(heads, np.nan)
    weight, bias = (np.append(of, np.full(32, np.nan, np.float32)) for of in (weight, bias))
    _group_norm(heads, weight, bias, HEAD, groupnorm.bits_of(equations.HEAD_EPSILON), out)
    assert not out[..., HEAD:].any()
    return np.ascontiguousarray(out[..., :HEAD]).reshape(x.shape)


def _group_norm_reference(x, weight, bias):
    heads = (of.astype(np.float64).reshape(-1, x.shape[1] // HEAD, HEAD) for of in (x, weight, bias))
    return equations.group_norm(*heads).reshape(x.shape)


def _run_decay(x, start):
    x = x.copy()
    _decay(x, start)
    return x


def _run_gate(y, gate):
    return _written(_gate, y, gate)


def _run_small_tanh(x):
    """tanh(x) / x, so that the error is relative."""
    out = np.empty_like(x)
    _tanh(x, out, 0, out.strides[0])
    return out / x


def _wkv5_inputs(is_moving):
    """Heads of HEAD channels; some decays are 0."""

    def make(shape, rng):
        t, n_head = shape[0], shape[1] // HEAD
        r, k, v = (_normal(rng, t, n_head, HEAD) for _ in range(3))
        w = np.exp(-np.exp(3 * _normal(rng, *([t] if is_moving else []), n_head, HEAD)))
        return r, k, v, w, _normal(rng, n_head, HEAD), _normal(rng, n_head, HEAD, HEAD)

    return make


def _run_wkv5(r, k, v, w, u, state):
    w_stride = w[0].nbytes if w.ndim == 3 else 0
    # The last channel is followed by numbers that must not be read.
    flat = [np.append(x.reshape(-1), np.full(32, np.nan, np.float32)) for x in (r, k, v, w, u)]
    state = np.ascontiguousarray(_padded(state, 64))
    out = np.empty((state.shape[0], len(r), 64), np.float32)
    _wkv5(*flat, HEAD, w_stride, state, out)
    assert not out[..., HEAD:].any() and not state[..., HEAD:].any()
    return np.concatenate([out[..., :HEAD].swapaxes(0, 1).ravel(), state[..., :HEAD].ravel()])


def _wkv5_reference(*inputs):
    *vectors, state = (x.astype(np.float64) for x in inputs)
    return np.concatenate([equations.wkv5(*vectors, state).ravel(), state.ravel()])


def _wkv7_inputs(shape, rng):
    """Heads of HEAD channels, decays in RWKV-7's range, keys of length 1."""
    t, c = shape
    n_head, n = c // HEAD, HEAD
    r, w, k, v, kk, a = (_normal(rng, t, n_head, n) for _ in range(6))
    w, kk, a = equations.decay7(w), equations.unit_length(kk), equations.sigmoid(a)
    return r, w, k, v, kk, a, _normal(rng, n_head, n, n)


def _padded(x, n_padded):
    """Pad the last dimension with zeros."""
    return np.concatenate([x, np.zeros((*x.shape[:-1], n_padded - x.shape[-1]), x.dtype)], axis=-1)


def _run_wkv7(r, w, k, v, kk, a, state):
    n = state.shape[-1]
    n_padded = lay.round_up(n, 32)
    vectors = {wkv7.R: r, wkv7.W: w, wkv7.K: k, wkv7.V: v, wkv7.FOUND_BY: -kk, wkv7.REPLACE: kk * a}
    work = np.zeros((r.shape[1], len(r), wkv7.N_VECTORS, n_padded), np.float32)
    for i, x in vectors.items():
        work[:, :, i] = _padded(x, n_padded).swapaxes(0, 1)
    state = np.ascontiguousarray(_padded(state, n_padded))
    _wkv7(work, n, state)
    return np.concatenate([work[:, :, wkv7.OUT, :n].swapaxes(0, 1).ravel(), state[..., :n].ravel()])


def _wkv7_reference(*inputs):
    *vectors, state = (x.astype(np.float64) for x in inputs)
    return np.concatenate([equations.wkv7(*vectors, state).ravel(), state.ravel()])


def _run_wkv(r, k, v, w, u, state):
    state, out = state.copy(), np.zeros_like(k)
    kvr = np.ascontiguousarray(np.stack([_lanes(k), _lanes(v), _lanes(r)], axis=1))
    _wkv(kvr, w, u, state, np.array(_rows(k.shape[1])), out)
    return np.concatenate([out, state])


def _wkv_reference(r, k, v, w, u, state):
    r, k, v, state = (x.astype(np.float64) for x in (r, k, v, state))
    return np.concatenate([equations.sigmoid(r) * equations.wkv4(k, v, w, u, state), state])


def _wkv_inputs(shape, rng):
    t, c = shape
    state = np.stack([_normal(rng, c), 1 + rng.random(c, np.float32), _normal(rng, c)])
    return *(_normal(rng, t, c) for _ in range(3)), -np.exp(_normal(rng, c)), _normal(rng, c), state


def _run_squared_relu(x):
    out = np.zeros_like(x)
    _squared_relu(x, out, *_rows(x.shape[1]))
    return out


def _run_sigmoid(x):
    out = np.empty_like(x)
    _sigmoid(x, out, 0, out.strides[0])
    return out


def _run_endings(x):
    """The unchanged product, twice; its hyperbolic tangent; its sigmoid."""
    out = np.zeros((4, *x.shape), np.float32)
    _put(x, out[0], 0, x.strides[0])
    for ending, rows in zip((_to_rows, _to_tanh_rows, _to_sigmoid_rows), out[1:]):
        ending(x, rows, *_rows(x.shape[1]))
    return out


def _run_add_gated(x, gate, out):
    """out + gate x, then x added once more."""
    scratch, stride = np.stack([out, gate]), out.strides[0]
    _add_gated(x, scratch, 0, stride, out.nbytes, stride)
    _add(x, scratch, 0, stride)
    return scratch[0]


def _exactly(equation):
    """The equation in float64."""
    return lambda *arrays: equation(*(x.astype(np.float64) for x in arrays))


TOP_P = 0.5


def _sample_inputs(shape, rng):
    return 3 * _normal(rng, *shape), rng.random(shape[0])


def _run_sample(logits, numbers):
    settings = np.repeat(sample.settings_row(1, TOP_P, 0, 0, 0, 0), len(logits))
    settings["number"] = numbers
    bias, said = ([(np.zeros(0, np.int64), np.zeros(0, kind))] * len(logits) for kind in (np.float32, np.float64))
    return sample.choose_rows(logits, settings, bias, said, default_threads())


def _sample_reference(logits, numbers):
    return np.array([sampling.draw(*sampling.choices(row, 1, TOP_P), u) for row, u in zip(logits, numbers)])


CASES = {
    "layer_norm": Case(
        lambda s, rng: (3 + _normal(rng, *s), _normal(rng, s[1]), _normal(rng, s[1])),
        _run_layer_norm, _exactly(equations.layer_norm), 4e-6,
    ),
    "mix": Case(
        lambda s, rng: (_normal(rng, *s), _normal(rng, *s), rng.random(s[1], np.float32)),
        _run_mix, _exactly(equations.mix), 4 * FLOAT32,
    ),
    "lerp": Case(
        lambda s, rng: (_normal(rng, *s), _normal(rng, *s), rng.random(s[1], np.float32)),
        _run_lerp, _exactly(equations.lerp), 4 * FLOAT32,
    ),
    "lora_lerp": Case(
        lambda s, rng: (_normal(rng, *s), _normal(rng, *s), rng.random(s[1], np.float32), _normal(rng, *s)),
        _run_lora_lerp, _exactly(lambda x, before, share, moved: equations.lerp(x, before, share + moved)), 8 * FLOAT32,
    ),
    "group_norm": Case(
        lambda s, rng: (3 + _normal(rng, *s), _normal(rng, s[1]), _normal(rng, s[1])),
        _run_group_norm, _group_norm_reference, 4e-6, shapes=((1, HEAD), (3, 2 * HEAD)), timed=((128, 32 * HEAD),),
    ),
    "decay": Case(
        lambda s, rng: (30 * _normal(rng, *s), 30 * _normal(rng, s[1])),
        _run_decay, _exactly(lambda x, start: np.exp(-np.exp(x + start))), 2e-6,
    ),
    "gate": Case(
        lambda s, rng: (_normal(rng, *s), 5 * _normal(rng, *s)),
        _run_gate, _exactly(lambda y, gate: y * equations.silu(gate)), 8 * FLOAT32,
    ),
    "small_tanh": Case(
        lambda s, rng: (np.exp(3 * _normal(rng, *s) - 3) * np.sign(_normal(rng, *s)),),
        _run_small_tanh, _exactly(lambda x: np.tanh(x) / x), 4 * FLOAT32,
    ),
    **{
        name: Case(
            _wkv5_inputs(is_moving), _run_wkv5, _wkv5_reference, 2e-6,
            shapes=((1, HEAD), (2, 2 * HEAD), (4, HEAD), (19, 3 * HEAD)), timed=((1, 16 * HEAD), (128, 16 * HEAD)),
        )
        for name, is_moving in (("wkv5", False), ("wkv6", True))
    },
    "wkv7": Case(
        _wkv7_inputs, _run_wkv7, _wkv7_reference, 2e-6, shapes=((1, HEAD), (2, 2 * HEAD), (19, HEAD)),
        timed=((1, 16 * HEAD), (8, 16 * HEAD), (128, 16 * HEAD)),
    ),
    "endings": Case(
        lambda s, rng: (5 * _normal(rng, *s),), _run_endings,
        _exactly(lambda x: np.stack([x, x, np.tanh(x), equations.sigmoid(x)])), 4 * FLOAT32,
    ),
    "wkv": Case(_wkv_inputs, _run_wkv, _wkv_reference, 2e-6),
    "squared_relu": Case(
        lambda s, rng: (_normal(rng, *s),), _run_squared_relu, _exactly(equations.squared_relu), 4 * FLOAT32
    ),
    "sigmoid": Case(
        lambda s, rng: (20 * _normal(rng, *s),), _run_sigmoid, _exactly(equations.sigmoid), 4 * FLOAT32
    ),
    "add_gated": Case(
        lambda s, rng: tuple(_normal(rng, *s) for _ in range(3)),
        _run_add_gated, lambda x, gate, out: out + x.astype(np.float64) * (1.0 + gate), 8 * FLOAT32,
    ),
    "sample": Case(  # shapes are (rows, logits), and the results are tokens: equal or wrong
        _sample_inputs, _run_sample, _sample_reference, 0.0, timed=((1, 50277), (1, 65536), (32, 65536))
    ),
}  # fmt: skip

__all__ = [
    "CASES", "FORMATS", "TIMED_SHAPES", "Case", "matmul_reference", "product_bound", "product_shapes",
    "random_rows", "run_product",
]  # fmt: skip

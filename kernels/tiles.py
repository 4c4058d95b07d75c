"""The product of one tile (32 rows) with 1, 2, 4, ... vectors: nearly all time is spent here.

Everything else is built on this kernel: a matrix-vector product is a loop over tiles, a matrix-matrix
product two loops. With one vector it is limited by the memory that the tile is read from, so the
nibbles are unpacked in registers. With eight, 16 integer accumulators keep both multipliers of the
processor busy, every broadcast activation serves 32 rows, and it takes only 1.2 times as long as with one.

Formats differ in how a block's 8 steps are unpacked and scaled (int8_tile.py), paths in how a step is added
(dots.py; AMX adds a block at once: amx_tile.py). Both are fixed at compile time: there is one kernel for each format,
path and vector count. Each is compiled separately, cached, and called by address, so that a model compiles only what
it needs.

A vector's result is the same to the last bit, no matter how many vectors are processed with it.
The reference is `matmul.matmul_reference`.
"""

import functools

import numpy as np
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.amx_tile import LEAST, AmxTile, is_suited
from rwkv_np.kernels.cache import compile_c
from rwkv_np.kernels.dispatch import target_features
from rwkv_np.kernels.emit import FLOATS, Emit, Variable
from rwkv_np.kernels.float_tile import FloatTile
from rwkv_np.kernels.formats import FORMATS
from rwkv_np.kernels.int8_tile import Int8Tile
from rwkv_np.kernels.pointers import KERNEL_ARGS

# How many vectors a kernel may process at once: as many as fit in the registers. Without AVX-512,
# eight vectors cause so many spills that they take 40 % longer than four twice.
# With AMX, 32 share what is unpacked (amx_tile.py).
COUNTS = (1, 2, 4, 8, 16, 32)
MOST = {"vnni": 8, "amx": 32}


def emit_tile_product(builder, layout, path, count, tile, x, values, stride, n_blocks, out, out_stride):
    """Emit the product of a tile with `count` vectors; the arguments are LLVM values (pointers.KERNEL_ARGS)."""
    allow_features(builder.function, path)
    emit = Emit(builder)
    stride, n_blocks, out_stride = (emit.value(number) for number in (stride, n_blocks, out_stride))
    zero = emit.constant(FLOATS, 0.0)
    sums = [[Variable(emit, zero) for _ in range(count)] for _ in range(lay.GROUPS)]
    args = tile, x, values, stride, n_blocks
    if layout.is_float:
        FloatTile(emit, layout, vector_path(path), count, args).emit_loop(sums)
    elif count >= LEAST and is_suited(layout):
        AmxTile(emit, layout, vector_path(path), count, args).emit_loop(sums)
    else:
        _emit_in_parts(emit, layout, vector_path(path), count, args, sums)
    for group in range(lay.GROUPS):
        for vector in range(count):
            emit.store(sums[group][vector].get(), out, out_stride * (4 * vector) + 64 * group)


def vector_path(path):
    """The path of all instructions but those of AMX."""
    return "vnni" if path == "amx" else path


def _emit_in_parts(emit, layout, path, count, args, sums):
    """A group of more vectors than VNNI's registers take: a layout that AMX's kernel does not know."""
    at_once = min(count, most_together(path))
    for first in range(0, count, at_once):
        part = [of_group[first : first + at_once] for of_group in sums]
        Int8Tile(emit, layout, path, at_once, args, first, count).emit_loop(part)


def allow_features(function, path):
    """Allow LLVM to use, in this function, the features that the path needs and Numba's list lacks."""
    features = target_features(path)
    if features:
        # The set's own add() rejects names that llvmlite does not know; existing members are written unchanged.
        set.add(function.attributes, f'"target-features"="{features}"')


@intrinsic(prefer_literal=True)
def tile_product(typingctx, format, path, count, tile, x, values, stride, n_blocks, out, out_stride):
    """out[v, :32] = tile @ vector v for v < count. Format, path and count are literals."""

    def codegen(context, builder, signature, args):
        layout = FORMATS[format.literal_value].layout
        emit_tile_product(builder, layout, path.literal_value, count.literal_value, *args[3:])
        return context.get_dummy_value()

    return types.void(format, path, count, *KERNEL_ARGS), codegen


@functools.cache
def _compiled(format, path, count):
    @compile_c(types.void(*KERNEL_ARGS), nopython=True)
    def tile_kernel(tile, x, values, stride, n_blocks, out, out_stride):
        tile_product(format, path, count, tile, x, values, stride, n_blocks, out, out_stride)

    return tile_kernel


def most_together(path: str) -> int:
    """How many vectors the kernels of a path multiply at once: those of a full group (layout.py)."""
    return MOST.get(path, 4)


def kernel_addresses(format: str, path: str) -> np.ndarray:
    """Compile a format's kernels, or load them from the cache: an address for each of COUNTS, or 0.

    The function at an address takes pointers.KERNEL_ARGS. It stays loaded until the process ends.
    """
    most = MOST["vnni"] if FORMATS[format].layout.is_float else max(COUNTS)  # floats are not in groups
    built = [count for count in COUNTS if count <= min(most, most_together(path))]
    addresses = [_compiled(format, path, count).address for count in built]
    return np.array(addresses + [0] * (len(COUNTS) - len(built)), np.int64)

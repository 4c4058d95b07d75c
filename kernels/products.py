"""What is done to 32 channels of all tokens right after their matrix product, while in cache.

`lanes` are the products, (n_tokens, 32) float32. Each function is one intrinsic over them.
"""

import numpy as np
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels.activations import emit_block
from rwkv_np.kernels.emit import FLOATS, LANES, Emit
from rwkv_np.kernels.exponential import sigmoid
from rwkv_np.kernels.layout import TILE_ROWS

HALVES = (0, 4 * LANES)


def sigmoid_reference(x: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def squared_relu_reference(x: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    return np.square(np.maximum(x.astype(np.float64), 0))


@intrinsic
def squared_relu_block(typingctx, lanes, n_tokens, block, n_blocks, wanted, rows, row_bytes):
    """Write max(lanes, 0)^2 as `block` of the tokens' vector rows."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        n_tokens, block, n_blocks, wanted, row_bytes = (emit.value(args[i]) for i in (1, 2, 3, 4, 6))
        with emit.loop(n_tokens) as t:
            halves = []
            for half in HALVES:
                x = emit.load(args[0], t * (4 * TILE_ROWS) + half, FLOATS)
                x = (x < 0.0).choose(0.0, x)
                halves.append(x * x)
            row = builder.gep(args[5], [(row_bytes * t).llvm])
            emit_block(emit, halves, row, n_blocks, block, wanted)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(lanes, intp, intp, intp, intp, rows, intp), codegen


@intrinsic
def sigmoid_block(typingctx, lanes, n_tokens, out, out_stride):
    """out[t, :32] = sigmoid(lanes[t]); the stride in floats."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        with emit.loop(emit.value(args[1])) as t:
            for half in HALVES:
                x = emit.load(args[0], t * (4 * TILE_ROWS) + half, FLOATS)
                emit.store(sigmoid(emit, x), args[2], emit.value(args[3]) * t * 4 + half)
        return context.get_dummy_value()

    return types.void(lanes, types.intp, out, types.intp), codegen


@intrinsic
def add_block(typingctx, lanes, n_tokens, out, out_stride):
    """out[t, :32] += lanes[t]; the stride in floats."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        with emit.loop(emit.value(args[1])) as t:
            for half in HALVES:
                place = emit.value(args[3]) * t * 4 + half
                x = emit.load(args[0], t * (4 * TILE_ROWS) + half, FLOATS)
                emit.store(emit.load(args[2], place, FLOATS) + x, args[2], place)
        return context.get_dummy_value()

    return types.void(lanes, types.intp, out, types.intp), codegen


@intrinsic
def add_gated_block(typingctx, lanes, n_tokens, gate, out, stride):
    """out[t, :32] += gate[t, :32] * lanes[t]; the stride of gate and out in floats."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        with emit.loop(emit.value(args[1])) as t:
            for half in HALVES:
                place = emit.value(args[4]) * t * 4 + half
                x = emit.load(args[0], t * (4 * TILE_ROWS) + half, FLOATS)
                gated = emit.fma(emit.load(args[2], place, FLOATS), x, emit.load(args[3], place, FLOATS))
                emit.store(gated, args[3], place)
        return context.get_dummy_value()

    return types.void(lanes, types.intp, gate, out, types.intp), codegen

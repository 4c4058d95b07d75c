"""The norm of a head: mean 0 and variance 1 over its channels, then weight and bias of each channel.

A head may have any number of channels. Its row has room for whole blocks of 32; what follows the
channels is written as zeros and never read. The gate and the rounding to int8 that follow work on
whole blocks, and a block may contain channels of two heads.

Reference: `equations.group_norm`.
"""

from __future__ import annotations

import struct

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels.emit import F32, FLOATS, I32, INTS, LANES, Emit, Variable


def bits_of(epsilon: float) -> int:
    """A float32 as an integer argument of an op; `emit_float` reads it back."""
    return struct.unpack("<i", struct.pack("<f", epsilon))[0]


def emit_float(number):
    """The float32 whose bits `bits_of` put into an int64."""
    return number.converted("trunc", I32).as_kind(F32)


def first_lanes(emit, n, at=0):
    """For 16 lanes, whether their index, counted from `at`, is below n."""
    lanes = emit.value(ir.Constant(INTS, list(range(LANES))))
    return lanes < emit.splat((n - at).converted("trunc", I32))


@intrinsic
def group_norm_row(typingctx, x, weight, bias, n, n_padded, epsilon, out):
    """out = norm of the n channels of a head, and zeros up to n_padded; `epsilon` as from `bits_of`.

    x, out  n_padded float32, those after n in x must be zero; `out` may be x
    """

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        x, weight, bias, out = args[0], args[1], args[2], args[6]
        n, n_padded = emit.value(args[3]), emit.value(args[4])
        n_vectors, n_float = n_padded.shifted_right(4), n.converted("sitofp", F32)
        total, squares = (Variable(emit, emit.constant(FLOATS, 0.0)) for _ in range(2))
        with emit.loop(n_vectors) as i:
            total.set(total.get() + emit.load(x, i * (4 * LANES), FLOATS))
        mean = emit.splat(emit.sum(total.get()) / n_float)
        with emit.loop(n_vectors) as i:
            centred = emit.load(x, i * (4 * LANES), FLOATS) - mean
            centred = first_lanes(emit, n, i * LANES).choose(centred, emit.constant(FLOATS, 0.0))
            squares.set(emit.fma(centred, centred, squares.get()))
        variance = emit.sum(squares.get()) / n_float
        root = emit.call("llvm.sqrt.f32", F32, variance + emit_float(emit.value(args[5])))
        inverse = emit.splat(emit.constant(F32, 1.0) / root)
        with emit.loop(n_vectors) as i:
            at = i * (4 * LANES)
            scaled = (emit.load(x, at, FLOATS) - mean) * inverse
            y = emit.fma(scaled, emit.load(weight, at, FLOATS), emit.load(bias, at, FLOATS))
            emit.store(first_lanes(emit, n, i * LANES).choose(y, emit.constant(FLOATS, 0.0)), out, at)
        return context.get_dummy_value()

    return types.void(x, weight, bias, types.intp, types.intp, types.intp, out), codegen

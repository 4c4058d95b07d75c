"""Layer norm of one token, and the mix with the token before that goes into a matrix.

Both read a few thousand floats and are over in a microsecond; what matters is that nothing
passes through memory in between, and that the mixed vector is quantized where it arises.

A row holds `n` channels and zeros up to whole blocks of 32: weights and biases are zero there.
"""

import numpy as np
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import emit_block
from rwkv_np.kernels.emit import F32, FLOATS, LANES, Emit, Variable

EPSILON = 1e-5  # torch's default, which RWKV was trained with


def layer_norm_reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The definition, in float64: x (..., n) -> mean 0 and variance 1, then scale and shift."""
    x = x.astype(np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + EPSILON) * weight + bias


def mix_reference(x: np.ndarray, before: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The definition: `share` of x and the rest of the token before."""
    return x * share + before * (1 - share)


def _total(emit, n_vectors, term):
    """The sum of `term(byte offset)` over a row, and how it is added does not depend on the target."""
    total = Variable(emit, emit.constant(FLOATS, 0.0))
    with emit.loop(n_vectors) as i:
        total.set(total.get() + term(i * (4 * LANES)))
    return emit.sum(total.get())


@intrinsic
def layer_norm_row(typingctx, x, weight, bias, n, n_padded, out):
    """out = layer norm of one row of n channels; all pointers to n_padded float32."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        x, weight, bias, out = args[0], args[1], args[2], args[5]
        n, n_padded = emit.value(args[3]), emit.value(args[4])
        n_vectors = n_padded.shifted_right(4)
        n_float, n_zeros = (count.converted("sitofp", F32) for count in (n, n_padded - n))
        mean = _total(emit, n_vectors, lambda at: emit.load(x, at, FLOATS)) / n_float
        means = emit.splat(mean)

        def squared(at):
            centred = emit.load(x, at, FLOATS) - means
            return centred * centred

        # The zeros behind the row have been counted, each with the mean's square.
        variance = (_total(emit, n_vectors, squared) - n_zeros * mean * mean) / n_float
        root = emit.call("llvm.sqrt.f32", F32, variance + EPSILON)
        inverse = emit.splat(emit.constant(F32, 1.0) / root)
        with emit.loop(n_vectors) as i:
            at = i * (4 * LANES)
            scaled = (emit.load(x, at, FLOATS) - means) * inverse
            emit.store(emit.fma(scaled, emit.load(weight, at, FLOATS), emit.load(bias, at, FLOATS)), out, at)
        return context.get_dummy_value()

    return types.void(x, weight, bias, types.intp, types.intp, out), codegen


@intrinsic
def mix_row(typingctx, x, before, share, n_blocks, wanted, row):
    """Write share * x + (1 - share) * before into a vector row, as a matrix wants it."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        x, before, share, row = args[0], args[1], args[2], args[5]
        n_blocks, wanted = emit.value(args[3]), emit.value(args[4])
        with emit.loop(n_blocks) as block:
            halves = []
            for at in (block * (4 * lay.BLOCK), block * (4 * lay.BLOCK) + 4 * LANES):
                s, b = emit.load(share, at, FLOATS), emit.load(before, at, FLOATS)
                rest = b * (emit.constant(FLOATS, 1.0) - s)
                halves.append(emit.fma(emit.load(x, at, FLOATS), s, rest))
            emit_block(emit, halves, row, n_blocks, block, wanted)
        return context.get_dummy_value()

    return types.void(x, before, share, types.intp, types.intp, row), codegen

"""Passes over a row of logits: find the largest, gather those of at least a bound, sum all weights.

Each pass reads the whole vocabulary, so each is vectorized: 64 logits take one comparison, and adding up
the weights of 65,536 takes 50 microseconds. sample.py works on the few logits that are left.

A row is padded to whole chunks with -inf, which has no weight and is below every bound.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.emit import FLOATS, I16, I64, LANES, Emit, Variable
from rwkv_np.kernels.pointers import address
from rwkv_np.kernels.weights import weights

CHUNK = 1024  # logits whose weights are summed together
GROUP = 4 * LANES  # logits compared at once: one bit of an int64 for each

_jit = jit(nogil=True, error_model="numpy")
_weight = jit(nogil=True, error_model="numpy")(weights)


@intrinsic
def _chunk_maxima(typingctx, place, maxima):
    """maxima = the largest logits of a chunk, lane by lane; NaN counts as inf."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        largest = Variable(emit, emit.constant(FLOATS, -math.inf))
        with emit.loop(emit.constant(I64, CHUNK // LANES)) as i:
            x, found = emit.load(args[0], i * (4 * LANES), FLOATS), largest.get()
            x = (x >= -math.inf).choose(x, emit.constant(FLOATS, math.inf))
            largest.set((found < x).choose(x, found))
        emit.store(largest.get(), args[1], 0)
        return context.get_dummy_value()

    return types.void(place, maxima), codegen


@intrinsic
def _at_least(typingctx, place, bound):
    """Which logits of a group are at least `bound`: one bit for each."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        bound, bits = emit.splat(emit.value(args[1])), emit.constant(I64, 0)
        for i in range(GROUP // LANES):
            found = (emit.load(args[0], 4 * LANES * i, FLOATS) >= bound).as_kind(I16)
            bits = bits | (found.converted("zext", I64) << (LANES * i))
        return bits.llvm

    return types.int64(place, types.float32), codegen


@intrinsic
def _lowest_bit(typingctx, bits):
    """The index of the lowest 1 bit of an int64 that is not 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@_jit
def find_largest(x, n_chunks, maxima):
    """The largest logit, inf if one is NaN; maxima (n_chunks * LANES,): the largest of each 64, which are 16 apart."""
    largest = np.float32(-np.inf)
    for chunk in range(n_chunks):
        _chunk_maxima(address(x, chunk * CHUNK * 4), address(maxima, chunk * LANES * 4))
    for i in range(n_chunks * LANES):
        largest = max(largest, maxima[i])
    return largest


@_jit
def first(x, value):
    """The lowest id with that logit, which must occur."""
    at = 0
    while _at_least(address(x, at * 4), value) == 0:
        at += GROUP
    return at + _lowest_bit(_at_least(address(x, at * 4), value))


@_jit
def weigh(x, largest, scale, out):
    """out = the weights of x; returns their sum."""
    total = 0
    for i in range(x.size):
        weight = _weight(np.float64(x[i]), largest, scale)
        out[i] = weight
        total += weight
    return total


@_jit
def weigh_chunks(x, n_chunks, largest, scale, sums):
    """sums = the sum of weights of each chunk; returns that of all."""
    total = 0
    for chunk in range(n_chunks):
        weight = 0
        for i in range(chunk * CHUNK, (chunk + 1) * CHUNK):
            weight += _weight(np.float64(x[i]), largest, scale)
        sums[chunk] = weight
        total += weight
    return total


@_jit
def gather(x, n_padded, bound, ids, kept):
    """Collect the ids and logits of tokens whose logit is at least `bound`; returns how many."""
    n = 0
    for at in range(0, n_padded, GROUP):
        bits = _at_least(address(x, at * 4), bound)
        while bits != 0:
            token = at + _lowest_bit(bits)
            ids[n], kept[n] = token, x[token]
            bits &= bits - 1
            n += 1
    return n

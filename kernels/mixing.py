"""Layer norm of a token, and its mix with the token before, which is the input of a matrix.

Both read a few thousand floats and take about a microsecond. So nothing should go through memory in
between, and a mixed vector is quantized where it is computed.

A row has `n` channels, padded with zeros to whole blocks of 32; weights and biases are zero there.
References: `equations.layer_norm`, `equations.mix`, `equations.lerp`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import batch as b
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import N_BLOCKS, ROWS_SIZE, Rows, Target, emit_block, put_vector
from rwkv_np.kernels.emit import F32, FLOATS, I64, LANES, Emit, Variable
from rwkv_np.kernels.equations import EPSILON
from rwkv_np.kernels.pointers import beyond, copy_bytes, number
from rwkv_np.kernels.program import Job, compile_op

# Tokens that one thread normalizes together. It also normalizes the token before the first, unless a
# sequence begins there. With a smaller number, a step of many sequences would be shared out better.
RUN = 4
# Sequences whose last tokens one item stores in their states.
KEPT_TOGETHER = 4


class Floats(NamedTuple):
    """A float32 array (tokens, n) in the scratch: its start, and bytes from row to row."""

    start: int
    stride: int


class Norm(NamedTuple):
    """A layer norm: where weight and bias are, the number of channels, and that number with padding."""

    weight: int
    bias: int
    n: int
    n_padded: int


class Mix(NamedTuple):
    """The mix for one matrix: where its shares are, and the rows it is written to."""

    share: int
    rows: Rows


def _total(emit, n_vectors, term):
    """The sum of `term(byte offset)` over a row, added in the same order on every target."""
    total = Variable(emit, emit.constant(FLOATS, 0.0))
    with emit.loop(n_vectors) as i:
        total.set(total.get() + term(i * (4 * LANES)))
    return emit.sum(total.get())


@intrinsic
def layer_norm_row(typingctx, x, weight, bias, n, n_padded, out):
    """out = layer norm of one row of n channels; all pointers to n_padded float32. `out` may be x."""

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

        # The padding was summed too: each zero added the square of the mean.
        variance = (_total(emit, n_vectors, squared) - n_zeros * mean * mean) / n_float
        root = emit.call("llvm.sqrt.f32", F32, variance + EPSILON)
        inverse = emit.splat(emit.constant(F32, 1.0) / root)
        with emit.loop(n_vectors) as i:
            at = i * (4 * LANES)
            scaled = (emit.load(x, at, FLOATS) - means) * inverse
            emit.store(emit.fma(scaled, emit.load(weight, at, FLOATS), emit.load(bias, at, FLOATS)), out, at)
        return context.get_dummy_value()

    return types.void(x, weight, bias, types.intp, types.intp, out), codegen


def _mix(emit, x, before, share):
    return emit.fma(x, share, before * (emit.constant(FLOATS, 1.0) - share))


def _lerp(emit, x, before, share):
    return emit.fma(before - x, share, x)


MIXED_BY = {"mix": _mix, "lerp": _lerp}


@intrinsic(prefer_literal=True)
def mix_row(typingctx, equation, x, before, share, rows, scratch, token, n_tokens):
    """Write the mix of x and `before` by the `equation`, a literal, as a matrix's input vector for that token."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        x, before, share, rows = args[1:5]
        target = Target(emit, rows, args[5], emit.value(args[6]), emit.value(args[7]))
        with emit.loop(emit.load(rows, 8 * N_BLOCKS, I64)) as block:
            halves = []
            for at in (block * (4 * lay.BLOCK), block * (4 * lay.BLOCK) + 4 * LANES):
                loaded = [emit.load(pointer, at, FLOATS) for pointer in (x, before, share)]
                halves.append(MIXED_BY[equation.literal_value](emit, *loaded))
            emit_block(emit, halves, target, block)
        return context.get_dummy_value()

    return types.void(equation, x, before, share, rows, scratch, types.intp, types.intp), codegen


# --- norm: x = layer norm of x, in place -----------------------------------------------------------

X, X_STRIDE, WEIGHT, BIAS, N, N_PADDED = range(6)


def _norm(args, weights, scratch, states, logits, batch, item, rank):
    x = beyond(scratch, number(args, X) + item * number(args, X_STRIDE))
    weight, bias = beyond(weights, number(args, WEIGHT)), beyond(weights, number(args, BIAS))
    layer_norm_row(x, weight, bias, number(args, N), number(args, N_PADDED), x)


def norm_job(x: Floats, norm: Norm) -> Job:
    """x = layer norm of x, for every token."""
    return Job(_compiled("norm").address, (*x, *norm), per=1)


# --- norm for the head: input vectors of the tokens that need logits -------------------------------

NORMED, NORMED_STRIDE, ROWS = range(6, 9)


def _norm_wanted(args, weights, scratch, states, logits, batch, item, rank):
    token = number(batch, b.WANTED + item)
    x = beyond(scratch, number(args, X) + token * number(args, X_STRIDE))
    weight, bias = beyond(weights, number(args, WEIGHT)), beyond(weights, number(args, BIAS))
    out = beyond(scratch, number(args, NORMED) + rank * number(args, NORMED_STRIDE))
    layer_norm_row(x, weight, bias, number(args, N), number(args, N_PADDED), out)
    put_vector(out, beyond(args, 8 * ROWS), scratch, item, number(batch, b.N_WANTED))


def norm_wanted_job(x: Floats, norm: Norm, normed: Floats, rows: Rows) -> Job:
    """rows[i] = layer norm of the i-th token that needs logits. `normed`: two rows per thread."""
    return Job(_compiled("norm_wanted").address, (*x, *norm, *normed, *rows), "wanted", per=1)


# --- norm and mixes --------------------------------------------------------------------------------

SHIFT, LAST, LAST_STRIDE, TRAIL, TRAIL_STRIDE, KEPT, KEPT_STRIDE, N_MIXES, MIXES = range(8, 17)
SHARE, MIX_ROWS = range(2)
MIX_SIZE = MIX_ROWS + ROWS_SIZE


def _norm_and_mix_by(equation):
    def norm_and_mix(args, weights, scratch, states, logits, batch, item, rank):
        n, n_padded = number(args, N), number(args, N_PADDED)
        weight, bias = beyond(weights, number(args, WEIGHT)), beyond(weights, number(args, BIAS))
        normed = beyond(scratch, number(args, NORMED) + rank * number(args, NORMED_STRIDE))
        n_tokens = number(batch, b.N_TOKENS)
        start, end = item * RUN, min((item + 1) * RUN, n_tokens)
        begins = start == number(batch, b.FIRST + number(batch, b.SEQUENCE + start))
        for token in range(start if begins else start - 1, end):
            x = beyond(scratch, number(args, X) + token * number(args, X_STRIDE))
            out = beyond(normed, (token & 1) * 4 * n_padded)
            layer_norm_row(x, weight, bias, n, n_padded, out)
            if token < start:
                continue  # the token before this item's first: it is only read; another item mixes it
            sequence = number(batch, b.SEQUENCE + token)
            before = beyond(normed, (1 - (token & 1)) * 4 * n_padded)
            if token == number(batch, b.FIRST + sequence):
                before = beyond(states, number(batch, b.STATE + sequence) + number(args, SHIFT))
            if number(batch, b.MODE) == b.KEPT:
                copy_bytes(out, 4 * n_padded, beyond(scratch, number(args, TRAIL) + token * number(args, TRAIL_STRIDE)))
            if number(args, KEPT_STRIDE) > 0:
                copy_bytes(out, 4 * n_padded, beyond(scratch, number(args, KEPT) + token * number(args, KEPT_STRIDE)))
            for i in range(number(args, N_MIXES)):
                mix = beyond(args, 8 * (MIXES + MIX_SIZE * i))
                share = beyond(weights, number(mix, SHARE))
                mix_row(equation, out, before, share, beyond(mix, 8 * MIX_ROWS), scratch, token, n_tokens)
            if token + 1 == number(batch, b.FIRST + sequence + 1):
                # Not into the state yet: another thread may still read the state for the first token.
                last = beyond(scratch, number(args, LAST) + sequence * number(args, LAST_STRIDE))
                copy_bytes(out, 4 * n_padded, last)

    return norm_and_mix


def norm_and_mix_job(
    x: Floats, norm: Norm, normed: Floats, shift: int, last: Floats, trail: Floats, mixes: Sequence[Mix],
    equation: str = "mix", kept: Floats | None = None,
) -> Job:  # fmt: skip
    """Layer norm, then the mixes with the token before, one for each matrix.

    shift     where the state of a sequence stores the normed vector of the token before its first
    last      a row for each sequence: the normed vector of its last token; `keep_job` copies it to the state
    trail     a row for each token of a pass that may be cut: its normed vector, for `keep_job`
    equation  "mix" or "lerp", of equations.py
    kept      where to store the normed vectors of all tokens, if something reads them
    """
    kept = kept or Floats(0, 0)
    numbers = [n for mix in mixes for n in (mix.share, *mix.rows)]
    args = (*x, *norm, *normed, shift, *last, *trail, *kept, len(mixes), *numbers)
    return Job(_compiled(equation).address, args, per=RUN)


# --- keep ------------------------------------------------------------------------------------------

KEEP_LAST, KEEP_STRIDE, KEEP_TRAIL, KEEP_TRAIL_STRIDE, KEEP_SHIFT, KEEP_BYTES = range(6)


def _keep(args, weights, scratch, states, logits, batch, item, rank):
    n_bytes, n_sequences = number(args, KEEP_BYTES), number(batch, b.N_SEQUENCES)
    for sequence in range(item * KEPT_TOGETHER, min((item + 1) * KEPT_TOGETHER, n_sequences)):
        last = beyond(scratch, number(args, KEEP_LAST) + sequence * number(args, KEEP_STRIDE))
        if number(batch, b.MODE) == b.REPLAY:
            n_counting = b.n_counting(batch, sequence)
            if n_counting == 0:
                continue
            token = number(batch, b.FIRST + sequence) + n_counting - 1
            last = beyond(scratch, number(args, KEEP_TRAIL) + token * number(args, KEEP_TRAIL_STRIDE))
        copy_bytes(last, n_bytes, beyond(states, number(batch, b.AFTER + sequence) + number(args, KEEP_SHIFT)))


def keep_job(last: Floats, trail: Floats, shift: int, n_padded: int) -> Job:
    """Store the last token of each sequence in its state; in a phase after the mixes, when all have read the state.

    If the pass is cut, the last token that counts is taken from the trail.
    """
    return Job(_compiled("keep").address, (*last, *trail, shift, 4 * n_padded), "sequences", per=KEPT_TOGETHER)


_OPS = {
    "norm": _norm, "norm_wanted": _norm_wanted, "keep": _keep,
    **{equation: _norm_and_mix_by(equation) for equation in MIXED_BY},
}  # fmt: skip


@functools.cache
def _compiled(op):
    return compile_op(_OPS[op])

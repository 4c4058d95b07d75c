"""RWKV-6's mix: the token itself decides, channel by channel, how much of the token before goes in.

The share of a channel is a constant plus the product of a thin matrix with a few numbers z of the
token. An item is 32 channels of all tokens and of all mixes: one tile of each thin matrix, a few KB.
The input rows of the following matrices are written at once.

Reference: `equations.lerp`, with different shares for each token.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import batch as b
from rwkv_np.kernels.activations import ROWS_SIZE, Rows, Target, emit_block
from rwkv_np.kernels.emit import FLOATS, LANES, Emit
from rwkv_np.kernels.layout import TILE_ROWS
from rwkv_np.kernels.mixing import Floats
from rwkv_np.kernels.pointers import beyond, number
from rwkv_np.kernels.products import MATRIX_SIZE, Matrix, multiply
from rwkv_np.kernels.program import Job, compile_op


class LoraMix(NamedTuple):
    """A mix: the thin matrix and the rows of its z; where the constant shares are; the rows to write."""

    matrix: Matrix
    z: Rows
    share: int
    rows: Rows


@intrinsic
def lerp_block(typingctx, x, before, share, moved, block, rows, scratch, token, n_tokens):
    """Write x + (before - x) * (share + moved) into a block of a vector; `moved` is 32 floats, the rest whole rows."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        x, before, share, moved = args[:4]
        block, token, n_tokens = (emit.value(args[i]) for i in (4, 7, 8))
        halves = []
        for half in range(2):
            at = block * (4 * TILE_ROWS) + 4 * LANES * half
            this = emit.load(x, at, FLOATS)
            s = emit.load(share, at, FLOATS) + emit.load(moved, 4 * LANES * half, FLOATS)
            halves.append(emit.fma(emit.load(before, at, FLOATS) - this, s, this))
        emit_block(emit, halves, Target(emit, args[5], args[6], token, n_tokens), block)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(x, before, share, moved, intp, rows, scratch, intp, intp), codegen


# The numbers of a job: these, then those of each mix.
X, X_STRIDE, SHIFT, LANES_START, LANES_STRIDE, N_MIXES, MIXES = range(7)
Z = MATRIX_SIZE
SHARE, ROWS = Z + ROWS_SIZE, Z + ROWS_SIZE + 1
MIX_SIZE = ROWS + ROWS_SIZE


def _lora_mix(args, weights, scratch, states, logits, batch, item, rank):
    n_tokens, stride = number(batch, b.N_TOKENS), number(args, X_STRIDE)
    lanes = beyond(scratch, number(args, LANES_START) + rank * number(args, LANES_STRIDE))
    for i in range(number(args, N_MIXES)):
        mix = beyond(args, 8 * (MIXES + MIX_SIZE * i))
        z, share = beyond(mix, 8 * Z), beyond(weights, number(mix, SHARE))
        multiply(mix, weights, item, z, scratch, n_tokens, lanes, TILE_ROWS)
        for token in range(n_tokens):
            sequence = number(batch, b.SEQUENCE + token)
            if token == number(batch, b.FIRST + sequence):
                before = beyond(states, number(batch, b.STATE + sequence) + number(args, SHIFT))
            else:
                before = beyond(scratch, number(args, X) + (token - 1) * stride)
            x, moved = beyond(scratch, number(args, X) + token * stride), beyond(lanes, token * TILE_ROWS * 4)
            lerp_block(x, before, share, moved, item, beyond(mix, 8 * ROWS), scratch, token, n_tokens)


@functools.cache
def _compiled():
    return compile_op(_lora_mix)


def lora_mix_job(x: Floats, shift: int, lanes: Floats, mixes: Sequence[LoraMix]) -> Job:
    """For each mix: rows = lerp of x and the token before, by the share plus the matrix's product with z.

    shift  where the state of a sequence stores x of the token before its first
    """
    numbers = []
    for matrix, z, share, rows in mixes:
        numbers += [*matrix.numbers, *z, share, *rows]
    args = (*x, shift, *lanes, len(mixes), *numbers)
    return Job(_compiled().address, args, items=mixes[0].matrix.n_tiles)

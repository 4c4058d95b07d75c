"""RWKV-4's recurrence: an average of past values v, weighted by keys k that decay by e^w per token.

Channels are independent, so 32 of them run through all tokens at once, directly where the matrix
products left r, k and v, and the result is gated and quantized in registers. It uses the stable
form of the paper (arXiv 2305.13048, appendix D): a and b are divided by e^p, where p is the largest
exponent so far. Of each pair e^(x - max(x, y)), e^(y - max(x, y)) one is always 1, so a single
exponential gives both.

Reference: `equations.wkv4`, gated by `equations.sigmoid`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import batch as b
from rwkv_np.kernels.activations import ROWS_SIZE, Rows, Target, emit_block
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.emit import FLOATS, LANES, Emit, Variable
from rwkv_np.kernels.exponential import exp_negative, sigmoid
from rwkv_np.kernels.layout import TILE_ROWS
from rwkv_np.kernels.pointers import beyond, number
from rwkv_np.kernels.products import MATRIX_SIZE, Matrix, multiply
from rwkv_np.kernels.program import Job, compile_op


def _weigh(emit, past, present):
    """(e^(past - q), e^(present - q), q) where q is the larger of both exponents."""
    past_leads = past >= present
    q = past_leads.choose(past, present)
    fading = exp_negative(emit, past_leads.choose(present - past, past - present))
    one = emit.constant(FLOATS, 1.0)
    return past_leads.choose(one, fading), past_leads.choose(fading, one), q


class _Lanes:
    """16 channels that run through the tokens."""

    def __init__(self, emit, constants, state, state_stride, at):
        self.emit, self.state, self.at, self.stride = emit, state, at, state_stride
        self.w, self.u = (emit.load(pointer, at, FLOATS) for pointer in constants)
        self.a, self.b, self.p = (Variable(emit, emit.load(state, self._place(i), FLOATS)) for i in range(3))

    def _place(self, i):
        return self.stride * (4 * i) + self.at

    def step(self, k, v, r):
        """Process one token; returns the output of its channels."""
        emit, a, b, p = self.emit, self.a.get(), self.b.get(), self.p.get()
        # === Read: the past, and the present with its bonus u === #
        past, present, _ = _weigh(emit, p, self.u + k)
        out = emit.fma(past, a, present * v) / emit.fma(past, b, present)
        # === Decay and write === #
        past, present, q = _weigh(emit, p + self.w, k)
        self.a.set(emit.fma(past, a, present * v))
        self.b.set(emit.fma(past, b, present))
        self.p.set(q)
        return out * sigmoid(emit, r)

    def keep(self):
        """Write the state back."""
        for i, value in enumerate((self.a, self.b, self.p)):
            self.emit.store(value.get(), self.state, self._place(i))


@intrinsic
def wkv_block(typingctx, k, v, r, first, end, n_tokens, w, u, state, n_padded, block, rows, scratch):
    """Run 32 channels (`block`) of one sequence, the tokens first .. end of n_tokens, and write the outputs.

    Shapes   k, v, r (end - first, 32) float32; w, u (n_padded,); state (3, n_padded), changed in place
    """

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        w, u, state, rows, scratch = (args[i] for i in (6, 7, 8, 11, 12))
        first, end, n_tokens, n_padded, block = (emit.value(args[i]) for i in (3, 4, 5, 9, 10))
        starts = [block * (4 * TILE_ROWS) + 4 * LANES * half for half in range(2)]
        lanes = [_Lanes(emit, (w, u), state, n_padded, at) for at in starts]
        with emit.loop(end - first) as t:
            halves = []
            for i, half in enumerate(lanes):
                place = t * (4 * TILE_ROWS) + 4 * LANES * i
                halves.append(half.step(*(emit.load(kvr, place, FLOATS) for kvr in args[:3])))
            emit_block(emit, halves, Target(emit, rows, scratch, first + t, n_tokens), block)
        for half in lanes:
            half.keep()
        return context.get_dummy_value()

    intp = types.intp
    return types.void(k, v, r, intp, intp, intp, w, u, state, intp, intp, rows, scratch), codegen


# The numbers of a job: three matrices, the Rows of each, then these.
ROWS = 3 * MATRIX_SIZE
LANES_START = ROWS + 3 * ROWS_SIZE
DECAY, FIRST, STATE, N_PADDED, OUT = range(LANES_START + 4, LANES_START + 9)


@jit(error_model="numpy")
def _state_after(args, batch, states, sequence, block):
    """Where the state of a sequence is changed; the 32 channels of `block` begin as they were."""
    state, row, size = number(args, STATE), 4 * number(args, N_PADDED), 4 * TILE_ROWS
    for i in range(3):
        b.memory_after(batch, states, sequence, state + i * row + block * size, size)
    return beyond(states, number(batch, b.AFTER + sequence) + state)


def _time_mix(args, weights, scratch, states, logits, batch, item, rank):
    n_tokens = number(batch, b.N_TOKENS)
    lanes = b.work_area(args, LANES_START, batch, scratch, item, rank)
    for i in range(3 if number(batch, b.MODE) != b.REPLAY else 0):
        matrix, rows = beyond(args, 8 * MATRIX_SIZE * i), beyond(args, 8 * (ROWS + ROWS_SIZE * i))
        out = beyond(lanes, i * n_tokens * TILE_ROWS * 4)
        multiply(matrix, weights, item, rows, scratch, n_tokens, out, TILE_ROWS)
    decay, bonus = beyond(weights, number(args, DECAY)), beyond(weights, number(args, FIRST))
    for sequence in range(number(batch, b.N_SEQUENCES)):
        first, n_counting = number(batch, b.FIRST + sequence), b.n_counting(batch, sequence)
        if n_counting == 0:
            continue
        k, v, r = (
            beyond(lanes, first * TILE_ROWS * 4),
            beyond(lanes, (n_tokens + first) * TILE_ROWS * 4),
            beyond(lanes, (2 * n_tokens + first) * TILE_ROWS * 4),
        )
        state = _state_after(args, batch, states, sequence, item)
        wkv_block(
            k, v, r, first, first + n_counting, n_tokens, decay, bonus, state, number(args, N_PADDED), item,
            beyond(args, 8 * OUT), scratch,
        )  # fmt: skip


@functools.cache
def _compiled():
    return compile_op(_time_mix)


def wkv4_job(
    kvr: Sequence[Matrix], rows: Sequence[Rows], lanes: b.WorkAreas, decay: int, bonus: int, state: int,
    n_padded: int, out: Rows,
) -> Job:  # fmt: skip
    """out = sigmoid(r) * wkv(k, v), where k, v, r are the products of three matrices with their rows.

    lanes         space for three products
    decay, bonus  where w and u are in the weights
    state         where a, b, p are in the state of a sequence, n_padded floats each
    """
    numbers = [n for matrix in kvr for n in matrix.numbers]
    places = (*(n for of in rows for n in of), *lanes, decay, bonus, state, n_padded)
    return Job(_compiled().address, (*numbers, *places, *out), items=kvr[0].n_tiles)

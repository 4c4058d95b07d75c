"""Everything RWKV-7 does with a head between its matrices: from r, k, v, ... to the output matrix's input.

An item is a head, or as many heads as fill whole blocks of 32 channels, with all tokens of all
sequences. A few tokens at a time are processed: decay, keys of length 1 and the share of the first
layer's v go into a work area of the thread (`prepare_head`), then the memory (`wkv7.py`), then norm,
bonus and gate (`finish_head`), and the result is quantized at once. So none of it leaves the L1 cache.

Heads may have any size: if one does not fill whole blocks, its channels are copied and padded with zeros.

References: `equations.decay7`, `unit_length`, `lerp`, `wkv7`, `group_norm`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import batch as b
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import N_BLOCKS, ROWS_SIZE, Rows, put_blocks
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.emit import F32, FLOATS, INTS, LANES, Emit, Variable
from rwkv_np.kernels.equations import HEAD_EPSILON
from rwkv_np.kernels.exponential import exp_negative, sigmoid
from rwkv_np.kernels.mixing import Floats
from rwkv_np.kernels.pointers import beyond, clear_bytes, copy_bytes, number
from rwkv_np.kernels.program import Job, compile_op
from rwkv_np.kernels.wkv7 import FOUND_BY, N_VECTORS, OUT, REPLACE, K, R, V, W, ask_for, wkv7

# Tokens in the work area: with S they still fit into an L1 cache of 48 KB.
TOGETHER = 8
TINIEST_LENGTH = 1e-12


def _vectors(emit, n_padded):
    """Loop over a head's vectors of 16 channels; yields the offset of each."""
    return emit.loop(n_padded.shifted_right(4))


def _sum(emit, n_padded, term):
    """The sum of `term(byte offset)`, added in the same order on every target."""
    total = Variable(emit, emit.constant(FLOATS, 0.0))
    with _vectors(emit, n_padded) as i:
        total.set(total.get() + term(i * (4 * LANES)))
    return emit.sum(total.get())


@intrinsic
def prepare_head(typingctx, r, w, k, a, w0, a0, k_k, k_a, n_padded, work):
    """Compute the memory's inputs from the products, for one token; `blend` or a copy provides its v.

    All pointers are to n_padded float32, `work` to N_VECTORS times as many.
    """

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        r, w, k, a, w0, a0, k_k, k_a, work = *args[:8], args[9]
        n_padded = emit.value(args[8])
        one = emit.constant(FLOATS, 1.0)

        def key(at):
            return emit.load(k, at, FLOATS) * emit.load(k_k, at, FLOATS)

        length = emit.call("llvm.sqrt.f32", F32, _sum(emit, n_padded, lambda at: key(at) * key(at)))
        length = (length < TINIEST_LENGTH).choose(TINIEST_LENGTH, length)
        inverse = emit.splat(emit.constant(F32, 1.0) / length)
        with _vectors(emit, n_padded) as i:
            at = i * (4 * LANES)
            decay = exp_negative(emit, sigmoid(emit, emit.load(w, at, FLOATS) + emit.load(w0, at, FLOATS)) * -0.606531)
            rate = sigmoid(emit, emit.load(a, at, FLOATS) + emit.load(a0, at, FLOATS))
            kk = key(at) * inverse
            grown = emit.load(k, at, FLOATS) * emit.fma(rate - one, emit.load(k_a, at, FLOATS), one)
            found = {R: emit.load(r, at, FLOATS), W: decay, K: grown, FOUND_BY: kk * -1.0, REPLACE: kk * rate}
            for which, value in found.items():
                emit.store(value, work, n_padded * (4 * which) + at)
        return context.get_dummy_value()

    return types.void(r, w, k, a, w0, a0, k_k, k_a, types.intp, work), codegen


@intrinsic
def blend(typingctx, v, first, share, v0, n_padded, out):
    """out = v, and sigmoid(share + v0) of the way to `first`; all pointers to n_padded float32."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        n_padded = emit.value(args[4])
        with _vectors(emit, n_padded) as i:
            at = i * (4 * LANES)
            v, first, share, v0 = (emit.load(pointer, at, FLOATS) for pointer in args[:4])
            emit.store(emit.fma(first - v, sigmoid(emit, share + v0), v), args[5], at)
        return context.get_dummy_value()

    return types.void(v, first, share, v0, types.intp, out), codegen


def _only(emit, value, at, n):
    """Keep the lanes of channels below n; zero the others."""
    channel = at.shifted_right(2).converted("trunc", INTS.element)
    channels = emit.splat(channel) + emit.value(ir.Constant(INTS, list(range(LANES))))
    return (channels < emit.splat(n.converted("trunc", INTS.element))).choose(value, emit.constant(FLOATS, 0.0))


@intrinsic
def finish_head(typingctx, work, gate, r_k, weight, bias, n, n_padded, out):
    """out = (norm of the memory's output + bonus * v) * gate, for one token of a head of n channels."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        work, gate, r_k, weight, bias, out = *args[:5], args[7]
        n, n_padded = emit.value(args[5]), emit.value(args[6])
        n_float = n.converted("sitofp", F32)

        def load(which, at):
            return emit.load(work, n_padded * (4 * which) + at, FLOATS)

        mean = emit.splat(_sum(emit, n_padded, lambda at: load(OUT, at)) / n_float)

        def centred(at):
            return _only(emit, load(OUT, at) - mean, at, n)

        variance = _sum(emit, n_padded, lambda at: centred(at) * centred(at)) / n_float
        inverse = emit.splat(emit.constant(F32, 1.0) / emit.call("llvm.sqrt.f32", F32, variance + HEAD_EPSILON))
        bonus = emit.splat(_sum(emit, n_padded, lambda at: load(R, at) * load(K, at) * emit.load(r_k, at, FLOATS)))
        with _vectors(emit, n_padded) as i:
            at = i * (4 * LANES)
            normed = emit.fma(centred(at) * inverse, emit.load(weight, at, FLOATS), emit.load(bias, at, FLOATS))
            emit.store(emit.fma(bonus, load(V, at), normed) * emit.load(gate, at, FLOATS), out, at)
        return context.get_dummy_value()

    return types.void(work, gate, r_k, weight, bias, types.intp, types.intp, out), codegen


# --- op --------------------------------------------------------------------------------------------


class Heads(NamedTuple):
    """How the channels are divided: `group` heads of n channels fill whole blocks of 32."""

    n_head: int
    n: int
    n_padded: int
    group: int

    @classmethod
    def of(cls, n_head: int, head_size: int) -> Heads:
        """The division into the smallest such groups."""
        group = lay.BLOCK // math.gcd(head_size, lay.BLOCK)
        return cls(n_head, head_size, lay.round_up(head_size, lay.BLOCK), group)

    @property
    def n_items(self) -> int:
        return -(-self.n_head // self.group)

    @property
    def out_stride(self) -> int:
        """Bytes of a token's results: the group's channels, then the last head's padding."""
        return 4 * (self.group * self.n + self.n_padded)

    @property
    def kept_bytes(self) -> int:
        """Bytes that an item needs to keep the vectors of all tokens of a pass that may be cut."""
        return 4 * self.group * b.MOST_KEPT * N_VECTORS * self.n_padded

    @property
    def work_bytes(self) -> int:
        """Bytes that a thread needs."""
        return TOGETHER * (4 * N_VECTORS * self.n_padded + self.out_stride) + 4 * N_INPUTS * self.n_padded


class Vectors(NamedTuple):
    """Where vectors of the weights begin, one row of n_padded per head; the first layer does not read v0."""

    w0: int
    a0: int
    v0: int
    k_k: int
    k_a: int
    r_k: int
    weight: int
    bias: int


# The inputs, in the order of a job's arguments; without the first layer's v the last two are not read.
IN_R, IN_W, IN_K, IN_V, IN_A, IN_GATE, IN_FIRST, IN_SHARE, N_INPUTS = range(9)
N_HEAD, N, N_PADDED, GROUP, HAS_FIRST, STATE, WORK, WORK_STRIDE, KEPT, KEPT_STRIDE, OUT_STRIDE, ROWS = range(12)
VECTORS = ROWS + ROWS_SIZE
INPUTS = VECTORS + len(Vectors._fields)
W0, A0, V0, K_K, K_A, R_K, WEIGHT, BIAS = range(VECTORS, INPUTS)


@jit(error_model="numpy")
def _input(which, args, scratch, token, head, gathered):
    """Where the channels of a head and its zero padding are: copied, unless they fill whole blocks."""
    n, n_padded = number(args, N), number(args, N_PADDED)
    start, stride = number(args, INPUTS + 2 * which), number(args, INPUTS + 2 * which + 1)
    place = beyond(scratch, start + token * stride + head * 4 * n)
    copy = beyond(gathered, which * 4 * n_padded)
    if n == n_padded:
        return place
    copy_bytes(place, 4 * n, copy)
    return copy


@jit(error_model="numpy")
def _vector(which, args, weights, head):
    return beyond(weights, number(args, which) + head * 4 * number(args, N_PADDED))


@jit(error_model="numpy")
def _prepare(args, weights, scratch, token, head, gathered, work):
    n_padded = number(args, N_PADDED)
    prepare_head(
        _input(IN_R, args, scratch, token, head, gathered), _input(IN_W, args, scratch, token, head, gathered),
        _input(IN_K, args, scratch, token, head, gathered), _input(IN_A, args, scratch, token, head, gathered),
        _vector(W0, args, weights, head), _vector(A0, args, weights, head),
        _vector(K_K, args, weights, head), _vector(K_A, args, weights, head), n_padded, work,
    )  # fmt: skip
    v, out = _input(IN_V, args, scratch, token, head, gathered), beyond(work, 4 * V * n_padded)
    if number(args, HAS_FIRST) == 0:
        copy_bytes(v, 4 * n_padded, out)
        return
    first = _input(IN_FIRST, args, scratch, token, head, gathered)
    share = _input(IN_SHARE, args, scratch, token, head, gathered)
    blend(v, first, share, _vector(V0, args, weights, head), n_padded, out)


@jit(error_model="numpy")
def _run_head(args, weights, scratch, start, n_tokens, head, state, work, gathered, results, mode):
    """Run some tokens of a sequence through one head; `results` is where the first token's channels go."""
    n, n_padded = number(args, N), number(args, N_PADDED)
    size = 4 * N_VECTORS * n_padded
    if mode == b.REPLAY:
        wkv7(work, n_tokens, n, n_padded, state)
        return
    for t in range(n_tokens):
        _prepare(args, weights, scratch, start + t, head, gathered, beyond(work, t * size))
    wkv7(work, n_tokens, n, n_padded, state)
    r_k, weight, bias = (
        _vector(R_K, args, weights, head), _vector(WEIGHT, args, weights, head), _vector(BIAS, args, weights, head)
    )  # fmt: skip
    for t in range(n_tokens):
        gate = _input(IN_GATE, args, scratch, start + t, head, gathered)
        out = beyond(results, t * number(args, OUT_STRIDE))
        finish_head(beyond(work, t * size), gate, r_k, weight, bias, n, n_padded, out)


@jit(error_model="numpy")
def _vectors_of(args, scratch, item, head, token, mode, work):
    """Where the vectors of a head and its tokens from `token` on are: in the work area, or where they are kept."""
    if mode == b.PLAIN:
        return work
    at = ((head - item * number(args, GROUP)) * b.MOST_KEPT + token) * 4 * N_VECTORS * number(args, N_PADDED)
    return beyond(scratch, number(args, KEPT) + item * number(args, KEPT_STRIDE) + at)


def _heads(args, weights, scratch, states, logits, batch, item, rank):
    n, n_padded, group = number(args, N), number(args, N_PADDED), number(args, GROUP)
    work = beyond(scratch, number(args, WORK) + rank * number(args, WORK_STRIDE))
    gathered = beyond(work, TOGETHER * 4 * N_VECTORS * n_padded)
    results = beyond(gathered, 4 * N_INPUTS * n_padded)
    first_head, end_head = item * group, min((item + 1) * group, number(args, N_HEAD))
    if n != n_padded:
        # The padding of the channels, and of the last head if it ends within a block.
        clear_bytes(gathered, 4 * N_INPUTS * n_padded + TOGETHER * number(args, OUT_STRIDE))
    first_block = item * group * n // lay.BLOCK
    count = min(group * n // lay.BLOCK, number(args, ROWS + N_BLOCKS) - first_block)
    state_bytes, mode = 4 * n * n_padded, number(batch, b.MODE)
    for sequence in range(number(batch, b.N_SEQUENCES)):
        first, n_counting = number(batch, b.FIRST + sequence), b.n_counting(batch, sequence)
        if n_counting == 0:
            continue
        place, n_bytes = number(args, STATE) + first_head * state_bytes, (end_head - first_head) * state_bytes
        ask_for(beyond(states, number(batch, b.STATE + sequence) + place), n_bytes)
        state = b.memory_after(batch, states, sequence, place, n_bytes)
        for start in range(first, first + n_counting, TOGETHER):
            n_tokens = min(TOGETHER, first + n_counting - start)
            for head in range(first_head, end_head):
                of_head = beyond(state, (head - first_head) * state_bytes)
                vectors = _vectors_of(args, scratch, item, head, start, mode, work)
                out = beyond(results, (head - first_head) * 4 * n)
                _run_head(args, weights, scratch, start, n_tokens, head, of_head, vectors, gathered, out, mode)
            for t in range(n_tokens if mode != b.REPLAY else 0):
                x, rows = beyond(results, t * number(args, OUT_STRIDE)), beyond(args, 8 * ROWS)
                put_blocks(x, first_block, count, rows, scratch, start + t, number(batch, b.N_TOKENS))


@functools.cache
def _compiled():
    return compile_op(_heads)


def heads_job(
    heads: Heads, inputs: Sequence[Floats], vectors: Vectors, has_first: bool, state: int, work: b.WorkAreas, out: Rows
) -> Job:
    """out = the output of all RWKV-7 heads for r, w, k, v, a, gate, the first layer's v, and its share.

    inputs     these eight, as products before their constants are added; the last two only if `has_first`
    state      where the memories are in the state of a sequence, (n_head, n, n_padded)
    work       heads.work_bytes for each thread, heads.kept_bytes for each item
    """
    sizes = (*heads, int(has_first), state, *work, heads.out_stride)
    args = (*sizes, *out, *vectors, *(n for place in inputs for n in place))
    return Job(_compiled().address, args, items=heads.n_items)

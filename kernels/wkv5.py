"""RWKV-5's and 6's time mix of a head, from its products to the rows of the next matrix.

The memory of a head is a matrix S from keys to values. It is stored as [key][value], with lanes along
the values: then every product with r, k, w is one number times a vector, and no sum crosses lanes.
RWKV-5's decay is one number per channel, RWKV-6's one per channel and token; this is the only
difference here.

An item is a *group*: as many heads as fill whole tiles of 32 channels, one if a head has 64.
It does all work of a head: the products, the recurrence, the norm, the gate, the rounding to
int8. S takes 16 KB and stays in the L1 cache for all tokens of a sequence. Four tokens use each
row of it at once, with the same operations in the same order as one token.

Reference: `equations.wkv5`, `equations.group_norm`, `equations.silu`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import batch as b
from rwkv_np.kernels.activations import ROWS_SIZE, Rows, Target, emit_block
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.emit import F32, FLOATS, LANES, Emit, Variable
from rwkv_np.kernels.exponential import exp, exp_negative, sigmoid
from rwkv_np.kernels.groupnorm import bits_of, first_lanes, group_norm_row
from rwkv_np.kernels.layout import BLOCK, TILE_ROWS, round_up
from rwkv_np.kernels.pointers import beyond, number
from rwkv_np.kernels.products import MATRIX_SIZE, Matrix, multiply
from rwkv_np.kernels.program import Job, compile_op
from rwkv_np.kernels.wkv7 import ask_for

TOGETHER = 4  # tokens that use a row of S at once
PAIR = 2 * LANES  # values processed at once: two vectors
ASKED_FOR = 8  # sequences whose memories are prefetched: more would not stay in the L2 cache


# --- the recurrence --------------------------------------------------------------------------------


class _Step:
    """One step of a few tokens through S, for one head."""

    def __init__(self, emit, arrays, strides, n, first, count):
        self.emit, self.n, self.count = emit, n, count
        self.r, self.k, self.v, self.w, self.u = arrays
        self.stride, self.w_stride = strides
        self.rows = [(first + i) * self.stride for i in range(count)]
        self.w_rows = [(first + i) * self.w_stride for i in range(count)]

    def bonuses(self):
        """For each token the share of its own v in its output: the sum of r u k, in the same order on every target."""
        emit = self.emit
        found = []
        for row in self.rows:
            total = Variable(emit, emit.constant(FLOATS, 0.0))
            with emit.loop((self.n + (LANES - 1)).shifted_right(4)) as i:
                at = i * (4 * LANES)
                r, k = (emit.load(array, row + at, FLOATS) for array in (self.r, self.k))
                product = r * (emit.load(self.u, at, FLOATS) * k)
                inside = first_lanes(emit, self.n, i * LANES)
                total.set(total.get() + inside.choose(product, emit.constant(FLOATS, 0.0)))
            found.append(emit.splat(emit.sum(total.get())))
        return found

    def values(self, start):
        """v of each token, two vectors from the channel `start` on, zeros after the head."""
        emit = self.emit
        ats = [start + LANES * half for half in range(2)]
        masks = [first_lanes(emit, self.n, at) for at in ats]
        zero = emit.constant(FLOATS, 0.0)
        return [
            [mask.choose(emit.load(self.v, row + at * 4, FLOATS), zero) for at, mask in zip(ats, masks)]
            for row in self.rows
        ]

    def past_row(self, key, s, v, sums):
        """All tokens read and update a row of S, two vectors; returns the new row."""
        emit = self.emit
        for i in range(self.count):
            r, k = (emit.splat(emit.load(a, self.rows[i] + key * 4, F32)) for a in (self.r, self.k))
            w = emit.splat(emit.load(self.w, self.w_rows[i] + key * 4, F32))
            for half in range(2):
                # === Read, then decay and write === #
                sums[i][half].set(emit.fma(r, s[half], sums[i][half].get()))
                s[half] = emit.fma(w, s[half], k * v[i][half])
        return s


def _emit_tokens(emit, arrays, strides, n, n_padded, state, out, first, count):
    step = _Step(emit, arrays, strides, n, first, count)
    bonuses = step.bonuses()
    with emit.loop(n_padded.shifted_right(5)) as pair:
        v = step.values(pair * PAIR)
        sums = [[Variable(emit, bonus * half) for half in halves] for bonus, halves in zip(bonuses, v)]
        with emit.loop(n) as key:
            places = [(key * n_padded + pair * PAIR) * 4 + 4 * LANES * half for half in range(2)]
            s = step.past_row(key, [emit.load(state, place, FLOATS) for place in places], v, sums)
            for half, place in zip(s, places):
                emit.store(half, state, place)
        for i, halves in enumerate(sums):
            for half, total in enumerate(halves):
                place = ((first + i) * n_padded + pair * PAIR) * 4 + 4 * LANES * half
                emit.store(total.get(), out, place)


@intrinsic
def wkv5_head(typingctx, r, k, v, w, u, n_tokens, stride, w_stride, n, n_padded, state, out):
    """Run the tokens of one sequence through the memory of one head.

    Shapes   r, k, v: n float32 per token, `stride` bytes from token to token; w likewise with `w_stride`, which
             is 0 if all tokens share it; u (n,); state (n, n_padded), changed in place; out (n_tokens, n_padded),
             zeros after n. n_padded is a multiple of 32. Of r, k, v, u up to 31 floats after the head are
             read and not used
    """

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        arrays, state, out = args[:5], args[10], args[11]
        n_tokens, stride, w_stride, n, n_padded = (emit.value(args[i]) for i in range(5, 10))
        common = (emit, arrays, (stride, w_stride), n, n_padded, state, out)
        n_groups = n_tokens / TOGETHER
        with emit.loop(n_groups) as group:
            _emit_tokens(*common, group * TOGETHER, TOGETHER)
        done = n_groups * TOGETHER
        with emit.loop(n_tokens - done) as rest:
            _emit_tokens(*common, done + rest, 1)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(r, k, v, w, u, intp, intp, intp, intp, intp, state, out), codegen


# --- before and after the recurrence -------------------------------------------------------------------------


@intrinsic
def decay_row(typingctx, x, start, n_vectors):
    """x = exp(-exp(start + x)), in place, for n_vectors times 16 floats."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        with emit.loop(emit.value(args[2])) as i:
            at = i * (4 * LANES)
            w = emit.load(args[0], at, FLOATS) + emit.load(args[1], at, FLOATS)
            emit.store(exp_negative(emit, exp(emit, w) * -1.0), args[0], at)
        return context.get_dummy_value()

    return types.void(x, start, types.intp), codegen


@intrinsic
def clear_behind(typingctx, x):
    """Set 32 floats to zero."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        for half in range(2):
            emit.store(emit.constant(FLOATS, 0.0), args[0], 4 * LANES * half)
        return context.get_dummy_value()

    return types.void(x), codegen


@intrinsic(prefer_literal=True)
def put_gated(typingctx, is_gated, y, gate, first, n, rows, scratch, token, n_tokens):
    """Write y, times silu(gate) if the literal `is_gated` is true, as the blocks `first` .. first + n of a vector."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        y, gate, rows, scratch = (args[i] for i in (1, 2, 5, 6))
        first, n, token, n_tokens = (emit.value(args[i]) for i in (3, 4, 7, 8))
        target = Target(emit, rows, scratch, token, n_tokens)
        with emit.loop(n) as block:
            halves = []
            for half in range(2):
                at = block * (4 * BLOCK) + 4 * LANES * half
                value = emit.load(y, at, FLOATS)
                if is_gated.literal_value:
                    g = emit.load(gate, at, FLOATS)
                    value = value * (g * sigmoid(emit, g))
                halves.append(value)
            emit_block(emit, halves, target, first + block)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(is_gated, y, gate, intp, intp, rows, scratch, intp, intp), codegen


# --- the op ----------------------------------------------------------------------------------------


class Heads(NamedTuple):
    """How the channels of a time mix are divided: heads, channels per head, and heads per item."""

    n_head: int
    head_size: int
    per_item: int

    @classmethod
    def of(cls, n_head: int, head_size: int) -> Heads:
        """The smallest number of heads per item that fills whole tiles."""
        return cls(n_head, head_size, TILE_ROWS // math.gcd(TILE_ROWS, head_size))

    @property
    def n_items(self) -> int:
        return -(-self.n_head // self.per_item)

    @property
    def width(self) -> int:
        """Channels of an item, a multiple of 32."""
        return self.per_item * self.head_size

    def room(self, n_products: int, n_tokens: int) -> int:
        """Bytes that an item needs for that many tokens: the products, the output of a head, and normed rows."""
        floats = n_products * self.width + round_up(self.head_size, BLOCK) + self.width + 2 * BLOCK
        return 4 * (n_tokens * floats + 2 * BLOCK)


# The numbers of a job: these, then for each matrix its numbers and those of its Rows.
N_HEAD, HEAD_SIZE, PER_ITEM, N_TILES, LANES_START = range(5)
DECAY, BONUS, WEIGHT, BIAS, EPSILON, STATE, OUT = range(8, 15)
PRODUCTS = OUT + ROWS_SIZE
ROWS = MATRIX_SIZE
PRODUCT_SIZE = ROWS + ROWS_SIZE


@jit(error_model="numpy")
def _multiply_all(args, weights, scratch, n_products, item, n_tiles, n_tokens, lanes):
    """The products of an item's channels with all tokens: contiguous arrays (n_tokens, width)."""
    width = number(args, PER_ITEM) * number(args, HEAD_SIZE)
    first, size = item * (width // TILE_ROWS), n_tokens * width * 4
    for tile in range(n_tiles):
        for i in range(n_products):
            matrix = beyond(args, 8 * (PRODUCTS + PRODUCT_SIZE * i))
            rows, out = beyond(matrix, 8 * ROWS), beyond(lanes, i * size + tile * TILE_ROWS * 4)
            multiply(matrix, weights, first + tile, rows, scratch, n_tokens, out, width)


@jit(error_model="numpy")
def _ask_for_memory(args, states, batch, head, n_heads):
    """Prefetch S while the weights are multiplied: both come from memory."""
    size = _memory_bytes(args)
    for sequence in range(min(ASKED_FOR, number(batch, b.N_SEQUENCES))):
        place = number(batch, b.STATE + sequence) + number(args, STATE) + head * size
        ask_for(beyond(states, place), n_heads * size)


@jit(error_model="numpy")
def _memory_bytes(args):
    n = number(args, HEAD_SIZE)
    return 4 * n * _padded(n)


@jit(error_model="numpy")
def _padded(n):
    return (n + BLOCK - 1) // BLOCK * BLOCK


@jit(error_model="numpy")
def _remember(args, states, batch, head, products, size, stride, w, w_stride, bonus, out):
    """Run all sequences through their memories of one head; `products` points to its r of the first token."""
    n = number(args, HEAD_SIZE)
    n_padded = _padded(n)
    for sequence in range(number(batch, b.N_SEQUENCES)):
        first, n_counting = number(batch, b.FIRST + sequence), b.n_counting(batch, sequence)
        if n_counting == 0:
            continue
        size_of_memory, at = _memory_bytes(args), first * stride
        place = number(args, STATE) + head * size_of_memory
        memory = b.memory_after(batch, states, sequence, place, size_of_memory)
        wkv5_head(
            beyond(products, at), beyond(products, size + at), beyond(products, 2 * size + at),
            beyond(w, first * w_stride), bonus, n_counting, stride, w_stride, n, n_padded,
            memory, beyond(out, first * n_padded * 4),
        )  # fmt: skip


@jit(error_model="numpy")
def _norm(args, weight, bias, n_tokens, heads, normed, normed_bytes):
    """Write the norm of one head to its channels in rows of an item's width."""
    n = number(args, HEAD_SIZE)
    n_padded = _padded(n)
    for token in range(n_tokens):
        row = beyond(normed, token * normed_bytes)
        clear_behind(beyond(row, n * 4))  # a block may extend past the last head
        x = beyond(heads, token * n_padded * 4)
        group_norm_row(x, weight, bias, n, n_padded, number(args, EPSILON), row)


@functools.cache
def _compiled(is_gated, is_moving):
    n_products, w_product = 3 + is_gated + is_moving, 3 + is_gated

    def time_mix(args, weights, scratch, states, logits, batch, item, rank):
        n_tokens, n, per_item = number(batch, b.N_TOKENS), number(args, HEAD_SIZE), number(args, PER_ITEM)
        first_head, width = item * per_item, per_item * n
        n_heads = min(per_item, number(args, N_HEAD) - first_head)
        first_tile, stride, size = item * (width // TILE_ROWS), 4 * width, n_tokens * width * 4
        n_tiles = min(width // TILE_ROWS, number(args, N_TILES) - first_tile)
        lanes, is_replay = b.work_area(args, LANES_START, batch, scratch, item, rank), number(batch, b.MODE) == b.REPLAY
        heads = beyond(lanes, n_products * size)
        normed, normed_bytes = beyond(heads, n_tokens * _padded(n) * 4), stride + 8 * BLOCK
        _ask_for_memory(args, states, batch, first_head, n_heads)
        if not is_replay:
            _multiply_all(args, weights, scratch, n_products, item, n_tiles, n_tokens, lanes)
        w, w_stride = beyond(weights, number(args, DECAY) + item * stride), 0
        if is_moving:
            moved, start = beyond(lanes, w_product * size), w
            for token in range(0 if is_replay else n_tokens):
                decay_row(beyond(moved, token * stride), start, n_tiles * (TILE_ROWS // LANES))
            w, w_stride = moved, stride
        for head in range(n_heads):
            at = head * n * 4
            of_weights = item * stride + at
            bonus = beyond(weights, number(args, BONUS) + of_weights)
            place, decays = beyond(lanes, at), beyond(w, at)
            _remember(args, states, batch, first_head + head, place, size, stride, decays, w_stride, bonus, heads)
            weight = beyond(weights, number(args, WEIGHT) + of_weights)
            bias = beyond(weights, number(args, BIAS) + of_weights)
            if not is_replay:
                _norm(args, weight, bias, n_tokens, heads, beyond(normed, at), normed_bytes)
        for token in range(0 if is_replay else n_tokens):
            gate = beyond(lanes, 3 * size + token * stride)  # not used if there is no gate
            put_gated(
                is_gated, beyond(normed, token * normed_bytes), gate, first_tile, n_tiles,
                beyond(args, 8 * OUT), scratch, token, n_tokens,
            )  # fmt: skip

    return compile_op(time_mix)


class Product(NamedTuple):
    """A matrix, and the rows it is multiplied with."""

    matrix: Matrix
    rows: Rows


def time_mix_job(
    heads: Heads, products: Sequence[Product], lanes: b.WorkAreas, decay: int, bonus: int, norm: tuple[int, int],
    epsilon: float, state: int, out: Rows, is_gated: bool, is_moving: bool,
) -> Job:  # fmt: skip
    """out = norm of wkv(r, k, v), times silu(g) if it is gated.

    products      of r, k, v; then of g if gated; then of the term added to the decay if the decay varies by token
    lanes         areas of heads.room(...) bytes
    decay, bonus  where w (as log(-log(w)) if it varies by token) and u of each channel are in the weights
    norm          where weight and bias of the norm are in the weights
    state         where the first head's S is in the state of a sequence
    """
    numbers = [n for matrix, rows in products for n in (*matrix.numbers, *rows)]
    places = (*heads, products[0].matrix.n_tiles, *lanes, decay, bonus, *norm, bits_of(epsilon), state)
    job = _compiled(int(is_gated), int(is_moving))
    return Job(job.address, (*places, *out, *numbers), items=heads.n_items)

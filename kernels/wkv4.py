"""RWKV-4's recurrence: an average of past values v, weighted by keys k that fade with e^w a token.

Every channel is on its own, so 32 of them run through all tokens at once, right where the
matrix products left r, k and v, and what comes out is gated and quantized in the registers.
It keeps the stable form of the paper (arXiv 2305.13048, appendix D): a and b are divided by
e^p, p the largest exponent so far. Of each pair e^(x - max(x, y)), e^(y - max(x, y)) one is
always 1: a single exponential gives both.
"""

import numpy as np
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels.activations import emit_block
from rwkv_np.kernels.emit import FLOATS, LANES, Emit, Variable
from rwkv_np.kernels.exponential import exp_negative, sigmoid
from rwkv_np.kernels.layout import TILE_ROWS


def wkv_reference(r, k, v, w, u, state):
    """The definition, in float64: sigmoid(r) * wkv (T, C); state (3, C) = a, b, p, changed in place."""
    a, b, p = state.astype(np.float64)
    out = np.empty(k.shape)
    for t in range(len(k)):
        # === Read: the past, and the present with its bonus u === #
        q = np.maximum(p, u + k[t])
        past, present = np.exp(p - q), np.exp(u + k[t] - q)
        out[t] = (past * a + present * v[t]) / (past * b + present) / (1 + np.exp(-r[t].astype(np.float64)))
        # === Decay and write === #
        q = np.maximum(p + w, k[t])
        past, present = np.exp(p + w - q), np.exp(k[t] - q)
        a, b, p = past * a + present * v[t], past * b + present, q
    state[:] = a, b, p
    return out


def _weigh(emit, past, present):
    """(e^(past - q), e^(present - q), q) with q the larger of both exponents."""
    past_leads = past >= present
    q = past_leads.choose(past, present)
    fading = exp_negative(emit, past_leads.choose(present - past, past - present))
    one = emit.constant(FLOATS, 1.0)
    return past_leads.choose(one, fading), past_leads.choose(fading, one), q


class _Lanes:
    """16 channels on their way through the tokens."""

    def __init__(self, emit, constants, state, state_stride, at):
        self.emit, self.state, self.at, self.stride = emit, state, at, state_stride
        self.w, self.u = (emit.load(pointer, at, FLOATS) for pointer in constants)
        self.a, self.b, self.p = (Variable(emit, emit.load(state, self._place(i), FLOATS)) for i in range(3))

    def _place(self, i):
        return self.stride * (4 * i) + self.at

    def step(self, k, v, r):
        """Take in one token; what its channels give."""
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
def wkv_block(typingctx, kvr, n_tokens, w, u, state, n_padded, block, n_blocks, wanted, rows, row_bytes):
    """Run 32 channels (`block`) through n_tokens and write what comes out into their vector rows.

    Shapes   kvr (3, n_tokens, 32) float32; w, u (n_padded,); state (3, n_padded), changed in place
    """

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        kvr, w, u, state, rows = (args[i] for i in (0, 2, 3, 4, 9))
        n_tokens, n_padded, block, n_blocks, wanted, row_bytes = (
            emit.value(args[i]) for i in (1, 5, 6, 7, 8, 10)
        )
        starts = [block * (4 * TILE_ROWS) + 4 * LANES * half for half in range(2)]
        lanes = [_Lanes(emit, (w, u), state, n_padded, at) for at in starts]
        with emit.loop(n_tokens) as t:
            halves = []
            for i, half in enumerate(lanes):
                places = [(n_tokens * which + t) * (4 * TILE_ROWS) + 4 * LANES * i for which in range(3)]
                halves.append(half.step(*(emit.load(kvr, place, FLOATS) for place in places)))
            row = emit.builder.gep(rows, [(row_bytes * t).llvm])
            emit_block(emit, halves, row, n_blocks, block, wanted)
        for half in lanes:
            half.keep()
        return context.get_dummy_value()

    intp = types.intp
    return types.void(kvr, intp, w, u, state, intp, intp, intp, intp, rows, intp), codegen

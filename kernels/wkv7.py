"""RWKV-7's memory: a matrix S for each head, from keys to values; each token decays, corrects and reads it.

    found = S kk          what the old S has for this key, by value
    S = S diag(w) - found (kk a)T + v kT
    out = S r

S is stored as [key][value] with 16 values in the lanes of a vector, so every factor from the key's
side is one broadcast number, and no sum ever crosses lanes. 32 values run through all tokens before
the next 32 do: their part of S stays in the L1 cache.

A token needs `found` before it may write. While S is written for one token, `found` for the next token
is summed in the same pass, which saves reading S again; for the first token, and so for a single token,
it is summed in a separate pass. Both add the same numbers in the same order, so the bits of a token's
result depend only on the tokens before it. (0.23 us per token and head of 64 channels; with two passes
for every token 0.36.)

Reference: `equations.wkv7`.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels.emit import F32, FLOATS, I64, LANES, Emit, Variable
from rwkv_np.kernels.layout import BLOCK

# The vectors of a token in the work area of a thread: a head's channels, padded with zeros to whole blocks
# of 32. FOUND_BY is -kk, REPLACE is kk a.
R, W, K, V, FOUND_BY, REPLACE, OUT, N_VECTORS = range(8)
LINE = 64  # bytes
UNROLLED = 4  # keys per iteration of the loop; with 2 it takes 0.26 us instead of 0.23


class _Token:
    """A token's vectors in the work area."""

    def __init__(self, emit, work, t, n_padded):
        self.emit, self.work, self.start, self.size = emit, work, t * n_padded * (4 * N_VECTORS), n_padded * 4

    def key_side(self, which, j):
        """The j-th number of a vector, in all lanes."""
        return self.emit.splat(self.emit.load(self.work, self.start + self.size * which + j * 4, F32))

    def value_side(self, which, at):
        """16 numbers of a vector from `at` bytes on."""
        return self.emit.load(self.work, self.start + self.size * which + at, FLOATS)

    def put(self, value, at):
        """Store a part of the output."""
        self.emit.store(value, self.work, self.start + self.size * OUT + at)


class _Lanes:
    """32 values of S, for all keys, that run through the tokens."""

    def __init__(self, emit, state, n, n_padded, at):
        self.emit, self.state, self.n, self.row = emit, state, n, n_padded * 4
        self.places = [at, at + 4 * LANES]
        self.found = self._zeros()

    def _zeros(self):
        return [Variable(self.emit, self.emit.constant(FLOATS, 0.0)) for _ in self.places]

    def _load(self, j):
        return [self.emit.load(self.state, self.row * j + at, FLOATS) for at in self.places]

    def _for_each_key(self, step):
        """Emit `step(j)` for all keys, in order."""
        with self.emit.loop(self.n.shifted_right(UNROLLED.bit_length() - 1)) as turn:
            for i in range(UNROLLED):
                step(turn * UNROLLED + i)
        whole = self.n & -UNROLLED
        with self.emit.loop(self.n - whole) as j:
            step(whole + j)

    def _add(self, sums, rows, factor):
        for total, row in zip(sums, rows):
            total.set(self.emit.fma(row, factor, total.get()))

    def look_up(self, token):
        """found = S kk, in a separate pass."""

        def step(j):
            self._add(self.found, self._load(j), token.key_side(FOUND_BY, j))

        self._for_each_key(step)

    def take_in(self, token, following):
        """Update S with one token and read it; `found` becomes that of the next token, if any."""
        emit, out, coming = self.emit, self._zeros(), self._zeros()
        found = [value.get() for value in self.found]
        values = [token.value_side(V, at) for at in self.places]

        def step(j):
            w, b, k = (token.key_side(which, j) for which in (W, REPLACE, K))
            rows = []
            for row, f, v, at in zip(self._load(j), found, values, self.places):
                rows.append(emit.fma(v, k, emit.fma(f, b, row * w)))
                emit.store(rows[-1], self.state, self.row * j + at)
            self._add(out, rows, token.key_side(R, j))
            if following:
                self._add(coming, rows, following.key_side(FOUND_BY, j))

        self._for_each_key(step)
        for total, at in zip(out, self.places):
            token.put(total.get(), at)
        for value, total in zip(self.found, coming):
            value.set(total.get())


@intrinsic
def wkv7(typingctx, work, n_tokens, n, n_padded, state):
    """Update the memory of one head with at least one token, and write what each token reads.

    Shapes   work (n_tokens, N_VECTORS, n_padded) float32; state (n, n_padded), changed in place
    """

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        work, state = args[0], args[4]
        n_tokens, n, n_padded = (emit.value(args[i]) for i in (1, 2, 3))
        last = n_tokens - 1
        with emit.loop(n_padded / BLOCK) as block:
            lanes = _Lanes(emit, state, n, n_padded, block * (4 * BLOCK))
            lanes.look_up(_Token(emit, work, emit.constant(I64, 0), n_padded))
            with emit.loop(last) as t:
                lanes.take_in(_Token(emit, work, t, n_padded), _Token(emit, work, t + 1, n_padded))
            lanes.take_in(_Token(emit, work, last, n_padded), None)
        return context.get_dummy_value()

    return types.void(work, types.intp, types.intp, types.intp, state), codegen


@intrinsic
def ask_for(typingctx, place, n_bytes):
    """Prefetch memory into the L2 cache."""

    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        with emit.loop(emit.value(args[1]).shifted_right(LINE.bit_length() - 1)) as line:
            emit.prefetch(args[0], line * LINE, level=2)
        return context.get_dummy_value()

    return types.void(place, types.intp), codegen

"""RWKV-7's head kernels against the equations: heads that fill whole blocks, and heads that do not."""

import numpy as np
import pytest
from rwkv_np.kernels import batch as b
from rwkv_np.kernels import equations, heads
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import WANTS_FLOAT, WANTS_INT8, Rows, parts_reference, quantize_reference
from rwkv_np.kernels.mixing import Floats
from rwkv_np.kernels.program import Team, assemble

# (heads, channels of one): whole blocks, several heads in a block, blocks across heads, a last block half full.
SIZES = [(2, 64), (3, 32), (8, 8), (3, 8), (4, 48), (3, 48), (1, 5), (2, 100)]
RUNS = (3, 1, 2 * heads.TOGETHER + 1)  # tokens of each sequence


class Case:
    """Random inputs for all heads, with the expected and the actual results."""

    def __init__(self, n_head, n, runs=RUNS, has_first=True, seed=0):
        rng = np.random.default_rng(seed)
        self.n_head, self.n, self.runs, self.has_first = n_head, n, runs, has_first
        self.n_tokens, c = sum(runs), n_head * n
        self.inputs = rng.standard_normal((heads.N_INPUTS, self.n_tokens, c)).astype(np.float32)
        self.vectors = rng.standard_normal((len(heads.Vectors._fields), n_head, n)).astype(np.float32)
        self.states = rng.standard_normal((len(runs), n_head, n, n)).astype(np.float32)

    def expected(self):
        """The definition, in float64: (tokens, channels), and the states."""
        shape = (self.n_tokens, self.n_head, self.n)
        r, w, k, v, a, gate, first, share = (x.reshape(shape).astype(np.float64) for x in self.inputs)
        w0, a0, v0, k_k, k_a, r_k, weight, bias = self.vectors.astype(np.float64)
        w, a = equations.decay7(w + w0), equations.sigmoid(a + a0)
        v = equations.lerp(v, first, equations.sigmoid(share + v0)) if self.has_first else v
        kk, k = equations.unit_length(k * k_k), k * (1 + (a - 1) * k_a)
        states, out, start = self.states.astype(np.float64), np.empty(shape), 0
        for state, n_tokens in zip(states, self.runs):
            part = slice(start, start + n_tokens)
            out[part] = equations.wkv7(*(x[part] for x in (r, w, k, v, kk, a)), state)
            start += n_tokens
        out = equations.group_norm(out, weight, bias) + (r * k * r_k).sum(axis=-1, keepdims=True) * v
        return (out * gate).reshape(self.n_tokens, -1), states

    def run(self, n_threads=1, wants=WANTS_FLOAT):
        """The output matrix's input vectors: their float32 values; the states; and their int8 parts."""
        cut = heads.Heads.of(self.n_head, self.n)
        n_padded, c = cut.n_padded, self.n_head * self.n
        n_blocks = lay.n_blocks_of(c)
        sizes = [
            self.inputs.nbytes, self.n_tokens * 4 * lay.BLOCK * n_blocks, self.n_tokens * lay.vector_bytes(n_blocks),
            n_threads * cut.work_bytes,
        ]  # fmt: skip
        starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        scratch = np.full(starts[-1], 0xFF, np.uint8)  # NaN wherever memory is read before it is written
        scratch[: self.inputs.nbytes] = self.inputs.view(np.uint8).reshape(-1)
        inputs = [Floats(i * self.inputs[0].nbytes, 4 * c) for i in range(heads.N_INPUTS)]
        vectors, states = (self._padded(x, n_padded) for x in (self.vectors, self.states))
        places = heads.Vectors(*(i * vectors[0].nbytes for i in range(len(vectors))))
        rows = Rows(starts[2], starts[1], 4 * lay.BLOCK * n_blocks, n_blocks, wants, 8)
        work = b.WorkAreas(starts[3], cut.work_bytes, 0, 0)
        job = heads.heads_job(cut, inputs, places, self.has_first, 0, work, rows)
        batch = b.new_batch()
        b.fill(batch, np.array([(n, i * states[0].nbytes, 0, i * states[0].nbytes) for i, n in enumerate(self.runs)]))
        with Team(assemble([[job]]), n_threads) as team:
            team.run(vectors.reshape(-1).view(np.uint8), scratch, states, np.empty((1, 1), np.float32), batch)
        values = scratch[starts[1] : starts[2]].view(np.float32).reshape(self.n_tokens, -1)
        return values, states, parts_reference(scratch, rows, self.n_tokens)

    @staticmethod
    def _padded(x, n_padded):
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n_padded - x.shape[-1])])


@pytest.mark.parametrize("has_first", [True, False], ids=["later layer", "first layer"])
@pytest.mark.parametrize(("n_head", "n"), SIZES)
def test_heads_match_the_equations(n_head, n, has_first):
    case = Case(n_head, n, has_first=has_first)
    found, states, _ = case.run()
    expected, expected_states = case.expected()
    # A norm divides by the standard deviation, which may be small for five channels.
    np.testing.assert_allclose(found[:, : n_head * n], expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert (found[:, n_head * n :] == 0).all()
    np.testing.assert_allclose(states[..., :n], expected_states, rtol=0, atol=2e-5)
    assert (states[..., n:] == 0).all()


@pytest.mark.parametrize(("n_head", "n"), [(2, 64), (3, 48)])
def test_one_token_after_the_other_gives_the_same_bits(n_head, n):
    case = Case(n_head, n, runs=(2 * heads.TOGETHER + 3,))
    expected, expected_states, _ = case.run()
    part = Case(n_head, n, runs=(1,))
    part.vectors, part.states = case.vectors, case.states
    for t in range(case.n_tokens):
        part.inputs = np.ascontiguousarray(case.inputs[:, t : t + 1])
        found, states, _ = part.run()
        part.states = states[..., :n]
        np.testing.assert_array_equal(found[0], expected[t])
    np.testing.assert_array_equal(states, expected_states)


def test_rows_are_quantized_where_the_matrix_wants_it():
    case = Case(2, 64)
    values, _, (quants, numbers) = case.run(wants=WANTS_FLOAT | WANTS_INT8)
    expected, scales = quantize_reference(values)
    np.testing.assert_array_equal(quants, expected)
    np.testing.assert_array_equal(numbers[lay.SCALES].view(np.float32), scales)
    _, _, (only, _) = case.run(wants=WANTS_INT8)
    np.testing.assert_array_equal(only, quants)


def test_a_key_of_zeros_is_not_a_division_by_zero():
    case = Case(2, 64)
    case.vectors[heads.Vectors._fields.index("k_k")] = 0
    found, _, _ = case.run()
    expected, _ = case.expected()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())

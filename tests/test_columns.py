"""Matrices that are stored by columns: the bits of the other layout, for any activity, on every path."""

import numpy as np
import pytest
from emulated_amx import Emulated, kernel_of
from kernel_cases import FORMATS, matmul_reference, product_bound, random_rows
from numba import njit
from rwkv_np.kernels import amx_tile, dispatch
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import N_BLOCKS, WANTS_INT8, quantize_reference
from rwkv_np.kernels.column_products import column_kernel_addresses, count_active, emit_column_product
from rwkv_np.kernels.columns import ROWS, Columns, fits, pack_columns, place_columns
from rwkv_np.kernels.matmul import PackedMatrix, PackedVectors, matmul, multiply_tile, vectors_for
from rwkv_np.kernels.pack import place_alone
from rwkv_np.kernels.pointers import address, call_kernel
from rwkv_np.kernels.tiles import COUNTS, most_together
from synthetic import write_synthetic

from rwkv_np.models import load, places

PATHS = dispatch.available_paths()
STORED = [name for name, row in FORMATS.items() if fits(row.layout, ROWS, lay.BLOCK)]
N_ROWS = 2 * ROWS


@njit
def _multiply(kernels, tiles, rows, memory, out, is_sparse):
    for t in range(tiles.shape[0]):
        tile, result = address(tiles, t * tiles.shape[1]), address(out, t * 512)
        x, stride = address(memory, 0), out.shape[1]
        if is_sparse:
            call_kernel(kernels[-1], tile, x, x, 0, rows[N_BLOCKS], result, stride)
        else:
            multiply_tile(address(kernels, 0), tile, address(rows, 0), x, out.shape[0], result, stride)


class ByColumns:
    """The same matrix in both layouts."""

    def __init__(self, format, path, n_in, rng, raw=None):
        row = FORMATS[format]
        self.raw = random_rows(format, N_ROWS, n_in, rng) if raw is None else raw
        place = place_columns(row.layout, N_ROWS, n_in)
        self.tiles = np.empty((place.n_tiles, place.tile_bytes), np.uint8)
        pack_columns(self.raw, row, n_in, self.tiles.reshape(-1), place)
        self.kernels = column_kernel_addresses(format, path)
        self.together = most_together(path)
        self.other = PackedMatrix.from_file(self.raw, format, n_in, path)

    def product(self, x, is_sparse=False):
        """x (count, n_in) times the matrix; `is_sparse`: one vector after the other, active columns only."""
        out = np.full((len(x), N_ROWS), np.nan, np.float32)
        for part in [slice(i, i + 1) for i in range(len(x))] if is_sparse else [slice(None)]:
            vectors = PackedVectors.of(x[part], WANTS_INT8, self.together)
            _multiply(self.kernels, self.tiles, np.array(vectors.rows), vectors.memory, out[part], is_sparse)
        return out


def activations(n_in, rng):
    """Squares, of which none, one, 5 %, half or all are not zero, at random and in whole blocks: (count, n_in)."""
    x = rng.standard_normal((9, n_in)).astype(np.float32) ** 2 + np.float32(0.1)
    is_active = np.zeros(x.shape, bool)
    is_active[1, n_in - 1] = True
    for i, share in enumerate((0.05, 0.11, 0.5, 1.0)):
        is_active[2 + i] = rng.random(n_in) < share
    is_active[6, :32] = is_active[7, -64:] = is_active[8, 64:70] = True
    return np.where(is_active, x, np.float32(0))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", STORED)
def test_products_have_the_bits_of_the_other_layout(format, path):
    rng = np.random.default_rng(0)
    for n_in in (96, 544):  # fewer blocks than are prefetched, and more
        matrix, x = ByColumns(format, path, n_in, rng), activations(n_in, rng)
        expected = matmul(matrix.other, x)
        np.testing.assert_array_equal(matrix.product(x), expected)
        np.testing.assert_array_equal(matrix.product(x, is_sparse=True), expected)
        bound = product_bound(matrix.raw, format, n_in, x)
        assert (np.abs(expected - matmul_reference(matrix.raw, format, n_in, x)) <= bound).all()


@pytest.mark.skipif("vnni" not in PATHS, reason="the other vectors need AVX-512 VNNI")
@pytest.mark.parametrize("format", ["Q4_0", "Q5_1", "Q8_0"])
def test_sums_through_registers_of_amx_have_the_same_bits(format, monkeypatch):
    monkeypatch.setattr(amx_tile.AmxTile, "instructions", Emulated)
    rng = np.random.default_rng(0)
    for n_in in (32, 96):
        matrix = ByColumns(format, "vnni", n_in, rng)
        x = np.concatenate([activations(n_in, rng) for _ in range(6)])[:51]  # 32, 16, 2 and 1
        expected = matmul(matrix.other, x)
        for count in (16, 32):
            matrix.kernels[COUNTS.index(count)] = kernel_of(emit_column_product, format, count).address
        matrix.together = 32
        np.testing.assert_array_equal(matrix.product(x), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", STORED)
def test_the_largest_quants_and_activations_do_not_overflow(format, path):
    row = FORMATS[format]
    blocks = np.full((N_ROWS, 3 * row.block.itemsize), {"Q8_0": 0x80}.get(format, 0xFF), np.uint8).view(row.block)
    for field in set(row.block.fields) & {"d", "m"}:
        blocks[field] = 1
    matrix = ByColumns(format, path, 96, None, blocks.view(np.uint8).reshape(N_ROWS, -1))
    x = np.ones((1, 96), np.float32)
    for is_sparse in (False, True):
        np.testing.assert_array_equal(matrix.product(x, is_sparse), matmul(matrix.other, x))


@pytest.mark.parametrize("path", PATHS)
def test_infinite_and_nan_activations_reach_the_result(path):
    rng = np.random.default_rng(0)
    matrix = ByColumns("Q4_1", path, 96, rng)
    x = activations(96, rng)
    x[0, 40], x[1, 3] = np.nan, np.inf
    found = matrix.product(x, is_sparse=True)
    np.testing.assert_array_equal(found, matmul(matrix.other, x))
    assert np.isnan(found[:2]).all() and np.isfinite(found[2:]).all()


@njit
def _count(memory, n_blocks):
    return count_active(address(memory, 0), n_blocks)


def test_active_columns_are_those_whose_rounded_activation_is_not_zero():
    rng = np.random.default_rng(0)
    matrix, x = ByColumns("Q4_0", PATHS[0], 96, rng), activations(96, rng)
    x[5, :32] = 0
    x[5, 0], x[5, 1] = 1000, 1  # 1 is rounded to zero
    quants, found = quantize_reference(x)[0], [_count(vectors_for(matrix.other, row[None]).memory, 3) for row in x]
    for i in range(len(x)):
        expected = np.count_nonzero(quants[i]), np.count_nonzero(quants[i].reshape(3, 32).any(axis=1))
        assert found[i] == expected
    assert found[5][0] == 1 + np.count_nonzero(x[5, 32:])


@pytest.mark.parametrize("format", STORED)
def test_both_layouts_have_as_many_bytes(format):
    layout = FORMATS[format].layout
    assert place_columns(layout, ROWS, 96).tile_bytes == 4 * place_alone(layout, ROWS, 96).tile_bytes
    assert Columns(layout).n_bytes_read(96, 3) == Columns(layout).tile_bytes(3)


def test_what_does_not_fit_is_refused():
    assert STORED == ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_0_v100", "Q4_1_v100"]
    rng, q4_0 = np.random.default_rng(0), FORMATS["Q4_0"]
    place = place_columns(q4_0.layout, ROWS, 96)
    with pytest.raises(ValueError, match="100 rows of 54 bytes are not whole tiles of Q4_0 with 96 columns"):
        pack_columns(random_rows("Q4_0", 100, 96, rng), q4_0, 96, np.empty(place.tile_bytes, np.uint8), place)
    with pytest.raises(ValueError, match="128 rows of 96 weights do not fit in"):
        pack_columns(random_rows("Q4_0", ROWS, 96, rng), q4_0, 96, np.empty(place.tile_bytes - 1, np.uint8), place)


TOKENS = np.arange(1, 40)


def one_by_one(model):
    state, rows = model.initial_state(), []
    for token in TOKENS:
        rows.append(model.advance(int(token), state))
    return np.stack(rows), state


@pytest.mark.parametrize("shape", ["v5.2-toy", "v6-toy", "v7-toy"])
def test_a_model_answers_the_same_bytes_with_and_without_columns(tmp_path, monkeypatch, shape):
    path = write_synthetic(tmp_path / "toy.bin", shape, "Q5_1", active=0.1)
    model = load(path)
    found, state = one_by_one(model)
    together, _ = load(path).forward(TOKENS, full_output=True)
    np.testing.assert_array_equal(found, together)
    activity = model.activity()
    assert activity.tokens == len(TOKENS) and 0.02 < activity.channels < 0.3
    assert activity.bytes_read < model.n_bytes_per_token
    monkeypatch.setattr(places, "fits", lambda *shape: False)
    other = load(path)
    assert other.activity() is None and other.n_bytes_per_token == model.n_bytes_per_token
    expected, expected_state = one_by_one(other)
    np.testing.assert_array_equal(found, expected)
    for part in ("shift", "wkv"):
        np.testing.assert_array_equal(getattr(state, part), getattr(expected_state, part))


def test_many_active_channels_are_read_with_all_others(tmp_path):
    model = load(write_synthetic(tmp_path / "toy.bin", "v7-toy", "Q8_0", active=0.8))
    one_by_one(model)
    few = load(write_synthetic(tmp_path / "few.bin", "v7-toy", "Q8_0", active=0.05))
    one_by_one(few)
    assert few.activity().channels < 0.15 < 0.55 < model.activity().channels
    assert few.activity().bytes_read < 0.93 * few.n_bytes_per_token
    assert model.activity().bytes_read == model.n_bytes_per_token

"""Every jitted encoder gives the bytes of its reference, on ordinary and difficult blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rwkv_np.kernels import encode as kernels
from rwkv_np.kernels import floats
from rwkv_np.kernels.formats import FORMATS

NAMES = [row.name for row in FORMATS.values() if row.kernel]


def encoded(name, x):
    row = FORMATS[name]
    out = np.full((len(x), row.block.itemsize // 2), 0xAAAA, np.uint16)
    error, n_overflows = kernels.KERNELS[row.kernel](x, out, row.layout.bits)
    return out.view(row.block)[:, 0], error, n_overflows


def check(name, x):
    x = x.reshape(-1, 32)
    found, error, n_overflows = encoded(name, x)
    expected = FORMATS[name].encode(x)
    for field in expected.dtype.names:
        bits = [b[field].copy().view(np.uint8).reshape(len(x), -1) for b in (found, expected)]
        wrong = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
        assert wrong.size == 0, f"{field} of {wrong.size} blocks, the first {x[wrong[0]].tolist()}"
    if not n_overflows:
        true_error = np.square(FORMATS[name].decode(expected).astype(np.float64) - x).sum()
        assert error == pytest.approx(true_error, rel=1e-3, abs=1e-12)
    return n_overflows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e-6, 1e-3, 1.0, 300.0, 1e4])
@pytest.mark.parametrize("n_blocks", [1, kernels.LANES - 1, kernels.LANES, kernels.LANES + 1, 4000])
def test_random_blocks(name, scale, n_blocks):
    rng = np.random.default_rng(n_blocks)
    assert check(name, (rng.standard_normal((n_blocks, 32)) * scale).astype(np.float32)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_blocks_of_few_values_which_tie(name):
    check(name, np.random.default_rng(0).integers(-3, 4, (5000, 32)).astype(np.float32) / 4)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, -1e-45, 1e-40, 1.2e-38, 5.9e-8, 6.1e-5, 65504.0, -65504.0, 7.5, 8.5]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=300, deadline=None)
@given(
    x=hnp.arrays(np.float32, (2, 32), elements=st.one_of(st.sampled_from(SPECIAL), st.floats(-65504, 65504, width=32)))
)
def test_any_finite_block(name, x):
    check(name, x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", SPECIAL)
def test_constant_blocks(name, value):
    check(name, np.full((3, 32), value, np.float32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e6, 1e30, 1e38])
def test_blocks_too_large_for_float16_are_encoded_alike_and_counted(name, scale):
    x = np.random.default_rng(0).standard_normal((200, 32)).clip(-3, 3).astype(np.float32) * np.float32(scale)
    n = check(name, x)
    assert n > 0 if scale > 1e6 or name != "Q8_0" else n == 0


@pytest.mark.parametrize("name", NAMES)
def test_scales_that_overflow_float16_are_counted(name):
    x = np.ones((4, 32), np.float32)
    x[2, 5], x[2, 6] = 3e38, -3e38
    assert encoded(name, x)[2] >= 1 and encoded(name, x[:2])[2] == 0


def test_every_half_widens_to_its_float():
    halves = np.arange(65536, dtype=np.uint16)
    x, expected = np.empty(65536, np.float32), np.empty(65536, np.float32)
    n = floats.widen_reference(halves, expected)
    assert floats.widen(halves, x) == n == 2048
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(x[finite].view(np.uint32), expected[finite].view(np.uint32))


def test_floats_narrow_to_the_nearest_half():
    bits = np.random.default_rng(0).integers(0, 2**32, 10**6, np.uint64).astype(np.uint32)
    near = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    near = (near[:, None] + np.arange(-5, 6) * 1024).astype(np.uint32).reshape(-1)  # halves, and midpoints
    x = np.concatenate([bits, near, near + 1, near - 1]).view(np.float32)
    x = x[~np.isnan(x)]
    found, expected = np.empty(x.size, np.uint16), np.empty(x.size, np.uint16)
    floats.narrow(x, found)
    floats.narrow_reference(x, expected)
    np.testing.assert_array_equal(found, expected)


def test_what_is_not_finite_is_counted():
    assert floats.count_not_finite(np.array([1, np.nan, -np.inf, 3e38, np.inf], np.float32)) == 3


@pytest.mark.parametrize("size", [0, 1, 127, 128, 5000])
def test_squares_are_summed(size):
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    assert floats.sum_of_squares(x) == pytest.approx(floats.sum_of_squares_reference(x), rel=1e-5)

"""The search finds the scales of its reference, never worse ones than rwkv.cpp's, and only ones that float16 has."""

import numpy as np
import pytest
from conftest import random_parameters, write_model
from rwkv_np.kernels import feedback, search
from rwkv_np.kernels.encode import LANES
from rwkv_np.kernels.formats import FORMATS

from rwkv_np.conversion.quantize import SEARCHED, quantize
from rwkv_np.errors import InputError
from rwkv_np.files.format import read_model_file

KERNELS = {
    "affine": (search.search_affine, search.search_affine_reference),
    "symmetric": (search.search_symmetric, search.search_symmetric_reference),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def squared_error(x, share, d, m, bits):
    q = search._nearest(x - m, d, np.float32(2**bits - 1))
    return (share[:, None] * np.square(x - q * d - m)).sum(axis=0)


@pytest.mark.parametrize("bits", [4, 5])
@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("n", [1, LANES, LANES + 5])
def test_a_kernel_finds_what_its_reference_finds(kind, bits, n, rng):
    x = (rng.standard_normal((32, n)) * rng.lognormal(size=n)).astype(np.float32)
    share = rng.random(32, np.float32)
    kernel, reference = KERNELS[kind]
    d, m = np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
    kernel(x, share, bits, d, m)
    np.testing.assert_allclose(
        squared_error(x, share, d, m, bits), squared_error(x, share, *reference(x, share, bits), bits), rtol=2e-3
    )
    for found in (d, m):  # judged after rounding: float16 has these numbers
        np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("name", SEARCHED)
def test_a_searched_block_is_never_worse_than_the_plain_one(name, rng):
    x = rng.standard_normal((500, 32)).astype(np.float32) ** 3
    format = FORMATS[name]
    plain = np.square(format.decode(format.encode(x)) - x).sum(axis=1)
    blocks, error, n_bad = search.encode_searched(format, x)
    ours = np.square(format.decode(blocks) - x).sum(axis=1)
    assert n_bad == 0 and error == pytest.approx(ours.sum(), rel=1e-4)
    assert ours.sum() < 0.95 * plain.sum()
    if name in ("Q4_1", "Q5_1"):  # the range itself is one of the candidates
        assert (ours <= plain * (1 + 1e-4) + 1e-9).all()


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-4])
def test_a_constant_block_stays_constant(name, value):
    x = np.full((3, 32), value, np.float32)
    blocks, _, n_bad = search.encode_searched(FORMATS[name], x)
    np.testing.assert_allclose(FORMATS[name].decode(blocks), x, rtol=0.05, atol=3e-8)
    assert n_bad == 0


@pytest.mark.parametrize("name", SEARCHED)
def test_values_too_large_for_float16_are_counted(name):
    x = np.ones((2, 32), np.float32)
    x[1, :2] = 3e38, -3e38
    assert search.encode_searched(FORMATS[name], x)[2] > 0


def test_weights_decide_which_error_counts(rng):
    x = rng.standard_normal((32, 300)).astype(np.float32)
    share = np.ones(32, np.float32)
    share[:4] = 100
    errors = []
    for w in (np.ones(32, np.float32), share):
        d, m = search.search(FORMATS["Q4_1"], x, w)
        errors.append(squared_error(x, share, d, m, 4).sum())
    assert errors[1] < 0.8 * errors[0]


# --- rounding with feedback, and refining ------------------------------------------------------------


def problem(rng, n_rows=LANES + 7):
    """Weights (32, rows), their H, and the inverse of its factor."""
    inputs = rng.standard_normal((32, 12)) @ rng.standard_normal((12, 200)) + 0.3 * rng.standard_normal((32, 200))
    h = (inputs @ inputs.T / 200).astype(np.float32)
    lower = np.linalg.cholesky(h[::-1, ::-1].astype(np.float64))
    u = np.linalg.inv(lower[::-1, ::-1]).astype(np.float32)
    return rng.standard_normal((32, n_rows)).astype(np.float32), h, u


def loss(error, h):
    return np.einsum("ir,ij,jr->", error, h.astype(np.float64), error)


@pytest.mark.parametrize("name", SEARCHED)
def test_rounding_with_feedback_matches_its_reference_and_loses_less(name, rng):
    (w, h, u), format = problem(rng), FORMATS[name]
    top = 2**format.layout.bits - 1
    d, m = search.search(format, w, np.diagonal(h).copy())
    results = []
    for function in (feedback.round_block_reference, feedback.round_block):
        changed, q, error = w.copy(), np.empty(w.shape, np.uint8), np.empty_like(w)
        function(changed, d, m, u, top, q, error)
        results.append((q, error))
    (q, error), (expected, expected_error) = results[::-1]
    same = q == expected  # a sum that is rounded otherwise may decide for the neighbour
    assert same.mean() > 0.99
    np.testing.assert_allclose(error[:, same.all(axis=0)], expected_error[:, same.all(axis=0)], atol=1e-4)
    nearest = search._nearest(w - m, d, np.float32(top))
    assert loss(q * d + m - w, h) < 0.8 * loss(nearest * d + m - w, h)


@pytest.mark.parametrize("name", SEARCHED)
def test_refining_matches_its_reference_and_only_improves(name, rng):
    (w, h, _), format = problem(rng), FORMATS[name]
    top, zero = 2**format.layout.bits - 1, -1 if format.layout.has_min else format.layout.zero
    d, m = search.search(format, w, np.ones(32, np.float32))
    q = search._nearest(w - m, d, np.float32(top)).astype(np.uint8)
    before = q * d + m
    gradient = h @ (before - w)
    results = []
    for function in (feedback.refine_block_reference, feedback.refine_block):
        ours = q.copy(), d.copy(), m.copy()
        change = np.full_like(w, np.nan)
        function(gradient.copy(), h, zero, top, *ours, change)
        after = ours[0] * ours[1] + ours[2]
        np.testing.assert_allclose(after - before, change, atol=1e-4)
        for scale in ours[1:]:
            np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
        if zero >= 0:
            np.testing.assert_array_equal(ours[2], -zero * ours[1])
        results.append(loss(after - w, h))
    assert results[1] == pytest.approx(results[0], rel=0.01)
    assert results[1] < 0.8 * loss(before - w, h)


# --- in a file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_type", SEARCHED)
def test_a_searched_file_differs_only_in_the_blocks_of_its_matrices(tmp_path, model_fp16, data_type):
    plain = quantize(model_fp16, tmp_path / "plain.bin", data_type)
    ours = quantize(model_fp16, tmp_path / "ours.bin", data_type, search=True)
    assert (tmp_path / "ours.bin").stat().st_size == (tmp_path / "plain.bin").stat().st_size
    for one, other in zip(plain, ours):
        assert (one.name, one.data_type, one.n_bytes) == (other.name, other.data_type, other.n_bytes)
        assert one.error is None or other.error < one.error
    before, after = (read_model_file(tmp_path / name).parameters for name in ("plain.bin", "ours.bin"))
    for name, p in after.items():
        assert (p.data.tobytes() == before[name].data.tobytes()) == (p.data_type.name != data_type)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_searched_file_does_not_depend_on_threads(tmp_path, model_fp16, threads):
    quantize(model_fp16, tmp_path / "one.bin", "Q4_1", search=True, threads=2)
    quantize(model_fp16, tmp_path / "other.bin", "Q4_1", search=True, threads=threads)
    assert (tmp_path / "one.bin").read_bytes() == (tmp_path / "other.bin").read_bytes()


def test_other_types_of_a_mixture_are_rounded_plainly(tmp_path):
    source = write_model(tmp_path / "m.bin", random_parameters(np.random.default_rng(1)), "FP16")
    keep = [("*.att.*", "Q8_0"), ("emb.weight", "Q4_0")]
    quantize(source, tmp_path / "plain.bin", "Q4_1", keep=keep)
    quantize(source, tmp_path / "ours.bin", "Q4_1", keep=keep, search=True)
    before, after = (read_model_file(tmp_path / name).parameters for name in ("plain.bin", "ours.bin"))
    changed = {name for name, p in after.items() if p.data.tobytes() != before[name].data.tobytes()}
    assert {name.split(".")[-2] for name in changed} == {"key", "receptance", "value", "emb"}
    assert not any(".att." in name for name in changed)


def test_the_layout_of_april_2023_is_refused_with_the_reason(tmp_path, model_fp16, run_cli):
    with pytest.raises(InputError, match="Q4_1_O is only written as rwkv.cpp did in April 2023.*Take Q5_1"):
        quantize(model_fp16, tmp_path / "q.bin", "Q4_1_O", search=True)
    assert "Take Q5_1" in run_cli("quantize", model_fp16, tmp_path / "q.bin", "4", "--search", code=1).stderr
    assert not (tmp_path / "q.bin").exists()

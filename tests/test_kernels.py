"""Every kernel against its NumPy reference, on every path that this processor can run."""

import os
import subprocess
import sys

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from kernel_cases import (
    CASES,
    FORMATS,
    matmul_reference,
    product_bound,
    product_shapes,
    random_rows,
    run_product,
)
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from rwkv_np.kernels import dispatch
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import WANTS_HALVES, WANTS_INT8, parts_reference, quantize_reference
from rwkv_np.kernels.cache import source_hash
from rwkv_np.kernels.emit import FLOATS, Emit
from rwkv_np.kernels.exponential import exp_negative
from rwkv_np.kernels.matmul import PackedMatrix, PackedVectors, matmul, quantize
from rwkv_np.kernels.pack import pack, place_alone
from rwkv_np.kernels.pointers import KERNEL, address
from rwkv_np.kernels.threads import check_team, default_threads
from rwkv_np.kernels.tiles import COUNTS, emit_tile_product

PATHS = dispatch.available_paths()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("one processor")
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


@pytest.mark.parametrize("readonly", [False, True], ids=["writable", "readonly"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", FORMATS)
def test_products_match_the_reference(format, path, readonly, threads, rng):
    for n_rows, n_in, count in product_shapes(format):
        raw, x = random_rows(format, n_rows, n_in, rng), rng.standard_normal((count, n_in)).astype(np.float32)
        raw.flags.writeable = not readonly
        difference = np.abs(run_product(raw, format, n_in, x, path) - matmul_reference(raw, format, n_in, x))
        bound = product_bound(raw, format, n_in, x)
        worst = np.unravel_index((difference / bound).argmax(), bound.shape)
        assert (difference <= bound).all(), f"{n_rows} x {n_in}, vector and row {worst}: off by {difference[worst]}"


@pytest.mark.parametrize("format", ["FP32", "FP16"])
@pytest.mark.parametrize("n_in", [1, 8, 40, 72])
def test_float_rows_need_not_fill_blocks(format, n_in, rng):
    raw, x = random_rows(format, 7, n_in, rng), rng.standard_normal((3, n_in)).astype(np.float32)
    expected = matmul_reference(raw, format, n_in, x)
    np.testing.assert_allclose(run_product(raw, format, n_in, x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_vector_has_the_same_product_alone_and_with_others(format, path, rng):
    raw, x = random_rows(format, 40, 256, rng), rng.standard_normal((31, 256)).astype(np.float32)
    matrix = PackedMatrix.from_file(raw, format, 256, path)
    together = matmul(matrix, x)
    for i in range(len(x)):
        np.testing.assert_array_equal(matmul(matrix, x[i : i + 1])[0], together[i])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", ["Q8_0", "Q5_1", "Q4_0", "IQ4_NL"])
def test_the_largest_quants_do_not_overflow(format, path):
    layout, size = FORMATS[format].layout, FORMATS[format].block.itemsize
    raw = np.full((32, 2 * size), {"Q8_0": 0x80, "IQ4_NL": 0}.get(format, 0xFF), np.uint8)
    scales = np.full((32, 2, 1 + layout.has_min), 1, np.float16).view(np.uint8)
    raw.reshape(32, 2, -1)[:, :, : layout.scale_bytes * (1 + layout.has_min)] = scales
    for sign in (-1, 1):
        x = np.full((1, 64), sign, np.float32)
        np.testing.assert_allclose(
            run_product(raw, format, 64, x, path), matmul_reference(raw, format, 64, x), rtol=1e-6
        )


QUANTIZED = [name for name, row in FORMATS.items() if row.is_quantized]


def whole_numbers(format, n_rows, n_in, rng):
    """Random rows whose scales are 1, and whose outliers are whole numbers."""
    row = FORMATS[format]
    blocks = random_rows(format, n_rows, n_in, rng).view(row.block)
    for field in set(row.block.fields) & {"d", "m", "outlier_value"}:
        blocks[field] = rng.integers(-3, 4, blocks.shape) if field == "outlier_value" else 1
    return blocks.view(np.uint8).reshape(n_rows, -1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", QUANTIZED)
def test_products_of_whole_numbers_are_exact(format, path, rng):
    """Every sum fits in float32, so no order of additions may round: each bit must be the reference's."""
    x = rng.integers(-127, 128, (15, 256)).astype(np.float32)
    x[:, ::32] = 127  # a scale of 1
    raw = whole_numbers(format, 40, 256, rng)
    expected = matmul_reference(raw, format, 256, x)
    assert np.abs(expected).max() < 2**24
    np.testing.assert_array_equal(run_product(raw, format, 256, x, path), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", [name for name in QUANTIZED if FORMATS[name].layout.part_bits])
def test_sums_of_parts_are_exact_at_their_limits(format, path):
    """Bytes of ones or zeros give the largest quants and scales; 127 and -127 the largest sums of either sign."""
    row = FORMATS[format]
    for byte in (0x00, 0x55, 0x7F, 0x80, 0xAA, 0xFF):
        blocks = np.full((1, row.n_bytes(256)), byte, np.uint8).view(row.block)
        for field in set(row.block.fields) & {"d", "m"}:
            blocks[field] = 1
        raw = blocks.view(np.uint8).reshape(1, -1)
        x = np.full((4, 256), 127, np.float32)
        x[1], x[2, 1::2] = -127, -127
        x[3] = np.repeat([-127, 127], 16)[np.arange(256) % 32]  # the parts of a block differ in sign
        expected = matmul_reference(raw, format, 256, x)
        np.testing.assert_allclose(run_product(raw, format, 256, x, path), expected, rtol=1e-6, atol=1)


def test_a_buffer_that_does_not_fit_is_refused(rng):
    q4_1 = FORMATS["Q4_1"]
    raw, place = random_rows("Q4_1", 64, 64, rng), place_alone(q4_1.layout, 64, 64)
    with pytest.raises(ValueError, match="64 rows of 64 weights do not fit in"):
        pack(raw, q4_1, 64, np.empty(place.n_tiles * place.tile_bytes - 1, np.uint8), place)
    with pytest.raises(ValueError, match="rows of 96 weights have 40 bytes, not 60"):
        pack(raw, q4_1, 96, np.empty(10**4, np.uint8), place)


def test_vectors_that_do_not_fit_the_matrix_are_refused(rng):
    matrix = PackedMatrix.from_file(random_rows("Q4_1", 8, 64, rng), "Q4_1", 64)
    with pytest.raises(ValueError, match=r"the vectors have the shape \(2, 32\); the matrix needs \(count, 64\)"):
        matmul(matrix, np.zeros((2, 32), np.float32))


@pytest.mark.parametrize("name", CASES)
def test_kernels_match_their_references(name, rng):
    case = CASES[name]
    for shape in case.shapes:
        inputs = case.make(shape, rng)
        out, expected = case.run(*inputs), case.reference(*inputs)
        assert np.abs(out - expected).max() <= case.tolerance * max(1, np.abs(expected).max()), shape


def parts(x, wants=WANTS_INT8 | WANTS_HALVES, together=8):
    """The quants and numbers of vectors, as the kernels read them."""
    vectors = PackedVectors.of(x, wants, together)
    return parts_reference(vectors.memory, vectors.rows, len(x))


@pytest.mark.parametrize("together", [1, 4, 8, 16])
def test_vectors_are_written_to_the_places_of_their_groups(together, rng):
    for count in (*range(1, 18), 31):
        x = rng.standard_normal((count, 96)).astype(np.float32)
        quants, numbers = parts(x, together=together)
        expected, scales = quantize_reference(x)
        np.testing.assert_array_equal(quants, expected)
        halves = expected.reshape(count, 3, 2, 16).sum(axis=3, dtype=np.int32)
        total = halves.sum(axis=2)
        np.testing.assert_array_equal(numbers[lay.SCALES].view(np.float32), scales)
        np.testing.assert_array_equal(numbers[lay.SUMS].view(np.float32), scales * total.astype(np.float32))
        np.testing.assert_array_equal(numbers[lay.ZEROS], -8 * total)
        np.testing.assert_array_equal(numbers[lay.HALVES], (halves[..., 0] << 16) + halves[..., 1])


@pytest.mark.parametrize("together", [1, 2, 4, 8, 16])
def test_groups_are_those_of_the_kernels(together):
    """A product takes as many vectors at once as fit, largest kernels first (multiply_tile)."""
    for n_vectors in range(1, 40):
        first, expected = 0, []
        while first < n_vectors:
            count = max(c for c in (1, 2, 4, 8, 16) if c <= min(together, n_vectors - first))
            expected += count * [(first, count)]
            first += count
        assert [lay.group_of(vector, n_vectors, together) for vector in range(n_vectors)] == expected


def test_the_places_in_a_block_do_not_overlap():
    for count in (1, 2, 4, 8, 16):
        places = [lay.quants_at(v) + i for v in range(count) for i in range(0, lay.BLOCK, 4)]
        places += [lay.number_at(which, v, count) for which in range(lay.N_NUMBERS) for v in range(count)]
        assert sorted(places) == list(range(0, count * lay.VECTOR_BLOCK, 4))
        # Four vectors, which one thread writes, share a line with no others.
        lines = {v: {lay.quants_at(v) // 64} | {lay.number_at(0, v, count) // 64} for v in range(count)}
        assert all(lines[v].isdisjoint(lines[u]) for v in lines for u in lines if v // 4 != u // 4)


def test_quantized_vectors_equal_the_reference(rng):
    x = (rng.standard_normal((5, 96)) * np.exp(4 * rng.standard_normal((5, 1)))).astype(np.float32)
    x[1, 32:64], x[2, :32] = 0, 1e-38
    quants, scales = quantize(x)
    expected, expected_scales = quantize_reference(x)
    np.testing.assert_array_equal(scales, expected_scales)
    np.testing.assert_array_equal(quants, expected)
    assert np.abs(quants).max() == 127


@intrinsic
def _exp_of_16(typingctx, x, out):
    def codegen(context, builder, signature, args):
        emit = Emit(builder)
        emit.store(exp_negative(emit, emit.load(args[0], 0, FLOATS)), args[1], 0)
        return context.get_dummy_value()

    return types.void(x, out), codegen


@njit
def _exp(x, out):
    for i in range(0, x.size, 16):
        _exp_of_16(address(x, 4 * i), address(out, 4 * i))


def test_the_exponential_is_as_exact_as_float32():
    x = np.concatenate([np.linspace(-87, 0, 16000), [0, -1e-30, -1e-7, -88, -1e30, -np.inf] + 10 * [-1]]).astype(
        np.float32
    )
    out = np.empty_like(x)
    _exp(x, out)
    expected = np.exp(x.astype(np.float64))
    assert (np.abs(out - expected) <= 1.5e-7 * expected + 1e-37).all()
    assert out[-16 + 0] == 1 and (out[-13:-10] == 0).all()


def test_wkv_does_not_overflow_with_huge_keys_and_an_empty_state(rng):
    r, k, v, w, u, state = CASES["wkv"].make((50, 32), rng)
    state[:] = np.array([[0], [0], [-1e30]])
    k = k * 1e4
    out = CASES["wkv"].run(r, k.astype(np.float32), v, w, u, state)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("format", ["Q4_0", "Q8_0"])
def test_a_kernel_tells_llvm_the_feature_that_it_does_not_list(format, monkeypatch):
    monkeypatch.setattr(dispatch, "cpu_features", lambda: frozenset({"neon", "dotprod"}))
    monkeypatch.setattr(dispatch, "numba_features", lambda: "+neon")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    layout = FORMATS[format].layout
    module = ir.Module("tile")
    module.triple = "aarch64-unknown-linux-gnu"
    function = ir.Function(module, KERNEL, "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit_tile_product(builder, layout, "neon", 2, *function.args)
    builder.ret_void()
    # For a generic processor, LLVM would end the process without this feature.
    assert '"target-features"="+neon,+dotprod"' in str(module)
    target = llvm.Target.from_triple(module.triple).create_target_machine(cpu="generic", opt=3)
    assembly = target.emit_assembly(llvm.parse_assembly(str(module)))
    # 2 groups of rows x 8 steps x 4 registers x 2 vectors.
    assert assembly.count("\tsdot") == 128


def test_the_oldest_x86_runs_only_the_generic_path():
    code = """
from kernel_cases import *; import numpy as np
from rwkv_np.kernels.dispatch import choose
rng = np.random.default_rng(0)
for format in ("Q4_1", "FP16"):
    raw, x = random_rows(format, 40, 64, rng), rng.standard_normal((3, 64)).astype(np.float32)
    error = np.abs(run_product(raw, format, 64, x) - matmul_reference(raw, format, 64, x))
    assert (error <= product_bound(raw, format, 64, x)).all()
print(choose().path)
"""
    env = os.environ | {"NUMBA_CPU_NAME": "generic", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert result.stdout == "generic\n", result.stderr


def test_a_path_can_be_forced_and_one_that_cannot_run_is_not_taken(monkeypatch):
    monkeypatch.setattr(dispatch, "cpu_features", lambda: frozenset({"avx2", "fma", "f16c"}))
    assert dispatch.choose("").path == "avx2"
    assert dispatch.choose("generic") == ("generic", "RWKV_NP_KERNELS=generic")
    assert dispatch.choose("vnni").path == "avx2" and "avx512vnni" in dispatch.choose("vnni").reason
    assert dispatch.choose("sse9").path == "avx2" and "is not a path" in dispatch.choose("sse9").reason


def test_a_changed_source_has_another_cache_folder(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("y = 1")
    before = source_hash(tmp_path)
    assert source_hash(tmp_path) == before
    (tmp_path / "b.py").write_text("y = 2")
    assert source_hash(tmp_path) != before


def test_threads_run_at_the_same_time(threads):
    # On a loaded machine the second thread may not run while the first one waits for it.
    assert any(check_team(threads) for _ in range(1000))
    assert 1 <= default_threads() <= numba.config.NUMBA_NUM_THREADS


def test_counts_are_powers_of_two_from_one():
    assert COUNTS[0] == 1 and all(b == 2 * a for a, b in zip(COUNTS, COUNTS[1:]))

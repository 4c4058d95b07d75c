"""AMX's kernels: bits on emulated registers, the instructions in LLVM's code, and when the path is taken."""

import functools
import re
from types import SimpleNamespace

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from emulated_amx import Emulated, kernel_of
from kernel_cases import FORMATS, random_rows
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from rwkv_np.kernels import amx, amx_tile, dispatch
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import wants
from rwkv_np.kernels.column_products import emit_column_product
from rwkv_np.kernels.emit import Emit
from rwkv_np.kernels.matmul import PackedMatrix, PackedVectors, matmul, multiply
from rwkv_np.kernels.pointers import KERNEL, address
from rwkv_np.kernels.tiles import COUNTS, emit_tile_product, kernel_addresses

QUANTIZED = [name for name, row in FORMATS.items() if row.is_quantized]
# Every way to unpack and to scale; the last two have parts and outliers, which AMX's kernel does not know.
TESTED = ["Q4_0", "Q5_1", "Q8_0", "Q4_1_v100", "IQ4_XS", "Q5_K", "Q6_K", "Q4_1_O"]
N_IN = 512
needs_vnni = pytest.mark.skipif("vnni" not in dispatch.available_paths(), reason="the other vectors need AVX-512 VNNI")
needs_amx = pytest.mark.skipif("amx" not in dispatch.available_paths(), reason="no AMX, or the system refuses it")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def product_by(kernels, matrix, x):
    """The product with other kernels, a mapping from counts; groups are as large as the largest."""
    addresses = np.array([kernels.get(count, 0) for count in COUNTS], np.int64)
    padded = np.zeros((len(x), matrix.n_blocks * lay.BLOCK), np.float32)
    padded[:, : x.shape[1]] = x
    vectors = PackedVectors.of(padded, wants(matrix.layout), max(kernels))
    out = np.empty((len(x), matrix.tiles.shape[0] * lay.TILE_ROWS), np.float32)
    multiply(PackedMatrix(matrix.layout, matrix.n_rows, matrix.n_in, matrix.tiles, addresses), vectors, out)
    return out[:, : matrix.n_rows]


@needs_vnni
@pytest.mark.parametrize("format", TESTED)
def test_sums_through_registers_have_the_bits_of_vnni(format, rng, monkeypatch):
    monkeypatch.setattr(amx_tile.AmxTile, "instructions", Emulated)
    usual = dict(zip(COUNTS, kernel_addresses(format, "vnni").tolist()))
    for n_in in {FORMATS[format].block_size, N_IN}:
        raw = random_rows(format, 40, n_in, rng)
        matrix = PackedMatrix.from_file(raw, format, n_in, "vnni")
        x = rng.standard_normal((32 + 16 + 3, n_in)).astype(np.float32)
        expected = matmul(matrix, x)
        for most in (16, 32):
            large = {count: kernel_of(emit_tile_product, format, count).address for count in (16, 32) if count <= most}
            kernels = {count: kernel for count, kernel in usual.items() if kernel} | large
            np.testing.assert_array_equal(product_by(kernels, matrix, x), expected)


@intrinsic
def _dot(typingctx, c, a, b):
    """c += a times b, by emulated registers."""

    def codegen(context, builder, signature, args):
        unit = Emulated(Emit(builder), {0: (16, 64), 1: (16, 32), 2: (8, 64)})
        for register, (pointer, stride) in enumerate(zip(args, (64, 32, 64))):
            unit.load(register, pointer, 0, stride)
        unit.dot(0, 1, 2)
        unit.store(0, args[0], 0, 64)
        return context.get_dummy_value()

    return types.void(c, a, b), codegen


@numba.njit
def _run_dot(c, a, b):
    _dot(address(c, 0), address(a, 0), address(b, 0))


def test_the_emulation_is_the_reference(rng):
    c, a, b = (
        rng.integers(-9, 9, (16, 16), np.int32),
        rng.integers(-128, 128, (16, 32)),
        rng.integers(-128, 128, (8, 64)),
    )
    a, b = a.astype(np.int8), b.astype(np.int8)
    expected = amx.dot_reference(c, a, b)
    # By the definition of the instruction in Intel's manual.
    m, n = 3, 11
    assert expected[m, n] == c[m, n] + sum(
        int(a[m, 4 * j + i]) * int(b[j, 4 * n + i]) for j in range(8) for i in range(4)
    )
    _run_dot(c, a, b)
    np.testing.assert_array_equal(c, expected)


def test_a_configuration_has_palette_rows_and_bytes():
    found = amx.configuration({0: (16, 64), 5: (16, 32), 7: (8, 64)})
    assert len(found) == 64 and found[0] == 1 and found[1] == 0
    assert (found[48], found[53], found[55]) == (16, 16, 8)
    assert [int.from_bytes(found[16 + 2 * i : 18 + 2 * i], "little") for i in (0, 5, 7)] == [64, 32, 64]
    assert sum(found) == 1 + 16 + 16 + 8 + 64 + 32 + 64


@functools.cache
def assembly(format, count, emit_product=emit_tile_product):
    """The code of a kernel for Sapphire Rapids."""
    module = ir.Module("tile")
    module.triple = "x86_64-unknown-linux-gnu"
    function = ir.Function(module, KERNEL, "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit_product(builder, FORMATS[format].layout, "amx", count, *function.args)
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(module.triple).create_target_machine(cpu="sapphirerapids", opt=3)
    optimized = llvm.parse_assembly(str(module))
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(optimized, passes)
    return machine.emit_assembly(optimized)


@pytest.mark.parametrize("count", [16, 32])
@pytest.mark.parametrize("format", TESTED)
def test_llvm_emits_the_instructions_of_amx(format, count):
    found = re.findall(r"\t(tdpb\w+|ldtilecfg|tile\w+)\b", assembly(format, count))
    if not amx_tile.is_suited(FORMATS[format].layout):
        assert not found and "vpdpbusd" in assembly(format, count)
        return
    sums = 2 * count // 16  # registers, in the loop and for the first block
    expected = {
        "ldtilecfg": 1, "tdpbssd": 2 * sums, "tilezero": 2 * sums, "tilestored": 2 * sums,
        "tileloadd": 2 * (count // 16 + 2), "tilerelease": 1,
    }  # fmt: skip
    assert {name: found.count(name) for name in set(found)} == expected
    assert found[0] == "ldtilecfg" and found[-1] == "tilerelease"
    assert "vpdpbusd" not in assembly(format, count) and "\tcall" not in assembly(format, count)


@pytest.mark.parametrize("format", ["Q4_0", "Q5_1", "Q8_0"])
def test_products_by_columns_use_amx_for_groups(format):
    code = {count: assembly(format, count, emit_column_product) for count in (8, 32)}
    assert "tdpbssd" in code[32] and "vpdpbusd" not in code[32] and "\tcall" not in code[32]
    assert code[32].count("ldtilecfg") == code[32].count("tilerelease") == 4  # turns of 32 rows
    assert "tdpbssd" not in code[8] and "vpdpbusd" in code[8]


def test_floats_have_no_kernels_for_groups(monkeypatch):
    built, kernel = [], SimpleNamespace(address=1)
    monkeypatch.setattr("rwkv_np.kernels.tiles._compiled", lambda *args: built.append(args) or kernel)
    assert (kernel_addresses("FP16", "amx") != 0).sum() == 4 and [args[2] for args in built] == [1, 2, 4, 8]
    assert (kernel_addresses("Q6_K", "amx") != 0).all()


# --- the choice of the path ------------------------------------------------------------------------


@pytest.fixture
def processor(monkeypatch):
    """processor(answer): one with AMX, on a system that answers the question so."""

    def pose(answer, system="Linux", machine="x86_64"):
        asked = []
        monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.PATHS["amx"])
        monkeypatch.setattr(amx.platform, "system", lambda: system)
        monkeypatch.setattr(amx.platform, "machine", lambda: machine)
        monkeypatch.setattr(amx, "_ask", lambda: asked.append(1) or answer)
        amx.granted.cache_clear()
        return asked

    yield pose
    amx.granted.cache_clear()


def test_the_path_is_taken_where_the_system_gives_the_registers(processor):
    asked = processor(0)
    assert dispatch.choose("").path == "amx" and dispatch.choose("").path == "amx"
    assert len(asked) == 1


@pytest.mark.parametrize(("answer", "system"), [(-1, "Linux"), (0, "Windows"), (0, "Darwin")])
def test_the_path_is_not_taken_where_the_system_refuses(processor, answer, system):
    asked = processor(answer, system)
    assert dispatch.choose("").path == "vnni" and "amx" not in dispatch.available_paths()
    assert dispatch.choose("amx").path == "vnni" and "the operating system refuses" in dispatch.choose("amx").reason
    assert len(asked) == (system == "Linux")


def test_a_processor_without_it_is_not_asked_about(processor, monkeypatch):
    asked = processor(0)
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.PATHS["vnni"])
    assert dispatch.choose("").path == "vnni" and not asked
    assert "amx-int8" in dispatch.choose("amx").reason


@needs_amx
@pytest.mark.parametrize("format", QUANTIZED)
def test_real_registers_have_the_bits_of_vnni(format, rng):
    raw, x = random_rows(format, 40, N_IN, rng), rng.standard_normal((51, N_IN)).astype(np.float32)
    found, expected = (matmul(PackedMatrix.from_file(raw, format, N_IN, path), x) for path in ("amx", "vnni"))
    np.testing.assert_array_equal(found, expected)

"""LLVM's code for the tile products: on every path and for every format, only vector instructions.

Results do not show this: a kernel that LLVM split into scalars is as correct, but twenty times slower. Each path is
compiled for a processor that has it, whatever processor runs the tests, and optimized as in Numba. Then the
instructions of the loop are counted. The expected numbers follow from the layout: the steps in a block, the lanes in
a register, the terms of a scale.
"""

import functools
import re
from collections import Counter

import llvmlite.binding as llvm
import pytest
from llvmlite import ir
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.formats import FORMATS
from rwkv_np.kernels.tiles import COUNTS, MOST, emit_tile_product

STEPS = lay.BLOCK // 4  # a step adds four neighbouring columns
# path -> (a target, a processor of it, how many registers 16 lanes take, and a pattern of their names)
TARGETS = {
    "generic": ("x86_64-unknown-linux-gnu", "x86-64", 4, r"%xmm\d+"),
    "neon": ("aarch64-unknown-linux-gnu", "neoverse-n1", 4, r"v\d+\.(?:4s|8h|16b)"),
    "avx2": ("x86_64-unknown-linux-gnu", "haswell", 2, r"%ymm\d+"),
    "vnni": ("x86_64-unknown-linux-gnu", "icelake-server", 1, r"%zmm\d+"),
}
# The counted instructions, by function; only those on vectors.
OPERATIONS = {
    "dot": r"pmul[lh]w|sdot|vpmaddubsw|vpdpbusd",
    "widen": r"vpmaddwd",
    "sign": r"vpsignb",
    "to float": r"v?cvtdq2ps|scvtf",
    "half": r"vcvtph2ps|fcvtl2?",
    "fused": r"vfmadd\d+ps|fmla",
    "multiply": r"v?mulps|fmul",
    "add": r"v?addps|fadd",
    "look up": r"vpermi2ps|vpermt2ps",
}
SCALAR = re.compile(
    r"v?(?:add|sub|mul|div|fn?m(?:add|sub)\d+|cvt\w+)s[sd]\b"  # x86: addss, vfmadd231ss, cvtsi2ss
    r"|f(?:n?m)?(?:add|sub|mul|div|cvt)\w*\t[shd]\d|[su]cvtf\t[shd]\d"  # aarch64: fmadd s0, fcvt s0, scvtf s0
)
BYTE = re.compile(r"mov[sz]b\w+|v?pinsrb|v?pextrb|ldrs?b|[su]mov")  # moving a single byte, into or out of a vector
# A single 32-bit number: arithmetic, or taken out of a vector.
NUMBER = re.compile(
    r"(?:add|sub|imul|sh[lr]|sar|lea)l\t.*%[er]|v?mov[dq]\t%xmm\d+, %[er]"
    r"|(?:add|sub|m?add|mul|lsl|asr)\tw\d|f?mov\t[wx]\d+, [vs]\d"
)
CALL = re.compile(r"\t(?:callq?|jmpq?|blr?|br?)\t[^.]")  # and jumps to anything but a label of this function
JUMP = re.compile(r"\t(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\t(?:.*, )?(\.LBB\w+)")


@functools.cache
def compiled(format, path, count):
    """The assembly of a kernel, with LLVM's remarks."""
    triple, cpu, _, _ = TARGETS[path]
    module = ir.Module("tile")
    module.triple = triple
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(64)
    kind = ir.FunctionType(ir.VoidType(), [pointer, pointer, number, number, pointer, number])
    function = ir.Function(module, kind, "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit_tile_product(builder, FORMATS[format].layout, path, count, *function.args)
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    machine.set_asm_verbosity(True)
    optimized = llvm.parse_assembly(str(module))
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(optimized, passes)
    return machine.emit_assembly(optimized).splitlines()


def loop(lines):
    """The lines from the label of the longest loop to the jump back to it."""
    labels, found = {}, []
    for i, line in enumerate(lines):
        if line.startswith(".LBB"):
            labels[line.split(":")[0]] = i
        elif (jump := JUMP.match(line)) and jump[1] in labels:
            found = max(found, lines[labels[jump[1]] : i + 1], key=len)
    return [line for line in found if re.match(r"\t\w", line)]


def counted(lines, register):
    """How often each of OPERATIONS occurs on a full register of the path."""
    found = Counter()
    for line in lines:
        for name, pattern in OPERATIONS.items():
            found[name] += bool(re.match(rf"\t(?:{pattern})\t.*{register}", line))
    return +found


# Additional instructions of a path, for `results` registers of sums. Pair sums fit in 16 bits for 8, 4 or 1 steps.
PATH_DOTS = {
    "generic": lambda layout, results: Counter({"dot": STEPS * results}),  # even and odd bytes
    "neon": lambda layout, results: Counter(),
    "avx2": lambda layout, results: Counter(
        widen={4: 1, 5: 2, 8: 8}[layout.bits] * results, sign=STEPS * results * (layout.bits == 8)
    ),
    "vnni": lambda layout, results: Counter(),
}


def expected(layout, path, count):
    """The expected counts, from the definitions of the layout and the path."""
    registers = TARGETS[path][2]
    groups = lay.GROUPS * registers  # registers of a column of 32 rows
    if layout.is_float:
        turn, n_halves, n_terms = 4, 4 * (layout.bits == 16), 1  # four columns per iteration
        found = Counter({"fused": turn * groups * count})
    else:
        n_halves = (1 + layout.has_min) * (layout.scale_bytes == 2) + layout.has_outliers
        n_terms = 1 + layout.has_min + layout.has_outliers
        results = groups * count
        found = Counter({"dot": STEPS * results, "to float": results, "multiply": results, "fused": n_terms * results})
        found += PATH_DOTS[path](layout, results)
        if layout.has_outliers and path == "vnni":
            found["look up"] = results
    found["half"] = n_halves * groups
    if path == "generic":  # no fused multiply-add and no float16: halves are shifted and multiplied by 2 ** 112
        found["add"] = found["fused"]
        found["multiply"] += found.pop("fused") + found.pop("half")
    return +found


@pytest.mark.parametrize("path", TARGETS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_loop_holds_exactly_the_vector_instructions_that_its_layout_asks_for(format, path):
    for count in (1, 2):
        lines = loop(compiled(format, path, count))
        assert counted(lines, TARGETS[path][3]) == expected(FORMATS[format].layout, path, count), f"{count} vectors"


@pytest.mark.parametrize("path", TARGETS)
@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_called_and_nothing_done_number_by_number(format, path):
    lines = compiled(format, path, 2)
    assert not [line for line in lines if CALL.match(line)]
    lines = [line.strip() for line in loop(lines)]
    assert not [line for line in lines if SCALAR.match(line) or BYTE.match(line)]
    # Allowed: for each vector the multiple of its sum for the zero point, and, where a table of 32 is looked up
    # row by row, the index of each row.
    n_rows = lay.TILE_ROWS if FORMATS[format].layout.has_outliers and path != "vnni" else 0
    assert sum(bool(NUMBER.match(line)) for line in lines) <= 2 + n_rows


@pytest.mark.parametrize("format", FORMATS)
def test_one_vector_and_two_stay_in_the_registers_of_avx_512(format):
    for count in (1, 2):
        lines = loop(compiled(format, "vnni", count))
        assert lines and not [line for line in lines if "Spill" in line or "Reload" in line]


def test_a_spill_would_be_seen():
    """Eight vectors do not fit. This shows that the test above looks for the right words."""
    assert any("Spill" in line for line in loop(compiled("Q4_1_O", "vnni", MOST["vnni"])))
    assert MOST["vnni"] in COUNTS

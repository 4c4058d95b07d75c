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
from rwkv_np.kernels.pointers import KERNEL
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
    "table": r"vpshufb|tbl",
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
SPILL = re.compile(r"# 64-byte (?:Folded )?(?:Spill|Reload)")  # of a vector; addresses may be on the stack
JUMP = re.compile(r"\t(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\t(?:.*, )?(\.LBB\w+)")


@functools.cache
def compiled(format, path, count):
    """The assembly of a kernel, with LLVM's remarks."""
    triple, cpu, _, _ = TARGETS[path]
    module = ir.Module("tile")
    module.triple = triple
    function = ir.Function(module, KERNEL, "tile")
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


def widened(layout):
    """How often the pair sums of a block are widened, as those of only so many steps fit in 16 bits."""
    steps, fit = STEPS // layout.n_parts, 32767 // (2 * layout.weight_max * 127)
    return layout.n_parts * -(-steps // fit)


# Additional instructions of a path, for `results` registers of sums.
PATH_DOTS = {
    "generic": lambda layout, results: Counter({"dot": STEPS * results}),  # even and odd bytes
    "neon": lambda layout, results: Counter(),
    "avx2": lambda layout, results: Counter(
        widen=widened(layout) * results, sign=STEPS * results * (layout.weight_max == 128)
    ),
    "vnni": lambda layout, results: Counter(),
}


def expected(layout, path, count):
    """The expected counts, from the definitions of the layout and the path."""
    registers = TARGETS[path][2]
    groups = lay.GROUPS * registers  # registers of a column of 32 rows
    if layout.is_float:
        turn, n_halves = 4, 4 * (layout.bits == 16 and not layout.is_bfloat)  # four columns per iteration
        found = Counter({"fused": turn * groups * count})
    else:
        n_halves = (1 + layout.has_min) * (layout.scale_bytes == 2) + layout.has_outliers
        found = dots(layout, path, groups, count)
    found["half"] = n_halves * groups
    if path == "generic":  # no fused multiply-add and no float16: halves are shifted and multiplied by 2 ** 112
        found["add"] = found["fused"]
        found["multiply"] += found.pop("fused") + found.pop("half")
    return +found


def dots(layout, path, groups, count):
    """The expected counts of a quantized format, without the conversion of float16."""
    results, n_sums = groups * count, 1 + layout.has_min
    found = Counter({"dot": STEPS * results}) + PATH_DOTS[path](layout, results)
    if layout.has_pairs:  # a sum and a minimum, each of two products of 16 bits
        found += Counter({"to float": n_sums * results, "multiply": results, "fused": n_sums * results})
        if path in ("avx2", "vnni"):
            found["widen"] += n_sums * results
        if path == "generic" and layout.zero:
            found["dot"] += 2 * results  # low and high halves of products of signed numbers
    else:
        parts = layout.n_parts * results
        found += Counter({"to float": parts, "multiply": parts, "fused": (n_sums + layout.has_outliers) * parts})
        if layout.part_bits:  # each scale: an integer, converted, times what the blocks share
            n_scales = layout.n_parts * n_sums * groups
            found += Counter({"to float": n_scales, "multiply": n_scales})
            if path == "neon":
                found["table"] += n_scales  # bytes become numbers of 32 bits
    if layout.has_outliers and path == "vnni":
        found["look up"] = results
    if layout.table and path != "generic":
        found["table"] += STEPS * groups
    return found


@pytest.mark.parametrize("path", TARGETS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_loop_has_exactly_the_vector_instructions_that_its_layout_needs(format, path):
    for count in (1, 2):
        lines = loop(compiled(format, path, count))
        assert counted(lines, TARGETS[path][3]) == expected(FORMATS[format].layout, path, count), f"{count} vectors"


@pytest.mark.parametrize("path", TARGETS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_loop_has_no_calls_and_no_scalar_instructions(format, path):
    lines = compiled(format, path, 2)
    assert not [line for line in lines if CALL.match(line)]
    lines = [line.strip() for line in loop(lines)]
    assert not [line for line in lines if SCALAR.match(line) or BYTE.match(line)]
    # Allowed: for each vector the multiple of its sum for the zero point (two sums in one number are separated
    # first), the place of a block in its superblock, and, where a table of 32 is looked up row by row, the index of
    # each row and four times that.
    layout = FORMATS[format].layout
    n_rows = 2 * lay.TILE_ROWS if layout.has_outliers and path != "vnni" else 0
    n_sums = 1 if layout.n_parts == 1 else 2 if layout.has_pairs else 4
    assert sum(bool(NUMBER.match(line)) for line in lines) <= 2 * n_sums + 2 * bool(layout.part_bits) + n_rows


@pytest.mark.parametrize("format", FORMATS)
def test_one_vector_and_two_stay_in_the_registers_of_avx_512(format):
    for count in (1, 2):
        lines = loop(compiled(format, "vnni", count))
        # Q6_K: with two vectors two sums wait on the stack while the other part is scaled.
        n_sums = 2 if format == "Q6_K" and count == 2 else 0
        assert lines and sum(bool(SPILL.search(line)) for line in lines) <= 2 * n_sums


def test_a_spill_would_be_seen():
    """Eight vectors do not fit. This shows that the test above looks for the right words."""
    assert any(SPILL.search(line) for line in loop(compiled("Q4_1_O", "vnni", MOST["vnni"])))
    assert MOST["vnni"] in COUNTS

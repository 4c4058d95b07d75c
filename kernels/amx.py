"""Intel's AMX: eight registers, each a small matrix, and one instruction that multiplies two of them.

A register has up to 16 rows of 64 bytes. `dot` adds to C (16 x 16 int32) the product of A, rows of signed bytes, and B,
in which four neighbouring rows of bytes are one: byte 4n + i of its row j is B[4j + i][n]. This is the order in which
weights are unpacked (layout.py), and rows of A are the quants of vectors that lie side by side.

The state of these registers is 8 KB, so Linux gives them only to a process that asks (`granted`); without it the first
instruction ends the process. The instructions here are LLVM's; tests put an emulation in their place, which runs on
any processor. Reference: `dot_reference`.
"""

import ctypes
import functools
import platform

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from rwkv_np.kernels.emit import I8, I64, Value

FEATURES = frozenset({"amx-tile", "amx-int8"})
ROWS, ROW_BYTES = 16, 64  # of a register, at most
REGISTER_BYTES = ROWS * ROW_BYTES
N_REGISTERS = 8

# From Linux's asm/prctl.h and asm/fpu/types.h.
SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18


@functools.cache
def granted() -> bool:
    """Ask the operating system for the registers, for all threads of this process; whether it gives them."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    return _ask() == 0


def _ask() -> int:
    """0 if the answer is yes. Linux before 5.16 does not know the question."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes, syscall.restype = 3 * [ctypes.c_long], ctypes.c_long
    return int(syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA))


def configuration(shapes: dict[int, tuple[int, int]]) -> bytes:
    """The 64 bytes that `configure` loads: for each register its number of rows and the bytes of one."""
    palette = bytearray(64)
    palette[0] = 1
    for register, (n_rows, n_bytes) in shapes.items():
        palette[16 + 2 * register : 18 + 2 * register] = n_bytes.to_bytes(2, "little")
        palette[48 + register] = n_rows
    return bytes(palette)


def dot_reference(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """C + A B: c (M, 16) int32; a (M, K) int8; b (K / 4, 64) int8, four rows of B in each of its rows."""
    columns = b.reshape(len(b), 16, 4).transpose(0, 2, 1).reshape(-1, 16)  # (K, 16)
    return c + a.astype(np.int32) @ columns.astype(np.int32)


class Instructions:
    """Emits the instructions. Registers are numbers, which are part of an instruction."""

    def __init__(self, emit, shapes):
        self.emit = emit
        data = configuration(shapes)
        kind = ir.ArrayType(I8, len(data))
        self._configuration = cgutils.alloca_once_value(emit.builder, ir.Constant(kind, bytearray(data)))
        self._call("ldtilecfg", emit.builder.bitcast(self._configuration, I8.as_pointer()))

    def _call(self, name, *args):
        emit = self.emit
        args = [I8(arg) if isinstance(arg, int) else arg for arg in args]
        kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
        function = cgutils.get_or_insert_function(emit.builder.module, kind, f"llvm.x86.{name}")
        emit.builder.call(function, args)

    def _place(self, pointer, offset):
        emit = self.emit
        offset = offset if isinstance(offset, Value) else emit.constant(I64, offset)
        return emit.builder.gep(pointer, [offset.llvm])

    def zero(self, register):
        """Clear a register."""
        self._call("tilezero", register)

    def load(self, register, pointer, offset, stride):
        """Load its rows, `stride` bytes apart, from `offset` bytes after a pointer."""
        self._call("tileloadd64", register, self._place(pointer, offset), I64(stride))

    def dot(self, c, a, b):
        """c += a times b, both of signed bytes."""
        self._call("tdpbssd", c, a, b)

    def store(self, register, pointer, offset, stride):
        """Store its rows, `stride` bytes apart."""
        self._call("tilestored64", register, self._place(pointer, offset), I64(stride))

    def release(self):
        """Clear all registers, so that the system does not save them and the processor rests that unit."""
        self._call("tilerelease")

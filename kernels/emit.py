"""Vector values for writing kernels: Python operators that emit LLVM instructions.

Numba vectorizes loops over scalars when it can prove that this is allowed; for int8 products, half
floats and exponentials it never can. A kernel that must use vectors is therefore an intrinsic. Its
body runs once, during compilation, and records its instructions with `Emit` and `Value`: `a * b + c`
on two values emits a multiplication and an addition.

All vectors have 16 lanes (64 bytes of int32 or float32). LLVM splits them where registers are
shorter, so one source serves AVX-512, AVX2, NEON and anything else.
"""

from __future__ import annotations

from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils

LANES = 16

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
BYTES = ir.VectorType(I8, 4 * LANES)
SHORTS = ir.VectorType(I16, 2 * LANES)
INTS = ir.VectorType(I32, LANES)
FLOATS = ir.VectorType(F32, LANES)
HALVES = ir.VectorType(I16, LANES)  # float16 bits: Numba's CPU target has no half type
BYTE_LANES = ir.VectorType(I8, LANES)  # one byte per lane


def _element(kind):
    return kind.element if isinstance(kind, ir.VectorType) else kind


class Value:
    """An LLVM value with arithmetic; a Python number becomes a constant of the other operand's type."""

    def __init__(self, emit, llvm):
        self.emit, self.llvm, self.kind = emit, llvm, llvm.type
        self.is_float = isinstance(_element(self.kind), ir.FloatType)

    def _apply(self, on_ints, on_floats, other):
        other = self.emit.constant(self.kind, other)
        build = getattr(self.emit.builder, on_floats if self.is_float else on_ints)
        return Value(self.emit, build(self.llvm, other.llvm))

    def __add__(self, other):
        return self._apply("add", "fadd", other)

    def __sub__(self, other):
        return self._apply("sub", "fsub", other)

    def __mul__(self, other):
        return self._apply("mul", "fmul", other)

    def __truediv__(self, other):
        return self._apply("sdiv", "fdiv", other)

    def __and__(self, other):
        return self._apply("and_", "and_", other)

    def __or__(self, other):
        return self._apply("or_", "or_", other)

    def __xor__(self, other):
        return self._apply("xor", "xor", other)

    def __lshift__(self, other):
        return self._apply("shl", "shl", other)

    def shifted_right(self, n, signed=False):
        """The lanes shifted right by `n` bits, filling with the sign or with zeros."""
        return self._apply("ashr" if signed else "lshr", "lshr", n)

    def _compare(self, sign, other):
        other = self.emit.constant(self.kind, other)
        build = self.emit.builder.fcmp_ordered if self.is_float else self.emit.builder.icmp_signed
        return Value(self.emit, build(sign, self.llvm, other.llvm))

    def __ge__(self, other):
        return self._compare(">=", other)

    def __lt__(self, other):
        return self._compare("<", other)

    def choose(self, yes, no):
        """Lane by lane: `yes` where this comparison is true, otherwise `no`."""
        yes = self.emit.constant(no.kind, yes)
        return Value(self.emit, self.emit.builder.select(self.llvm, yes.llvm, no.llvm))

    def as_kind(self, kind):
        """The same bits, read as another type."""
        return Value(self.emit, self.emit.builder.bitcast(self.llvm, kind))

    def converted(self, operation, kind):
        """The same numbers in another type: operation is sitofp, fptosi, sext, zext, trunc."""
        return Value(self.emit, getattr(self.emit.builder, operation)(self.llvm, kind))

    def __getitem__(self, lane):
        return Value(self.emit, self.emit.builder.extract_element(self.llvm, I32(lane)))


class Variable:
    """A value that a loop changes. LLVM keeps it in a register."""

    def __init__(self, emit, initial):
        self.emit = emit
        self.slot = cgutils.alloca_once_value(emit.builder, initial.llvm)

    def get(self):
        """The current value."""
        return Value(self.emit, self.emit.builder.load(self.slot))

    def set(self, value):
        """Assign `value`."""
        self.emit.builder.store(value.llvm, self.slot)


class Emit:
    """Emits instructions where Numba asks for an intrinsic's body."""

    def __init__(self, builder):
        self.builder = builder

    def constant(self, kind, value):
        """`value` in every lane of `kind`; a Value is returned unchanged."""
        if isinstance(value, Value):
            return value
        if isinstance(kind, ir.VectorType):
            value = [value] * kind.count
        return Value(self, ir.Constant(kind, value))

    def value(self, llvm):
        """An argument of the intrinsic, as a Value."""
        return Value(self, llvm)

    def _place(self, pointer, offset, kind):
        place = self.builder.gep(pointer, [self.constant(I64, offset).llvm])
        return self.builder.bitcast(place, kind.as_pointer())

    def load(self, pointer, offset, kind):
        """Load a `kind` from `offset` bytes after an int8 pointer, aligned or not."""
        got = self.builder.load(self._place(pointer, offset, kind))
        got.align = 1
        return Value(self, got)

    def store(self, value, pointer, offset):
        """Store a value `offset` bytes after an int8 pointer, aligned or not."""
        put = self.builder.store(value.llvm, self._place(pointer, offset, value.kind))
        put.align = 1

    def splat(self, scalar, count=LANES):
        """A vector with the scalar in each lane."""
        kind = ir.VectorType(scalar.kind, count)
        nothing = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(nothing, scalar.llvm, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, count), [0] * count)
        return Value(self, self.builder.shuffle_vector(first, nothing, zeros))

    def part(self, vector, start, count):
        """Lanes start .. start + count of a vector."""
        mask = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
        nothing = ir.Constant(vector.kind, ir.Undefined)
        return Value(self, self.builder.shuffle_vector(vector.llvm, nothing, mask))

    def join(self, parts):
        """Concatenate vectors of one type; their number is a power of two."""
        while len(parts) > 1:
            parts = [self._join_two(low, high) for low, high in zip(parts[::2], parts[1::2])]
        return parts[0]

    def _join_two(self, low, high):
        count = 2 * low.kind.count
        mask = ir.Constant(ir.VectorType(I32, count), list(range(count)))
        return Value(self, self.builder.shuffle_vector(low.llvm, high.llvm, mask))

    def call(self, name, kind, *args):
        """Call an LLVM intrinsic by its full name."""
        signature = ir.FunctionType(kind, [arg.kind for arg in args])
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return Value(self, self.builder.call(function, [arg.llvm for arg in args]))

    def prefetch(self, pointer, offset, level=1):
        """Prefetch the cache line `offset` bytes after a pointer into L1 or L2; the address need not be mapped."""
        place = self.builder.gep(pointer, [self.constant(I64, offset).llvm])
        signature = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
        function = self.builder.module.declare_intrinsic("llvm.prefetch", (place.type,), signature)
        self.builder.call(function, [place, I32(0), I32(4 - level), I32(1)])

    def fma(self, a, b, c):
        """a * b + c, rounded once if the processor can do that, never by a library call."""
        return self.call(f"llvm.fmuladd.v{LANES}f32", FLOATS, a, b, c)

    def sum(self, vector):
        """All lanes of a vector added pairwise, in the same order on every target."""
        count = vector.kind.count
        while count > 1:
            count //= 2
            vector = self.part(vector, 0, count) + self.part(vector, count, count)
        return vector[0]

    def largest(self, vector):
        """The largest lane of an int32 vector."""
        count = vector.kind.count
        while count > 1:
            count //= 2
            low, high = self.part(vector, 0, count), self.part(vector, count, count)
            vector = (low >= high).choose(low, high)
        return vector[0]

    @contextmanager
    def loop(self, count):
        """Repeat the instructions emitted inside for index 0 .. count - 1; yields the index."""
        with cgutils.for_range(self.builder, self.constant(I64, count).llvm) as found:
            yield Value(self, found.index)

    @contextmanager
    def when(self, condition):
        """Run the instructions emitted inside only if a scalar comparison is true."""
        with self.builder.if_then(condition.llvm):
            yield

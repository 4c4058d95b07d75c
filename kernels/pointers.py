"""Addresses of array elements, for intrinsics that move bytes.

Numba's arrays have one element type, but a packed tile mixes halves, nibbles and floats. Offsets
are in bytes and never negative. Pointers are derived by GEP from the array's own pointer: casts
from integers were miscompiled by LLVM 22 before Numba 0.67.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.emit import I8, I16, I32, I64, Emit

POINTER = types.CPointer(types.uint8)


@intrinsic
def address(typingctx, array, offset):
    """A pointer to `offset` bytes after the first element of a C-contiguous array."""

    def codegen(context, builder, signature, args):
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return builder.gep(builder.bitcast(data, I8.as_pointer()), [args[1]])

    return POINTER(array, types.intp), codegen


@intrinsic
def beyond(typingctx, pointer, offset):
    """A pointer to `offset` bytes after another pointer."""

    def codegen(context, builder, signature, args):
        return builder.gep(args[0], [args[1]])

    return POINTER(pointer, types.intp), codegen


@intrinsic
def copy_bytes(typingctx, source, n_bytes, target):
    """Copy bytes between ranges that do not overlap; slice assignments take Numba seconds to compile."""

    def codegen(context, builder, signature, args):
        cgutils.raw_memcpy(builder, args[2], args[0], args[1], I64(1))
        return context.get_dummy_value()

    return types.void(source, types.intp, target), codegen


@intrinsic
def clear_bytes(typingctx, target, n_bytes):
    """Set bytes to zero."""

    def codegen(context, builder, signature, args):
        cgutils.memset(builder, args[0], args[1], 0)
        return context.get_dummy_value()

    return types.void(target, types.intp), codegen


def _mover(kind):
    @intrinsic
    def move(typingctx, source, source_offset, target, target_offset):
        def codegen(context, builder, signature, args):
            emit = Emit(builder)
            emit.store(emit.load(args[0], emit.value(args[1]), kind), args[2], emit.value(args[3]))
            return context.get_dummy_value()

        return types.void(source, types.intp, target, types.intp), codegen

    return move


def _reader(kind, numba_kind):
    @intrinsic
    def read(typingctx, source, offset):
        def codegen(context, builder, signature, args):
            emit = Emit(builder)
            return emit.load(args[0], emit.value(args[1]), kind).llvm

        return numba_kind(source, types.intp), codegen

    return read


def _writer(kind, numba_kind):
    @intrinsic
    def write(typingctx, value, target, offset):
        def codegen(context, builder, signature, args):
            emit = Emit(builder)
            emit.store(emit.value(args[0]), args[1], emit.value(args[2]))
            return context.get_dummy_value()

        return types.void(numba_kind, target, types.intp), codegen

    return write


move_short, move_int = _mover(I16), _mover(I32)
read_byte, read_short, read_int = _reader(I8, types.uint8), _reader(I16, types.uint16), _reader(I32, types.uint32)
_read_long = _reader(I64, types.int64)
write_byte, write_short, write_int, write_long = (
    _writer(I8, types.uint8),
    _writer(I16, types.uint16),
    _writer(I32, types.uint32),
    _writer(I64, types.int64),
)


@jit()
def number(numbers, i):
    """The int64 with index i in the array at a pointer."""
    return _read_long(numbers, 8 * i)


# A kernel that is compiled separately (tiles.py) and called by its address:
# (tile, group of vectors, their float32 values, bytes from the values of one to those of the next, blocks,
# results, floats from result to result).
KERNEL_ARGS = (POINTER, POINTER, POINTER, types.intp, types.intp, POINTER, types.intp)
KERNEL = ir.FunctionType(ir.VoidType(), [I64 if kind == types.intp else I8.as_pointer() for kind in KERNEL_ARGS])


@intrinsic
def call_kernel(typingctx, function, tile, x, values, stride, n_blocks, out, out_stride):
    """Call the kernel at the address `function`; nothing is checked."""

    def codegen(context, builder, signature, args):
        builder.call(builder.inttoptr(args[0], KERNEL.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.intp, *KERNEL_ARGS), codegen


# An op of a program (program.py), called by its address:
# (its arguments, weights, scratch, states, logits, batch, item, rank).
OP_ARGS = (*6 * (POINTER,), types.int64, types.int64)


@intrinsic
def call_op(typingctx, function, args, weights, scratch, states, logits, batch, item, rank):
    """Call the op at the address `function`; nothing is checked."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [*6 * (I8.as_pointer(),), I64, I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.intp, *OP_ARGS), codegen

"""AMX's registers and instructions on any processor: memory, and the generic dot products."""

import functools

from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic
from rwkv_np.kernels import amx
from rwkv_np.kernels.dots import Generic
from rwkv_np.kernels.emit import BYTES, I8, I32, I64, INTS, Emit, Value
from rwkv_np.kernels.formats import FORMATS
from rwkv_np.kernels.pointers import KERNEL_ARGS


@functools.cache
def kernel_of(emit_product, format, count):
    """A kernel of the path amx; compile it while amx_tile.AmxTile.instructions is Emulated."""

    @intrinsic
    def product(typingctx, tile, x, values, stride, n_blocks, out, out_stride):
        def codegen(context, builder, signature, args):
            emit_product(builder, FORMATS[format].layout, "amx", count, *args)
            return context.get_dummy_value()

        return types.void(*KERNEL_ARGS), codegen

    @cfunc(types.void(*KERNEL_ARGS), nopython=True)
    def kernel(tile, x, values, stride, n_blocks, out, out_stride):
        product(tile, x, values, stride, n_blocks, out, out_stride)

    return kernel


class Emulated:
    """In the place of amx.Instructions: the same methods, and the same limits by the configured shapes."""

    def __init__(self, emit: Emit, shapes: dict[int, tuple[int, int]]) -> None:
        self.emit, self.shapes = emit, shapes
        kind = ir.ArrayType(I8, amx.REGISTER_BYTES)
        with emit.builder.goto_entry_block():
            slots = {register: emit.builder.alloca(kind) for register in shapes}
        self.registers = {i: emit.builder.bitcast(slot, I8.as_pointer()) for i, slot in slots.items()}
        self.is_released = False

    def _rows(self, register):
        n_rows, n_bytes = self.shapes[register]
        assert 0 < n_rows <= amx.ROWS and 0 < n_bytes <= amx.ROW_BYTES and n_bytes % 4 == 0
        assert 0 <= register < amx.N_REGISTERS and not self.is_released
        return n_rows, n_bytes

    def _move(self, register, pointer, offset, stride, is_load):
        n_rows, n_bytes = self._rows(register)
        emit = self.emit
        offset = offset if isinstance(offset, Value) else emit.constant(I64, offset)
        memory, own = emit.builder.gep(pointer, [offset.llvm]), self.registers[register]
        with emit.loop(emit.constant(I64, n_rows)) as row, emit.loop(emit.constant(I64, n_bytes // 4)) as word:
            places = [(memory, row * stride + word * 4), (own, row * amx.ROW_BYTES + word * 4)]
            (source, at), (target, to) = places if is_load else places[::-1]
            emit.store(emit.load(source, at, I32), target, to)

    def zero(self, register):
        self._rows(register)
        with self.emit.loop(self.emit.constant(I64, amx.ROWS)) as row:
            self.emit.store(self.emit.constant(INTS, 0), self.registers[register], row * amx.ROW_BYTES)

    def load(self, register, pointer, offset, stride):
        self._move(register, pointer, offset, stride, is_load=True)

    def store(self, register, pointer, offset, stride):
        self._move(register, pointer, offset, stride, is_load=False)

    def dot(self, c, a, b):
        emit = self.emit
        (m, n), (m_of_a, k), (k_of_b, n_of_b) = (self._rows(i) for i in (c, a, b))
        assert m == m_of_a and n == n_of_b and k == 4 * k_of_b
        with emit.loop(emit.constant(I64, m)) as row:
            sums = Generic(emit, emit.load(self.registers[c], row * amx.ROW_BYTES, INTS), 128)
            for four in range(k_of_b):
                activations = emit.load(self.registers[a], row * amx.ROW_BYTES + 4 * four, I32)
                weights = emit.load(self.registers[b], emit.constant(I64, amx.ROW_BYTES * four), BYTES)
                sums.add(weights, emit.splat(activations).as_kind(BYTES))
            emit.store(sums.total(), self.registers[c], row * amx.ROW_BYTES)

    def release(self):
        self.is_released = True

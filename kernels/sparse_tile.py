"""The product of a tile that is stored by columns (columns.py) with one vector, reading only its active columns.

A column is active if its activation is not zero. A block without active columns adds the product of zero and its
scales to each sum, which changes no bit of it, and so it is skipped. Active columns are taken four at a time from a
mask of 32 bits, and the sums of a block are then scaled as if all had been read. Bits are the same as in
`column_tile.py` as long as the scales of the weights are finite. A block whose activations are infinite or NaN has
zeros as quants (`activations.py`); it counts as active, so that NaN stays NaN.

The processor cannot guess the next active column, so it is prefetched AHEAD blocks before. The kind of prefetch
decides: columns that go through the L2 cache slow down the *following* products, which read memory in order, by a
fifth. A token of a 1.5B model with 11 % active columns took 72 ms dense, 70 with all prefetches into all caches, 66 with
all of them past the L2 cache, and 60 with the columns past it and the scales, which come in order, into all of them
(one thread, Intel Xeon). Prefetched 6 blocks ahead it took 62.
"""

from llvmlite import ir
from rwkv_np.kernels.column_tile import ColumnTile
from rwkv_np.kernels.dots import DOTS
from rwkv_np.kernels.columns import GROUPS
from rwkv_np.kernels.emit import BYTES, I8, I32, I64, Emit, Variable
from rwkv_np.kernels.layout import BLOCK, SCALES

AHEAD = 12  # blocks
INFINITE = 0x7F800000  # the bits of infinity as float32; NaN has larger ones
PAST_L2, ALL_CACHES = 4, 1  # levels of Emit.prefetch: LLVM's locality 0 and 3


class SparseTile(ColumnTile):
    """Emits the product of one int8 vector with the active columns of a tile."""

    def __init__(self, emit, layout, path, args):
        super().__init__(emit, layout, path, 1, args)

    def emit_loop(self, sums):
        """Add all blocks with active columns to `sums`, a list for each group of rows."""
        emit = self.emit
        with emit.loop(AHEAD) as block:
            self._prefetch_active(block)
        with emit.loop(self.n_blocks) as block:
            self._prefetch_active(block + AHEAD)
            mask = active(emit, self.x, block)
            scale = emit.load(self.x, self._vector_part(0, SCALES, block, 4), I32) & 0x7FFFFFFF
            with emit.when(_is_nonzero(emit, mask | (scale >= INFINITE).converted("zext", I32))):
                self._begin(block)
                dots = self._active_sums(block, mask)
                for group in range(GROUPS):
                    self._add_scaled(group, block, 0, [dots[group]], sums[group])

    def _active_sums(self, block, mask):
        """The integer sums of the active columns, by group of rows."""
        emit, largest = self.emit, self.layout.weight_max
        initial = self._minus_zeros(0, block, 0)
        totals = [Variable(emit, initial) for _ in range(GROUPS)]
        left = Variable(emit, mask)
        with _repeated(emit, lambda: _is_nonzero(emit, left.get())):
            columns, activations = self._take_four(block, left)
            lines = self._lines(columns)
            for group in range(GROUPS):
                dot = DOTS[self.path](emit, totals[group].get(), largest)
                dot.add(lines.weights(group), activations)
                totals[group].set(dot.total())
        return [_Done(total.get()) for total in totals]

    def _take_four(self, block, left):
        """The next four active columns and their activations. If fewer are left: the first one again, times zero."""
        emit = self.emit
        columns, four = [], None
        for i in range(4):
            mask = left.get()
            found = emit.builder.icmp_unsigned("!=", mask.llvm, I32(0))
            column = _lowest_bit(emit, mask) & (BLOCK - 1)
            if columns:
                column = emit.value(emit.builder.select(found, column.llvm, columns[0].llvm))
            place = self._vector_part(0, 0, block, BLOCK) + column
            quant = emit.load(self.x, place, I8).converted("zext", I32)
            quant = emit.value(emit.builder.select(found, quant.llvm, I32(0)))
            four = quant if four is None else four | (quant << 8 * i)
            columns.append(column)
            left.set(mask & (mask - 1))
        return columns, emit.splat(four).as_kind(BYTES)

    def _prefetch_active(self, block):
        emit, columns = self.emit, self.columns
        inside = emit.builder.icmp_signed("<", block.llvm, self.n_blocks.llvm)
        with emit.builder.if_then(inside):
            mask = active(emit, self.x, block)
            with emit.when(_is_nonzero(emit, mask)):
                for line in range(0, columns.scales, 64):
                    emit.prefetch(self.tile, block * columns.scales + line, ALL_CACHES)
                self._prefetch_columns(self._columns(block), mask)

    def _prefetch_columns(self, start, mask):
        emit, left = self.emit, Variable(self.emit, mask)
        with _repeated(emit, lambda: _is_nonzero(emit, left.get())):
            column = _lowest_bit(emit, left.get())
            for half in range(0, self.columns.line, 64):
                emit.prefetch(self.tile, start + column * self.columns.line + half, PAST_L2)
            if self.columns.fifth:
                emit.prefetch(self.tile, self._fifth(start, column), PAST_L2)
            left.set(left.get() & (left.get() - 1))


class _Done:
    """Sums in the form of a dot product."""

    def __init__(self, total):
        self._total = total

    def total(self):
        """The 16 sums as int32."""
        return self._total


def active(emit, x, block):
    """A bit for each column of a block: whether its quant is not zero."""
    quants = emit.load(x, block * BLOCK, ir.VectorType(I8, BLOCK))
    found = emit.builder.icmp_unsigned("!=", quants.llvm, ir.Constant(quants.kind, [0] * BLOCK))
    return emit.value(found).as_kind(I32)


def _is_nonzero(emit, number):
    return emit.value(emit.builder.icmp_unsigned("!=", number.llvm, number.kind(0)))


def _lowest_bit(emit, mask):
    """The index of the lowest bit as int64; 32 if there is none."""
    return emit.value(emit.builder.cttz(mask.llvm, ir.Constant(ir.IntType(1), 0))).converted("zext", I64)


class _repeated:
    """Repeat the instructions emitted inside, at least once, as long as a condition holds afterwards."""

    def __init__(self, emit, condition):
        self.builder, self.condition = emit.builder, condition

    def __enter__(self):
        self.body = self.builder.append_basic_block("repeated")
        self.builder.branch(self.body)
        self.builder.position_at_end(self.body)

    def __exit__(self, *exception):
        behind = self.builder.append_basic_block("behind")
        self.builder.cbranch(self.condition().llvm, self.body, behind)
        self.builder.position_at_end(behind)


def emit_count(builder, x, n_blocks):
    """How many columns are active, and how many blocks have active columns: two int64 values."""
    emit = Emit(builder)
    n_columns, n_active = (Variable(emit, emit.constant(I64, 0)) for _ in range(2))
    with emit.loop(emit.value(n_blocks)) as block:
        mask = active(emit, x, block)
        ones = emit.call("llvm.ctpop.i32", I32, mask).converted("zext", I64)
        n_columns.set(n_columns.get() + ones)
        n_active.set(n_active.get() + _is_nonzero(emit, mask).converted("zext", I64))
    return n_columns.get(), n_active.get()


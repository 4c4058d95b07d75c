"""The product of a tile that is stored by columns (columns.py) with one vector, reading only its active columns.

A column is active if its activation is not zero. A block without active columns adds the product of zero and its
scales to each sum, which changes no bit of it, and so it is skipped. Active columns are taken four at a time from a
mask of 32 bits, and the sums of a block are then scaled as if all had been read. Bits are the same as in
`column_tile.py` as long as the scales of the weights are finite. A block whose activations are infinite or NaN has
zeros as quants (`activations.py`); it counts as active, so that NaN stays NaN.

The processor cannot guess the next active column, so it is prefetched AHEAD blocks before. The kind of prefetch
decides, and processors differ. On AMD's Zen 4 the value matrices of a 1.5B model with 11 % active columns take 3.9 ms
with prefetches into L2 and 8.2 ms with those past it (8 ms if all columns are read); other products take the same
time with both. On an Intel Xeon, columns that go through L2 slow down the *following* products, which read memory in
order, by a fifth: a token takes 72 ms dense, 70 with all prefetches into all caches, 66 with all of them past L2, and
60 with the columns past it and the scales, which come in order, into all of them.
"""

from llvmlite import ir
from rwkv_np.kernels.column_pairs import COLUMNS, PairSums
from rwkv_np.kernels.column_tile import ColumnTile
from rwkv_np.kernels.columns import GROUPS
from rwkv_np.kernels.dispatch import is_intel
from rwkv_np.kernels.dots import DOTS
from rwkv_np.kernels.emit import BYTES, I8, I16, I32, I64, Emit, Variable
from rwkv_np.kernels.layout import BLOCK, SCALES, VECTOR_BLOCK, quants_at

AHEAD = 12  # blocks; with 8 or 24 a token takes 1 to 2 % longer
INFINITE = 0x7F800000  # the bits of infinity as float32; NaN has larger ones
# Levels of Emit.prefetch for columns and for scales: 1 is all caches, 2 L2 and beyond, 4 none but the nearest.
LEVELS = (4, 1) if is_intel() else (2, 2)


class SparseTile(ColumnTile):
    """Emits the product of one int8 vector with the active columns of a tile."""

    def __init__(self, emit, layout, path, args):
        super().__init__(emit, layout, path, 1, args)
        self.has_pairs = self.has_pairs and COLUMNS[layout.bits] == BLOCK

    def emit_loop(self, sums):
        """Add all blocks with active columns to `sums`, a list for each group of rows."""
        emit = self.emit
        with emit.loop(AHEAD) as block:
            self._prefetch_active(block)
        with emit.loop(self.n_blocks) as block:
            self._prefetch_active(block + AHEAD)
            mask = active(emit, self.x, block)
            scale = self._number(SCALES, 0, block) & 0x7FFFFFFF
            with emit.when(_is_nonzero(emit, mask | (scale >= INFINITE).converted("zext", I32))):
                self._begin(block)
                find = self._active_pairs if self.has_pairs else self._active_sums
                self._add_totals(block, find(block, mask), sums)

    def _active_sums(self, block, mask):
        """The integer sums of the active columns, by group of rows."""
        emit, largest = self.emit, self.layout.weight_max
        initial = self._minus_zeros(0, block, 0)
        totals = [Variable(emit, initial) for _ in range(GROUPS)]
        left = Variable(emit, mask)
        with _repeated(emit, lambda: _is_nonzero(emit, left.get())):
            columns, four = self._take_four(block, left)
            activations = emit.splat(four).as_kind(BYTES)
            lines = self._lines(columns)
            for group in range(GROUPS):
                dot = DOTS[self.path](emit, totals[group].get(), largest)
                dot.add(lines.weights(group), activations)
                totals[group].set(dot.total())
        return [total.get() for total in totals]

    def _active_pairs(self, block, mask):
        """The same in 16 bits, if those of a whole block fit."""
        emit, adder = self.emit, PairSums(self.emit, self.layout, self.path, self.tile)
        sums, left = [Variable(emit, zero) for zero in adder.zeros()], Variable(emit, mask)
        with _repeated(emit, lambda: _is_nonzero(emit, left.get())):
            columns, four = self._take_four(block, left)
            lines, fifths = self._places(columns)
            found = [total.get() for total in sums]
            for i in (0, 2):
                two = four.shifted_right(8 * i).converted("trunc", I16)
                found = adder.added(found, lines[i : i + 2], fifths[i : i + 2], two)
            for total, value in zip(sums, found):
                total.set(value)
        return adder.widened([total.get() for total in sums], [self._minus_zeros(0, block, 0)] * GROUPS)

    def _take_four(self, block, left):
        """The next four active columns, and their activations as one number.

        If fewer are left, the others are the first one again, times zero.
        """
        emit, four = self.emit, None
        columns, found = _next_four(emit, left)
        for i, column in enumerate(columns):
            quant = emit.load(self.x, self._of_vector(quants_at(0), block) + column, I8).converted("zext", I32)
            quant = emit.value(emit.builder.select(found[i].llvm, quant.llvm, I32(0)))
            four = quant if four is None else four | (quant << 8 * i)
        return columns, four

    def _prefetch_active(self, block):
        """Prefetch the active columns of a block; behind the last one, those of the next tile, which often follows."""
        emit, builder = self.emit, self.emit.builder
        is_behind = builder.icmp_signed(">=", block.llvm, self.n_blocks.llvm)
        wrapped = emit.value(builder.select(is_behind, self.n_blocks.llvm, I64(0)))
        start = wrapped * (self.columns.scales + self.columns.quants)
        block = block - wrapped
        last = self.n_blocks - 1  # there may be fewer blocks than AHEAD
        block = (block >= last).choose(last, block)
        mask = active(emit, self.x, block)
        with emit.when(_is_nonzero(emit, mask)):
            for line in range(0, self.columns.scales, 64):
                emit.prefetch(self.tile, start + (block * self.columns.scales + line), LEVELS[1])
            self._prefetch_columns(start + self._columns(block), mask)

    def _prefetch_columns(self, start, mask):
        """Four at a time, as they are read: a loop over single columns ends where the processor does not expect it."""
        emit, left = self.emit, Variable(self.emit, mask)
        with _repeated(emit, lambda: _is_nonzero(emit, left.get())):
            for column in _next_four(emit, left)[0]:
                for half in range(0, self.columns.line, 64):
                    emit.prefetch(self.tile, start + column * self.columns.line + half, LEVELS[0])
                if self.columns.fifth:
                    emit.prefetch(self.tile, self._fifth(start, column), LEVELS[0])


def active(emit, x, block):
    """A bit for each column of a block: whether its quant is not zero."""
    quants = emit.load(x, block * VECTOR_BLOCK + quants_at(0), ir.VectorType(I8, BLOCK))
    found = emit.builder.icmp_unsigned("!=", quants.llvm, ir.Constant(quants.kind, [0] * BLOCK))
    return emit.value(found).as_kind(I32)


def _next_four(emit, left):
    """Take four columns from the mask in a Variable: their indexes, and whether each is one, not the first again."""
    columns, found = [], []
    for _ in range(4):
        mask = left.get()
        found.append(_is_nonzero(emit, mask))
        column = _lowest_bit(emit, mask) & (BLOCK - 1)
        columns.append(found[-1].choose(column, columns[0]) if columns else column)
        left.set(mask & (mask - 1))
    return columns, found


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

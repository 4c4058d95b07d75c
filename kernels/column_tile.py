"""The product of a tile that is stored by columns (columns.py) with 1, 2, 4 or 8 vectors, reading all columns.

The arithmetic is that of `int8_tile.py`, in the same order, so the results are the same to the last bit. Only
unpacking differs: the bytes of four lines are interleaved first. That is one instruction more for each 64 weights, if
all 128 rows of a tile are unpacked together. With many vectors their sums do not fit in the registers, so the rows
are unpacked in turns, and the float sums stay in the results' memory.
"""

from rwkv_np.kernels import column_pairs
from rwkv_np.kernels.column_pairs import PairSums, interleaved, shuffled
from rwkv_np.kernels.columns import FIFTH, GROUPS, ROWS, Columns
from rwkv_np.kernels.dots import DOTS
from rwkv_np.kernels.emit import BYTE_LANES, BYTES, FLOATS, I16, I64, SHORTS, Variable
from rwkv_np.kernels.int8_tile import STEPS, Int8Tile
from rwkv_np.kernels.layout import BLOCK, quants_at

# Groups of 16 rows that are unpacked together, by path and number of vectors: as many as there are registers for
# the sums. Two share the nibbles of a register, four the first interleaving.
TOGETHER = {"vnni": {1: 8, 2: 8, 4: 4, 8: 2}, "neon": {1: 4, 2: 2, 4: 2}}
TOGETHER_ELSEWHERE = {1: 2, 2: 2, 4: 2}
SHARED = 4  # groups that share what was interleaved first: shared by 8, it is stored and loaded again
# How many blocks ahead to prefetch into which cache level, by the number of vectors. The lines of a block are
# prefetched throughout a block: all at once, eight vectors took 1.25 times as long. With one vector the processor
# prefetches best by itself, since the scales and the columns are two streams in the order of their addresses.
DISTANCES = {1: (), 2: ((4, 2),), 4: ((4, 2),), 8: ((4, 2),)}


class Lines:
    """Four columns of a tile, in registers: gives their weights for 16 rows in the order of the dot products."""

    def __init__(self, emit, layout, path, tile, lines, fifths):
        self.emit, self.layout, self.path, self.tile = emit, layout, path, tile
        self.lines, self.fifths, self.known = lines, fifths, {}

    def weights(self, group):
        """The quants of a group, as the path multiplies them."""
        quants = self.quants(group)
        return quants ^ -128 if self.layout.bits == 8 and not DOTS[self.path].signed_weights else quants

    def quants(self, group):
        """Byte 4r + i is column i of row r of the group."""
        if self.layout.bits == 8:
            return self._rows(group // 4, group % 4)
        both = self._rows(0, group // 2)
        if group % 2:
            both = both.as_kind(SHORTS).shifted_right(4).as_kind(BYTES)
        nibbles = both & 15
        return nibbles | self._fifth_bits(group) if self.layout.bits == 5 else nibbles

    def _once(self, make, *key):
        known = (make, *key)
        if known not in self.known:
            self.known[known] = make(self, *key)
        return self.known[known]

    def _rows(self, half, quarter):
        return self._once(Lines._interleaved_pairs, half, quarter)

    def _load(self, half, i):
        return self.emit.load(self.tile, self.lines[i] + 64 * half, BYTES)

    def _pair(self, half, pair, high):
        lines = [self._once(Lines._load, half, 2 * pair + i) for i in range(2)]
        return interleaved(self.emit, *lines, high).as_kind(SHORTS)

    def _interleaved_pairs(self, half, quarter):
        pairs = [self._once(Lines._pair, half, pair, quarter // 2) for pair in range(2)]
        return interleaved(self.emit, *pairs, quarter % 2).as_kind(BYTES)

    def _fifth_bits(self, group):
        bits = self._once(Lines._all_fifth_bits)
        bits = bits << 4 - group if group < 4 else bits.shifted_right(group - 4)
        return bits.as_kind(BYTES) & 16

    def _all_fifth_bits(self):
        """Bit g of byte 4r + i: that of column i of row r of group g."""
        emit = self.emit
        together = emit.join([emit.load(self.tile, fifth, BYTE_LANES) for fifth in self.fifths])
        order = [FIFTH * (i % 4) + i // 4 for i in range(BYTES.count)]
        return shuffled(emit, together, together, order).as_kind(SHORTS)


class InMemory:
    """A sum of 16 rows that stays where the result is wanted."""

    def __init__(self, emit, pointer, offset):
        self.emit, self.pointer, self.offset = emit, pointer, offset
        self.set(emit.constant(FLOATS, 0.0))

    def get(self):
        """The current value."""
        return self.emit.load(self.pointer, self.offset, FLOATS)

    def set(self, value):
        """Assign `value`."""
        self.emit.store(value, self.pointer, self.offset)


class Done:
    """Sums in the form of a dot product."""

    def __init__(self, total):
        self._total = total

    def total(self):
        """The 16 sums as int32."""
        return self._total


class ColumnTile(Int8Tile):
    """Emits the product of up to 8 int8 vectors with all columns of a tile."""

    tile_rows = ROWS

    def __init__(self, emit, layout, path, count, args):
        super().__init__(emit, layout, path, count, args)
        self.columns = Columns(layout)
        self.together = TOGETHER.get(path, TOGETHER_ELSEWHERE)[count]
        self.has_pairs = count == 1 and path in column_pairs.PATHS and layout.bits in column_pairs.COLUMNS

    def emit_product(self, out, out_stride):
        """Write the products of 128 rows with each vector to `out`, `out_stride` floats apart."""
        emit = self.emit
        places = [[out_stride * (4 * v) + 64 * g for v in range(self.count)] for g in range(GROUPS)]
        if self.count > 1:
            self.emit_loop([[InMemory(emit, out, place) for place in row] for row in places])
            return
        sums = [[Variable(emit, emit.constant(FLOATS, 0.0))] for _ in range(GROUPS)]
        self.emit_loop(sums)
        for group in range(GROUPS):
            emit.store(sums[group][0].get(), out, places[group][0])

    def emit_loop(self, sums):
        """Add all blocks to `sums`, a list for each group of rows."""
        with self.emit.loop(self.n_blocks) as block:
            self._begin(block)
            if self.has_pairs:
                self._add_totals(block, self._pair_sums(block), sums)
            else:
                self._add_turns(block, sums)

    def _add_turns(self, block, sums):
        for first in range(0, GROUPS, self.together):
            if first % SHARED == 0:
                lines = {}
            groups = range(first, first + self.together)
            dots = self._integer_sums(groups, block, 0, dict.fromkeys(groups, lines))
            for group in groups:
                self._add_scaled(group, block, 0, dots[group], sums[group])

    def _add_totals(self, block, totals, sums):
        for group in range(GROUPS):
            self._add_scaled(group, block, 0, [Done(totals[group])], sums[group])

    def _begin(self, block):
        self.head, self.start = block * self.columns.scales, self._columns(block)

    def _columns(self, block):
        """Where the columns of a block begin."""
        return self.n_blocks * self.columns.scales + block * self.columns.quants

    def _pair_sums(self, block):
        """The integer sums of all columns of a block, by group of rows."""
        adder = PairSums(self.emit, self.layout, self.path, self.tile)
        totals = [self._minus_zeros(0, block, 0)] * GROUPS
        fit = column_pairs.COLUMNS[self.layout.bits]
        for first in range(0, BLOCK, fit):
            totals = adder.widened(self._sums_of_pairs(block, adder, first, fit), totals)
        return totals

    def _sums_of_pairs(self, block, adder, first, n):
        """The sums of n columns. In a straight line LLVM would load more of them early than fit in the registers."""
        emit, sums = self.emit, [Variable(self.emit, zero) for zero in adder.zeros()]
        with emit.loop(n // 8) as i:
            found = [total.get() for total in sums]
            for column in range(first, first + 8, 2):
                columns = [i * 8 + (column + j) for j in range(2)]
                activations = emit.load(self.x, self._of_vector(quants_at(0), block) + columns[0], I16)
                found = adder.added(found, *self._places(columns), activations)
            for total, value in zip(sums, found):
                total.set(value)
        return [total.get() for total in sums]

    def _weights(self, group, step, raw):
        if step not in raw:
            columns = [self.emit.constant(I64, 4 * step + i) for i in range(4)]
            raw[step] = self._lines(columns)
        return raw[step].weights(group)

    def _lines(self, columns):
        """Four columns of the current block."""
        return Lines(self.emit, self.layout, self.path, self.tile, *self._places(columns))

    def _places(self, columns):
        """Where the lines and the fifth bits of columns of the current block are."""
        lines = [self.start + column * self.columns.line for column in columns]
        return lines, [self._fifth(self.start, column) for column in columns]

    def _fifth(self, start, column):
        return start + BLOCK * self.columns.line + column * FIFTH

    def _add_step(self, groups, block, step, raw, dots):
        n_turns = GROUPS // self.together
        self._prefetch_share(block, STEPS * (groups[0] // self.together) + step, STEPS * n_turns)
        super()._add_step(groups, block, step, raw, dots)

    def _prefetch_share(self, block, i, n):
        """Prefetch the i-th of n shares of what a block takes."""
        for blocks, level in DISTANCES[self.count]:
            ahead = block + blocks
            places = [ahead * self.columns.scales + line for line in range(0, self.columns.scales, 64)]
            places += [self._columns(ahead) + line for line in range(0, self.columns.quants, 64)]
            for place in places[i * len(places) // n : (i + 1) * len(places) // n]:
                self.emit.prefetch(self.tile, place, level)

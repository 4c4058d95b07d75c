"""The product of a tile that is stored by columns (columns.py) with 16 or 32 vectors, with AMX: as in amx_tile.py.

A tile has 128 rows, and AMX's registers take the sums of 32 rows with 32 vectors. So the rows are multiplied in four
turns. Each reads all lines, from the second turn on out of the second-level cache, and unpacks a quarter of them.
"""

from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.amx_tile import AmxTile
from rwkv_np.kernels.column_tile import Lines
from rwkv_np.kernels.columns import FIFTH, GROUPS, ROWS, Columns
from rwkv_np.kernels.emit import FLOATS, Variable

AHEAD = 4  # blocks that are prefetched ahead into L2, as for eight vectors (column_tile.py)


class AmxColumnTile(AmxTile):
    """Emits the product of 16 or 32 int8 vectors with all columns of a tile."""

    tile_rows = ROWS

    def __init__(self, emit, layout, path, count, args):
        super().__init__(emit, layout, path, count, args)
        self.columns, self.turn = Columns(layout), 0

    def emit_product(self, out, out_stride):
        """Write the products of 128 rows with each vector to `out`, `out_stride` floats apart."""
        emit = self.emit
        for self.turn in range(GROUPS // lay.GROUPS):
            zero = emit.constant(FLOATS, 0.0)
            sums = [[Variable(emit, zero) for _ in range(self.count)] for _ in range(lay.GROUPS)]
            self.emit_loop(sums)
            for group in range(lay.GROUPS):
                for vector in range(self.count):
                    place = out_stride * (4 * vector) + 64 * self._of_tile(group)
                    emit.store(sums[group][vector].get(), out, place)

    def _of_tile(self, group):
        """The number in the tile of a group of this turn."""
        return lay.GROUPS * self.turn + group

    def _enter(self, block):
        """Set where the scales and the columns of a block begin."""
        self.head, self.start = block * self.columns.scales, self._columns(block)

    def _columns(self, block):
        return self.n_blocks * self.columns.scales + block * self.columns.quants

    def _signed(self, group, step, raw, shared):
        if step not in shared:
            columns = range(4 * step, 4 * step + 4)
            lines = [self.start + column * self.columns.line for column in columns]
            fifths = [self.start + (lay.BLOCK * self.columns.line + column * FIFTH) for column in columns]
            shared[step] = Lines(self.emit, self.layout, self.path, self.tile, lines, fifths)
        quants = shared[step].quants(self._of_tile(group))
        return quants - self.layout.zero if self.layout.zero else quants

    def _scale(self, group, part, index):
        return super()._scale(self._of_tile(group), part, index)

    def _prefetch(self, block):
        """Prefetch the scales and lines of a later block; the first turn brings them into L2 for all."""
        if self.turn:
            return
        ahead = block + AHEAD
        places = [ahead * self.columns.scales + line for line in range(0, self.columns.scales, 64)]
        places += [self._columns(ahead) + line for line in range(0, self.columns.quants, 64)]
        for place in places:
            self.emit.prefetch(self.tile, place, 2)

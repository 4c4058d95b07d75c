"""The product of a tile of FP16, BF16 or FP32 weights with float32 vectors, as instructions: part of `tiles.py`."""

from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.dots import half_to_float
from rwkv_np.kernels.emit import F32, FLOATS, HALVES, INTS


class FloatTile:
    """Emits the product of float32 vectors with a tile of FP16, BF16 or FP32 weights."""

    UNROLLED = 4  # columns in one iteration of the loop

    def __init__(self, emit, layout, path, count, args):
        self.emit, self.layout, self.path, self.count = emit, layout, path, count
        self.tile, _, self.values, self.stride, self.n_blocks = args

    def emit_loop(self, sums):
        """Add all columns to `sums`, a list of Variables for each group of rows."""
        with self.emit.loop(self.n_blocks * (lay.BLOCK // self.UNROLLED)) as turn:
            for i in range(self.UNROLLED):
                self._add_column(turn * self.UNROLLED + i, sums)

    def _add_column(self, column, sums):
        emit = self.emit
        weights = [self._weights(column, group) for group in range(lay.GROUPS)]
        for vector in range(self.count):
            x = emit.splat(emit.load(self.values, self.stride * vector + column * 4, F32))
            for group, w in enumerate(weights):
                sums[group][vector].set(emit.fma(w, x, sums[group][vector].get()))

    def _weights(self, column, group):
        size = self.layout.bits // 8
        start = column * (lay.TILE_ROWS * size) + 16 * size * group
        if size == 4:
            return self.emit.load(self.tile, start, FLOATS)
        halves = self.emit.load(self.tile, start, HALVES)
        if self.layout.is_bfloat:
            return (halves.converted("zext", INTS) << 16).as_kind(FLOATS)
        return half_to_float(self.emit, halves, self.path)

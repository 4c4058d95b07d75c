"""The product of a tile of quantized weights with 16 or 32 vectors, with AMX: part of `tiles.py`.

For each block of 32 columns AMX multiplies 16 vectors with 16 rows of the tile at once (amx.py). Its sums go through
memory, and are scaled as in int8_tile.py: integers are exact, and the float operations are the same in the same order,
so the bits are those of the VNNI kernels.

What one unit does for a block, another has prepared during the block before: while AMX multiplies block b, the vector
units unpack the weights of b + 1 and scale the sums of b - 1. Loads of registers do not see stores that are still
waiting, so both go to buffers that alternate. With 32 vectors, every unpacked weight is used twice.
"""

from llvmlite import ir
from rwkv_np.kernels import amx
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.dots import look_up_bytes
from rwkv_np.kernels.emit import F32, FLOATS, I8, I64, INTS
from rwkv_np.kernels.int8_tile import STEPS, Int8Tile, unpack

LEAST = amx.ROWS  # vectors
WEIGHTS_BYTES = lay.GROUPS * STEPS * amx.ROW_BYTES  # of a block, unpacked
BUFFERS = 2
# Tiles of sums, one for 16 vectors and 16 rows; then two of vectors, and two of weights.
VECTORS, WEIGHTS = 4, 6


def is_suited(layout: lay.Layout) -> bool:
    """Whether the kernel knows the layout: one scale for 32 columns, and no outliers."""
    return not layout.is_float and layout.n_parts == 1 and not layout.has_outliers


class AmxTile(Int8Tile):
    """Emits the product of 16 or 32 int8 vectors with a tile of a quantized format."""

    instructions = amx.Instructions

    def emit_loop(self, sums):
        """Add all blocks to `sums`, a list of Variables for each group of rows."""
        emit = self.emit
        self.n_tens = self.count // amx.ROWS  # groups of 16 vectors
        self.weights = self._room(BUFFERS * WEIGHTS_BYTES)
        self.results = self._room(BUFFERS * self._result_bytes)
        self.unit = self.instructions(emit, self._shapes())
        first, last = emit.constant(I64, 0), self.n_blocks - 1
        self._unpack_block(first)
        self._multiply_and_unpack(first, last)
        with emit.loop(last) as before:
            self._prefetch(before)
            self._multiply_and_unpack(before + 1, last)
            self._scale_block(before, sums)
        self.unit.release()
        self._scale_block(last, sums)

    def _multiply_and_unpack(self, block, last):
        self._multiply(block)
        # The last block is unpacked again instead of one behind the end.
        self._unpack_block((block < last).choose(block + 1, last))

    def _room(self, n_bytes):
        """Memory on the stack, aligned to cache lines."""
        builder = self.emit.builder
        with builder.goto_entry_block():
            room = builder.alloca(ir.ArrayType(I8, n_bytes))
        room.align = 64
        return builder.bitcast(room, I8.as_pointer())

    @property
    def _result_bytes(self):
        return self.n_tens * lay.GROUPS * amx.REGISTER_BYTES

    def _shapes(self):
        found = {self._sums(ten, group): (amx.ROWS, amx.ROW_BYTES) for ten, group in self._pairs()}
        found |= {VECTORS + ten: (amx.ROWS, lay.BLOCK) for ten in range(self.n_tens)}
        return found | {WEIGHTS + group: (STEPS, amx.ROW_BYTES) for group in range(lay.GROUPS)}

    def _pairs(self):
        return [(ten, group) for ten in range(self.n_tens) for group in range(lay.GROUPS)]

    def _sums(self, ten, group):
        return lay.GROUPS * ten + group

    def _buffer(self, block, n_bytes):
        return (block & (BUFFERS - 1)) * n_bytes

    def _enter(self, block):
        """Set where a block and its scales begin."""
        layout = self.layout
        if not layout.part_bits:
            self.head = self.start = block * layout.block_bytes
            return
        within = block & (lay.SUPERBLOCK - 1)
        self.head = block.shifted_right(3) * layout.superblock_bytes
        self.start = self.head + layout.head + within * layout.block_bytes
        before_all = self.head + layout.shared_scales + within * layout.part_scales
        self.part_scales = self.start if layout.scales else before_all

    def _unpack_block(self, block):
        """The weights of a block as signed bytes, in the order of `amx`."""
        self._enter(block)
        buffer, shared = self._buffer(block, WEIGHTS_BYTES), {}
        for group in range(lay.GROUPS):
            raw = {}
            for step in range(STEPS):
                at = amx.ROW_BYTES * (STEPS * group + step)
                self.emit.store(self._signed(group, step, raw, shared), self.weights, buffer + at)

    def _signed(self, group, step, raw, shared):
        """The 64 weights of a step of 16 rows; `raw` stores what steps share, and `shared` what groups share."""
        start = self.start + self.layout.scales + group * self.layout.group_quants
        quants = unpack(self.emit, self.layout, self.tile, start, step, raw)
        if self.layout.table:
            return look_up_bytes(self.emit, list(self.layout.table), quants, self.path)
        return quants - self.layout.zero if self.layout.zero else quants

    def _multiply(self, block):
        """The integer sums of a block: 16 int32 for each vector, in tiles of 16 vectors."""
        unit, buffer = self.unit, self._buffer(block, WEIGHTS_BYTES)
        for group in range(lay.GROUPS):
            unit.load(WEIGHTS + group, self.weights, buffer + amx.ROW_BYTES * STEPS * group, amx.ROW_BYTES)
        for ten in range(self.n_tens):
            unit.load(VECTORS + ten, self.x, self._of_vector(lay.quants_at(amx.ROWS * ten), block), lay.BLOCK)
            for group in range(lay.GROUPS):
                unit.zero(self._sums(ten, group))
                unit.dot(self._sums(ten, group), VECTORS + ten, WEIGHTS + group)
        buffer = self._buffer(block, self._result_bytes)
        for pair in self._pairs():
            place = buffer + amx.REGISTER_BYTES * self._sums(*pair)
            unit.store(self._sums(*pair), self.results, place, amx.ROW_BYTES)

    def _scale_block(self, block, sums):
        emit = self.emit
        self._enter(block)
        d = [self._scale(group, 0, 0) for group in range(lay.GROUPS)]
        m = [self._scale(group, 0, 1) for group in range(lay.GROUPS)] if self.layout.has_min else None
        buffer = self._buffer(block, self._result_bytes)
        for vector in range(self.count):
            scale = emit.splat(self._number(lay.SCALES, vector, block, F32))
            part_sum = emit.splat(self._number(lay.SUMS, vector, block, F32)) if m else None
            ten, row = divmod(vector, amx.ROWS)
            for group in range(lay.GROUPS):
                place = buffer + amx.REGISTER_BYTES * self._sums(ten, group) + amx.ROW_BYTES * row
                total = emit.load(self.results, place, INTS).converted("sitofp", FLOATS) * scale
                result = emit.fma(total, d[group], sums[group][vector].get())
                if m:
                    result = emit.fma(m[group], part_sum, result)
                sums[group][vector].set(result)

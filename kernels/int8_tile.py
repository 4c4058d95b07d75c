"""The product of a tile of quantized weights with int8 vectors, as instructions: part of `tiles.py`.

A block is 8 steps of four columns, whose weights are unpacked in registers from planes of bits (layout.py).
Sums of products are integers, and therefore exact, up to where they are multiplied with a scale. A format has

    a scale for each block                      its sum is scaled once
    an integer for each block, or each of its   the integer times the scale of 8 blocks is exact in float32, so a
    two parts (GGUF's types K, IQ4_XS)          part is scaled like a block
    the same, with sums below 2^15              both sums of a row, in one lane, are multiplied with both integers
    (Q2_K, Q3_K)                                by one instruction: 13.9 ns for a block of Q2_K instead of 15.1

How a step is added depends on the path (dots.py).
"""

from llvmlite import ir
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.dots import DOTS, half_to_float, look_up, look_up_bytes, multiply_pairs
from rwkv_np.kernels.emit import BYTE_LANES, BYTES, F32, FLOATS, HALVES, I8, I16, I32, INTS, SHORTS

STEPS = 8  # steps of four columns in a block
# Prefetch distances: how many bytes ahead, and into which cache level, by the number of vectors.
# With one vector the processor prefetches well by itself, if lines come in the order of their addresses.
# Those of a block do not quite (fifth bits, scales), and prefetching them a little earlier fixes that. On two
# Zen 4 cores whose memory gives 60 to 73 GB/s this reads all formats at .93 to 1.0 of that rate; without
# prefetching, Q5_1 is read at .57 and Q4_1 at 1.0; with a long distance all are read at .75.
# With four or more vectors a block takes so long that the processor does not prefetch far enough: without
# these instructions, four take 1.6 times as long. L1 allows too few outstanding lines for the whole distance,
# so L2 comes first. (For eight, 4 KB ahead into L2 alone is 3 % faster in a matrix that is read from end to end. In a
# whole model a prompt then takes 1 % less, but a step of eight sequences 1 to 3 % more.)
NEAR = ((448, 1),)
FAR = ((16384, 2), (2048, 1))
AHEAD = {1: NEAR, 2: FAR, 4: FAR, 8: FAR, 16: FAR, 32: FAR}


def unpack(emit, layout, tile, start, step, raw):
    """The 64 quants of one step; `raw` stores what several steps share."""
    if layout.bits == 8:
        return emit.load(tile, start + 64 * step, BYTES)
    quants, at = None, 0
    for bits in lay.PLANES[layout.bits]:
        part = _plane(emit, tile, start + 64 * at, step, bits, at, raw)
        quants, at = part if quants is None else quants | part, at + bits
    return quants


def _weights(emit, layout, path, tile, start, step, raw):
    """The 64 weight bytes of one step, as the path multiplies them."""
    quants = unpack(emit, layout, tile, start, step, raw)
    if layout.bits == 8 and not DOTS[path].signed_weights:
        return quants ^ -128
    if layout.table:
        return look_up_bytes(emit, [value + _zero_point(layout, path) for value in layout.table], quants, path)
    return quants


def _plane(emit, tile, start, step, bits, at, raw):
    """The bits of one step in a plane of `bits` bits that starts at `start`, moved to bit `at` of each byte."""
    vector, shift = step % bits, bits * (step // bits) - at
    if (at, vector) not in raw:
        raw[at, vector] = emit.load(tile, start + 64 * vector, SHORTS)
    words = raw[at, vector]
    if shift > 0:
        words = words.shifted_right(shift)
    elif shift < 0:
        words = words << -shift
    return words.as_kind(BYTES) & ((2**bits - 1) << at)


def _zero_point(layout, path):
    if layout.weight_max == 128 and not DOTS[path].signed_weights:
        return 128
    return layout.zero


class Int8Tile:
    """Emits the product of `count` vectors, from `first` on in a group of `of`, with a tile of a quantized format."""

    tile_rows = lay.TILE_ROWS

    def __init__(self, emit, layout, path, count, args, first=0, of=None):
        self.emit, self.layout, self.path, self.count = emit, layout, path, count
        self.first, self.of = first, of or count
        self.tile, self.x, self.values, self.stride, self.n_blocks = args
        # Groups of rows that share a broadcast activation. If a group is two registers of 16 lanes, the
        # sums of one group fill the registers. With one vector there is little to share, and it is better
        # to read a tile from its first byte to its last: Q8_0 at 35 GB/s, the full rate, instead of 27.
        self.together = lay.GROUPS if path == "vnni" and count > 1 else 1

    def emit_loop(self, sums):
        """Add all blocks to `sums`, a list of Variables for each group of rows."""
        layout = self.layout
        if not layout.part_bits:
            with self.emit.loop(self.n_blocks) as block:
                self.head = self.start = block * layout.block_bytes
                self._add_block(block, sums)
            return
        # Two loops: what 8 blocks share is loaded once. Loaded for each block, with one vector Q4_K was read at
        # .84 of 55 GB/s and Q6_K at .83; so it is .94 to 1.0 and .99.
        with self.emit.loop(self.n_blocks.shifted_right(3)) as superblock:
            self.head = superblock * layout.superblock_bytes
            with self.emit.loop(lay.SUPERBLOCK) as within:
                self.start = self.head + layout.head + within * layout.block_bytes
                # The integers come before the quants of their block, or of all 8 blocks.
                before_all = self.head + layout.shared_scales + within * layout.part_scales
                self.part_scales = self.start if layout.scales else before_all
                self._add_block(superblock * lay.SUPERBLOCK + within, sums)

    def _add_block(self, block, sums):
        self._prefetch(block)
        for first in range(0, lay.GROUPS, self.together):
            groups = range(first, first + self.together)
            raw = {group: {} for group in groups}
            if self.layout.has_pairs:
                self._add_pairs(groups, block, raw, sums)
                continue
            for part in range(self.layout.n_parts):
                dots = self._integer_sums(groups, block, part, raw)
                for group in groups:
                    self._add_scaled(group, block, part, dots[group], sums[group])

    def _prefetch(self, block):
        """Prefetch as many bytes as a block takes on average: what 8 blocks share is prefetched with them."""
        n_bytes = self.layout.tile_bytes(lay.SUPERBLOCK) // lay.SUPERBLOCK
        for ahead, level in AHEAD[self.count]:
            for line in range(ahead, ahead + n_bytes, 64):
                self.emit.prefetch(self.tile, block * n_bytes + line, level)

    def _of_vector(self, at, block):
        """The place `at` in a block of the vectors."""
        return block * (lay.VECTOR_BLOCK * self.of) + at

    def _number(self, which, vector, block, kind=I32):
        """One of the four numbers of a vector's block."""
        return self.emit.load(self.x, self._of_vector(lay.number_at(which, self.first + vector, self.of), block), kind)

    def _integer_sums(self, groups, block, part, raw):
        emit, dot = self.emit, DOTS[self.path]
        dots = {group: [] for group in groups}
        for vector in range(self.count):
            initial = self._minus_zeros(vector, block, part)
            for group in groups:
                dots[group].append(dot(emit, initial, self.layout.weight_max))
        self._add_steps(groups, block, part, raw, dots)
        return dots

    def _add_steps(self, groups, block, part, raw, dots):
        n_steps = STEPS // self.layout.n_parts
        for step in range(part * n_steps, (part + 1) * n_steps):
            self._add_step(groups, block, step, raw, dots)

    def _minus_zeros(self, vector, block, part):
        """What the zero point adds to each sum of a part."""
        emit, zero = self.emit, _zero_point(self.layout, self.path)
        if not zero:
            return emit.constant(INTS, 0)
        if self.layout.n_parts == 1:
            return emit.splat(self._number(lay.ZEROS, vector, block) * (zero // 8))
        both = self._halves(vector, block)
        half = both.converted("trunc", I16).converted("sext", I32) if part else (both + 0x8000).shifted_right(16, True)
        return emit.splat(half * -zero)

    def _add_step(self, groups, block, step, raw, dots):
        emit = self.emit
        weights = {group: self._weights(group, step, raw[group]) for group in groups}
        for vector in range(self.count):
            four = emit.load(self.x, self._of_vector(lay.quants_at(self.first + vector) + 4 * step, block), I32)
            activations = emit.splat(four).as_kind(BYTES)
            for group in groups:
                dots[group][vector].add(weights[group], activations)

    def _weights(self, group, step, raw):
        """The 64 weight bytes of one step of 16 rows; `raw` stores what several steps share."""
        start = self.start + self.layout.scales + group * self.layout.group_quants
        return _weights(self.emit, self.layout, self.path, self.tile, start, step, raw)

    def _scale(self, group, part, index):
        """d (index 0) or m (index 1) of a part of 16 rows."""
        scale = self._shared_scale(group, index)
        if not self.layout.part_bits:
            return scale
        start = self.part_scales + lay.TILE_ROWS * (self.layout.n_parts * index + part) + 16 * group
        numbers = self.emit.load(self.tile, start, BYTE_LANES).converted("sext", INTS)
        return numbers.converted("sitofp", FLOATS) * scale  # exact: at most 8 bits times 11

    def _shared_scale(self, group, index):
        """d (index 0) or m (index 1) of 16 rows, as stored in a file."""
        size = self.layout.scale_bytes
        start = self.head + self.tile_rows * size * index + 16 * size * group
        if size == 4:
            return self.emit.load(self.tile, start, FLOATS)
        return half_to_float(self.emit, self.emit.load(self.tile, start, HALVES), self.path)

    def _add_scaled(self, group, block, part, dots, sums):
        emit, layout = self.emit, self.layout
        d = self._scale(group, part, 0)
        m = self._scale(group, part, 1) if layout.has_min else None
        outliers = self._outliers(group, block, m) if layout.has_outliers else None
        for vector in range(self.count):
            scale = emit.splat(self._number(lay.SCALES, vector, block, F32))
            total = dots[vector].total().converted("sitofp", FLOATS) * scale
            result = emit.fma(total, d, sums[vector].get())
            if m is not None:
                result = emit.fma(m, emit.splat(self._number(lay.SUMS, vector, block, F32)), result)
            if outliers is not None:
                difference, columns = outliers
                place = self.stride * (self.first + vector) + block * (4 * lay.BLOCK)
                result = emit.fma(difference, look_up(emit, self.values, place, columns, self.path), result)
            sums[vector].set(result)

    def _halves(self, vector, block):
        """65536 times the sum of a block's first 16 activations plus the sum of the others."""
        return self._number(lay.HALVES, vector, block)

    # --- two parts whose sums fit in 16 bits ---

    def _add_pairs(self, groups, block, raw, sums):
        dots = self._pair_sums(groups, block, raw)
        for group in groups:
            self._add_scaled_pairs(group, block, dots[group], sums[group])

    def _pair_sums(self, groups, block, raw):
        """Both sums of each row in one lane: the first part's in the upper 16 bits, the second's in the lower."""
        emit, dot, zero = self.emit, DOTS[self.path], self.layout.zero
        nothing = emit.constant(INTS, 0)
        dots = {group: [dot(emit, nothing, self.layout.weight_max) for _ in range(self.count)] for group in groups}
        self._add_steps(groups, block, 0, raw, dots)
        for vector in range(self.count):
            # The lower sum is stored plus 2^15, so that a negative one does not take one from the upper.
            add = emit.constant(INTS, 0x8000)
            if zero:
                add = emit.splat(self._halves(vector, block) * -zero + 0x8000)
            for group in groups:
                initial = (dots[group][vector].total() << 16) + add
                dots[group][vector] = dot(emit, initial, self.layout.weight_max)
        self._add_steps(groups, block, 1, raw, dots)
        return {group: [found.total() ^ 0x8000 for found in dots[group]] for group in groups}

    def _add_scaled_pairs(self, group, block, dots, sums):
        emit = self.emit
        scales, minima = self._pair_scales(group)
        d = self._shared_scale(group, 0)
        m = self._shared_scale(group, 1) if minima else None
        for vector in range(self.count):
            total = multiply_pairs(emit, dots[vector], scales, self.path).converted("sitofp", FLOATS) * d
            if minima:
                both = emit.splat((self._halves(vector, block) + 0x8000) ^ 0x8000)
                total = emit.fma(multiply_pairs(emit, both, minima, self.path).converted("sitofp", FLOATS), m, total)
            scale = emit.splat(self._number(lay.SCALES, vector, block, F32))
            sums[vector].set(emit.fma(total, scale, sums[vector].get()))

    def _pair_scales(self, group):
        """The integers of d of both parts of 16 rows, as 16-bit numbers in the order of the sums, and those of m."""
        start = self.part_scales + 32 * group
        if self.layout.part_bits == 8:
            numbers = self.emit.load(self.tile, start, ir.VectorType(I8, 32)).converted("sext", SHORTS)
            return numbers.as_kind(INTS), None
        nibbles = self.emit.load(self.tile, start, HALVES).converted("zext", INTS)
        nibbles = nibbles | (nibbles << 12)
        return nibbles & 0x000F000F, nibbles.shifted_right(8) & 0x000F000F

    def _outliers(self, group, block, m):
        """For each row, how much its outlier exceeds the minimum (the value of its zero nibble), and its column."""
        layout = self.layout
        values = block * layout.block_bytes + 2 * lay.TILE_ROWS * layout.scale_bytes
        columns = values + 2 * lay.TILE_ROWS + 16 * group
        value = half_to_float(self.emit, self.emit.load(self.tile, values + 32 * group, HALVES), self.path)
        return value - m, self.emit.load(self.tile, columns, BYTE_LANES)

"""Sums of int8 products: the one place where the paths differ.

A block is 32 columns of 16 rows: 8 steps of (64 weight bytes, 64 activation bytes), in which
byte 4r + i belongs to row r and to the i-th of four neighbouring columns. For each row
a path adds the 4 products of a step; after 8 steps lane r contains the row's integer sum.

vnni     vpdpbusd: unsigned weights times signed activations, 64 products in one instruction
neon     sdot: signed times signed, 16 products in one instruction
avx2     vpmaddubsw gives sums of two products in 16 bits, where several steps can be added up
generic  the same pair sums with plain 16-bit multiplications, which every target has

The weights of Q8_0 are signed 8-bit numbers, like the values of a table. vnni adds 128 to make them unsigned.
The other paths keep them signed, because their pair sums would not fit in 16 bits otherwise.
"""

import llvmlite.binding
from llvmlite import ir
from rwkv_np.kernels.emit import BYTE_LANES, BYTES, I8, I16, I32, INTS, SHORTS

INT16_MAX = 32767
ACTIVATION_MAX = 127


class Vnni:
    """AVX-512 VNNI."""

    signed_weights = False

    def __init__(self, emit, initial, weight_max):
        self.emit, self.sum = emit, initial

    def add(self, weights, activations):
        """Add the products of one step."""
        # LLVM 22 changed the type of the byte operands.
        kind = BYTES if llvmlite.binding.llvm_version_info[0] >= 22 else INTS
        w, x = weights.as_kind(kind), activations.as_kind(kind)
        self.sum = self.emit.call("llvm.x86.avx512.vpdpbusd.512", INTS, self.sum, w, x)

    def total(self):
        """The 16 sums as int32."""
        return self.sum


class Neon:
    """aarch64 with the dot product extension."""

    signed_weights = True

    def __init__(self, emit, initial, weight_max):
        self.emit = emit
        self.sums = [emit.part(initial, 4 * i, 4) for i in range(4)]

    def add(self, weights, activations):
        """Add the products of one step."""
        kind = ir.VectorType(I32, 4)
        for i in range(4):
            w, x = self.emit.part(weights, 16 * i, 16), self.emit.part(activations, 16 * i, 16)
            self.sums[i] = self.emit.call("llvm.aarch64.neon.sdot.v4i32.v16i8", kind, self.sums[i], w, x)

    def total(self):
        """The 16 sums as int32."""
        return self.emit.join(self.sums)


class Pairs:
    """Products added in pairs in 16 bits; widened to 32 bits before another step could overflow."""

    signed_weights = True

    def __init__(self, emit, initial, weight_max):
        self.emit, self.sum, self.pending = emit, initial, None
        self.steps = 0
        # 8 steps for 4-bit weights, 4 for 5 bits, 1 for the 8 bits of Q8_0 (128 * 127 * 2 = 32512).
        self.steps_that_fit = INT16_MAX // (2 * weight_max * ACTIVATION_MAX)

    def add(self, weights, activations):
        """Add the products of one step."""
        pairs = self.multiply(weights, activations)
        self.pending = pairs if self.pending is None else self.pending + pairs
        self.steps += 1
        if self.steps == self.steps_that_fit:
            self._widen()

    def _widen(self):
        self.sum = self.sum + self.widen(self.pending)
        self.pending, self.steps = None, 0

    def total(self):
        """The 16 sums as int32."""
        if self.pending is not None:
            self._widen()
        return self.sum


class Generic(Pairs):
    """Any target."""

    def __init__(self, emit, initial, weight_max):
        super().__init__(emit, initial, weight_max)
        self.weights_have_sign = weight_max == 128

    def multiply(self, weights, activations):
        """The pair sums of one step: even bytes and odd bytes, each as 16-bit numbers."""
        w, x = weights.as_kind(SHORTS), activations.as_kind(SHORTS)
        odd_w = w.shifted_right(8, signed=self.weights_have_sign)
        even_w = (w << 8).shifted_right(8, signed=True) if self.weights_have_sign else w & 255
        odd_x, even_x = x.shifted_right(8, signed=True), (x << 8).shifted_right(8, signed=True)
        return even_w * even_x + odd_w * odd_x

    def widen(self, shorts):
        """Add neighbours: 32 numbers of 16 bits to 16 numbers of 32 bits."""
        ints = shorts.as_kind(INTS)
        return ints.shifted_right(16, signed=True) + (ints << 16).shifted_right(16, signed=True)


class Avx2(Pairs):
    """AVX2, with 32 bytes per register: every 64 bytes are two halves."""

    def __init__(self, emit, initial, weight_max):
        super().__init__(emit, initial, weight_max)
        self.weights_have_sign = weight_max == 128

    def multiply(self, weights, activations):
        """The pair sums of one step."""
        bytes32, shorts16 = ir.VectorType(I8, 32), ir.VectorType(I16, 16)
        halves = []
        for start in (0, 32):
            w, x = self.emit.part(weights, start, 32), self.emit.part(activations, start, 32)
            if self.weights_have_sign:
                # The instruction needs an unsigned first operand: move the sign to the second.
                x = self.emit.call("llvm.x86.avx2.psign.b", bytes32, x, w)
                w = (w < 0).choose(self.emit.constant(bytes32, 0) - w, w)
            halves.append(self.emit.call("llvm.x86.avx2.pmadd.ub.sw", shorts16, w, x))
        return self.emit.join(halves)

    def widen(self, shorts):
        """Add neighbours: 32 numbers of 16 bits to 16 numbers of 32 bits."""
        ints8, shorts16 = ir.VectorType(I32, 8), ir.VectorType(I16, 16)
        ones = self.emit.constant(shorts16, 1)
        halves = [self.emit.part(shorts, start, 16) for start in (0, 16)]
        return self.emit.join([self.emit.call("llvm.x86.avx2.pmadd.wd", ints8, half, ones) for half in halves])


DOTS = {"generic": Generic, "neon": Neon, "avx2": Avx2, "vnni": Vnni}


def multiply_pairs(emit, a, b, path):
    """For 16 lanes of two 16-bit numbers: the sum of both products as int32."""
    if path == "vnni":
        return emit.call("llvm.x86.avx512.pmaddw.d.512", INTS, a.as_kind(SHORTS), b.as_kind(SHORTS))
    if path == "avx2":
        ints8, parts = ir.VectorType(I32, 8), []
        for start in (0, 16):
            halves = [emit.part(x.as_kind(SHORTS), start, 16) for x in (a, b)]
            parts.append(emit.call("llvm.x86.avx2.pmadd.wd", ints8, *halves))
        return emit.join(parts)
    low = [(x << 16).shifted_right(16, signed=True) for x in (a, b)]
    high = [x.shifted_right(16, signed=True) for x in (a, b)]
    return low[0] * low[1] + high[0] * high[1]


def half_to_float(emit, halves, path):
    """Convert 16 float16, given as int16 bits, to float32."""
    if path != "generic":
        return halves.as_kind(ir.VectorType(ir.HalfType(), 16)).converted("fpext", ir.VectorType(ir.FloatType(), 16))
        # Without F16C LLVM would call a library function that Numba does not link. Shifted into
        # place, a float16 is a float32 that is too small by 2^112, subnormals included.
    wide = halves.converted("zext", INTS)
    magnitude = ((wide & 0x7FFF) << 13).as_kind(ir.VectorType(ir.FloatType(), 16)) * 2.0**112
    return (magnitude.as_kind(INTS) | ((wide & 0x8000) << 16)).as_kind(ir.VectorType(ir.FloatType(), 16))


def look_up(emit, pointer, offset, indexes, path):
    """For 16 rows: the float32 at index `indexes` (0..31, as bytes) of the 32 that start at `offset`."""
    floats = ir.VectorType(ir.FloatType(), 16)
    if path == "vnni":
        low, high = emit.load(pointer, offset, floats), emit.load(pointer, offset + 64, floats)
        places = indexes.converted("zext", INTS)
        return emit.call("llvm.x86.avx512.vpermi2var.ps.512", floats, low, places, high)
    wide = indexes.converted("zext", ir.VectorType(ir.IntType(64), 16))
    found = ir.Constant(floats, ir.Undefined)
    for lane in range(BYTE_LANES.count):
        place = offset + wide[lane] * 4
        found = emit.builder.insert_element(found, emit.load(pointer, place, ir.FloatType()).llvm, I32(lane))
    return emit.value(found)


def look_up_bytes(emit, table, indexes, path):
    """For 64 bytes: the byte at index `indexes` (0..15) of a table of 16 constants."""
    if path == "vnni":
        values = _bytes(emit, 4 * table)
        return emit.call("llvm.x86.avx512.pshuf.b.512", BYTES, values, indexes)
    if path == "avx2":
        kind = ir.VectorType(I8, 32)
        parts = [emit.part(indexes, start, 32) for start in (0, 32)]
        return emit.join([emit.call("llvm.x86.avx2.pshuf.b", kind, _bytes(emit, 2 * table), part) for part in parts])
    if path == "neon":
        kind = ir.VectorType(I8, 16)
        parts = [emit.part(indexes, start, 16) for start in (0, 16, 32, 48)]
        return emit.join([emit.call("llvm.aarch64.neon.tbl1.v16i8", kind, _bytes(emit, table), part) for part in parts])
    return _choose_bytes(emit, table, indexes)


def _bytes(emit, values):
    values = [(value + 128) % 256 - 128 for value in values]
    return emit.value(ir.Constant(ir.VectorType(I8, len(values)), values))


def _choose_bytes(emit, table, indexes):
    """The same with logic alone: each bit of the index halves the candidates."""
    candidates = [emit.constant(BYTES, (value + 128) % 256 - 128) for value in table]
    for bit in range(4):
        is_set = emit.constant(BYTES, 0) - ((indexes.as_kind(SHORTS).shifted_right(bit)).as_kind(BYTES) & 1)
        candidates = [low ^ (is_set & (low ^ high)) for low, high in zip(candidates[::2], candidates[1::2])]
    return candidates[0]

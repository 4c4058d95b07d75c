"""Integer sums of a tile that is stored by columns, for processors without dot products of four bytes.

Two columns are interleaved, and their products with two activations are added in 16 bits, one lane for each of the 128
rows. So the sums are four registers of 64 bytes, and stay in the registers of AVX2; in 32 bits they would be eight, and
a token of a 1.5B model takes a fifth longer. Activations are never negative, nor are the quants of 4 and 5 bits, so a
sum is read as an unsigned number: it has room for 32 columns of 4 bits, and for 16 of 5 bits.
"""

from llvmlite import ir
from rwkv_np.kernels.columns import FIFTH, GROUPS, ROWS
from rwkv_np.kernels.dots import DOTS
from rwkv_np.kernels.emit import BYTE_LANES, BYTES, I32, INTS, SHORTS

PATHS = ("avx2", "generic")  # that take these sums
COLUMNS = {4: 32, 5: 16}  # that fit, by the bits of a quant


def interleaved(emit, a, b, high):
    """Elements of a and b in turns, from the low or high half of each 16 bytes: one instruction on every target."""
    n = 16 * 8 // a.kind.element.width  # elements of 16 bytes
    count, first = a.kind.count, n // 2 * high
    mask = [start + first + i // 2 + count * (i % 2) for start in range(0, count, n) for i in range(n)]
    return shuffled(emit, a, b, mask)


def shuffled(emit, a, b, mask):
    """The elements of a, followed by those of b, with the indexes in `mask`."""
    return emit.value(emit.builder.shuffle_vector(a.llvm, b.llvm, ir.Constant(ir.VectorType(I32, len(mask)), mask)))


class PairSums:
    """Adds the products of two columns at a time. The sums are four Values: for each half of 16 bytes, low and high
    nibbles."""

    def __init__(self, emit, layout, path, tile):
        self.emit, self.layout, self.tile = emit, layout, tile
        self.multiply = DOTS[path](emit, emit.constant(INTS, 0), layout.weight_max).multiply

    def zeros(self):
        """Four empty sums."""
        return [self.emit.constant(SHORTS, 0)] * 4

    def added(self, sums, lines, fifths, activations):
        """The sums with two columns more; `activations` are both as one 16-bit number."""
        emit = self.emit
        x = emit.splat(activations, SHORTS.count)
        a, b = (emit.load(self.tile, line, BYTES) for line in lines)
        fifth = self._fifth_bits(fifths) if self.layout.bits == 5 else None
        result = []
        for high in (0, 1):
            both = interleaved(emit, a, b, high).as_kind(SHORTS)
            for nibble in (0, 1):
                quants = (both.shifted_right(4) if nibble else both) & 0x0F0F
                if fifth is not None:
                    shift = 4 * high + nibble - 4
                    bits = fifth.shifted_right(shift) if shift > 0 else fifth << -shift
                    quants = quants | (bits & 0x1010)
                result.append(sums[2 * high + nibble] + self.multiply(quants.as_kind(BYTES), x.as_kind(BYTES)))
        return result

    def _fifth_bits(self, fifths):
        """Bit 4 h + n of a lane: the fifth bit of its row in the sums of half h and nibble n."""
        emit = self.emit
        a, b = (emit.load(self.tile, fifth, BYTE_LANES) for fifth in fifths)
        lanes = range(SHORTS.count)
        both = shuffled(emit, a, b, [4 * (i // 8) + i % 4 + FIFTH * j for i in lanes for j in range(2)])
        # In the second four of eight lanes the rows are two groups further.
        shifts = ir.Constant(INTS, [2 * (i % 4 // 2) for i in range(INTS.count)])
        return emit.value(emit.builder.lshr(both.as_kind(INTS).llvm, shifts)).as_kind(SHORTS)

    def widened(self, sums, initial):
        """The sums as int32, a Value of 16 rows for each group, plus those of `initial`."""
        emit, nothing, found = self.emit, self.emit.constant(SHORTS, 0), []
        for group in range(GROUPS):
            half, quarter, nibble = group // 4, group // 2 % 2, group % 2
            found.append(initial[group] + interleaved(emit, sums[2 * half + nibble], nothing, quarter).as_kind(INTS))
        return found


assert ROWS == 4 * SHORTS.count

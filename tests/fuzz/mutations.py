"""Damage to arbitrary bytes, as by disks, networks, text editors, or an attacker who does not know the format.

The other modules edit a file by its format (model_files, archives, documents). These functions know no format,
only `marks`, the offsets where its parts begin or end. All randomness comes from the given random.Random, so
that a number identifies a file forever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

# Values at which sizes, counts and offsets overflow, change sign, or are off by one.
EXTREMES = (
    0, 1, 2, -1, 3, 4, 5, 7, 8, 100, 127, 128, 255, 256, 511, 512, 513, 32767, 32768, 65535, 65536, 2**24,
    2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, -(2**63), 2**64 - 1,
)  # fmt: skip

Mutation = Callable[[bytes, Random, Sequence[int]], bytes]


def place(data: bytes, rng: Random, marks: Sequence[int]) -> int:
    """An offset, 0 to len(data): half of the time at or next to one of the marks."""
    if marks and rng.random() < 0.5:
        return min(max(rng.choice(marks) + rng.choice((-1, 0, 0, 0, 1)), 0), len(data))
    return rng.randint(0, len(data))


def put(data: bytes, at: int, new: bytes) -> bytes:
    """Replace bytes at an offset by `new`."""
    return data[:at] + new + data[at + len(new) :]


def pack(number: int, n_bytes: int) -> bytes:
    """The lowest bytes of a number, little-endian."""
    return (number & (256**n_bytes - 1)).to_bytes(n_bytes, "little")


def flip_bits(data: bytes, rng: Random, marks: Sequence[int] = ()) -> bytes:
    """Flip one to eight bits."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if found else 0):
        found[min(place(data, rng, marks), len(data) - 1)] ^= 1 << rng.randrange(8)
    return bytes(found)


def truncate(data: bytes, rng: Random, marks: Sequence[int] = ()) -> bytes:
    """Cut the file off at some offset."""
    return data[: place(data, rng, marks)]


def grow(data: bytes, rng: Random, marks: Sequence[int] = ()) -> bytes:
    """Insert bytes: zeros, noise, or a part of the file itself."""
    n, at, start = rng.choice((1, 4, 12, 1000)), place(data, rng, marks), place(data, rng, marks)
    return data[:at] + rng.choice((bytes(n), rng.randbytes(n), data[start : start + n])) + data[at:]


def cut_out(data: bytes, rng: Random, marks: Sequence[int] = ()) -> bytes:
    """Remove a part."""
    start, end = sorted((place(data, rng, marks), place(data, rng, marks)))
    return data[:start] + data[min(end, start + 2000) :]


def put_extreme(data: bytes, rng: Random, marks: Sequence[int] = ()) -> bytes:
    """Put in an extreme number of 1 to 8 bytes."""
    return put(data, place(data, rng, marks), pack(rng.choice(EXTREMES), rng.choice((1, 2, 4, 4, 4, 8))))


def put_noise(data: bytes, rng: Random, marks: Sequence[int] = ()) -> bytes:
    """Overwrite some bytes with zeros, ones, or noise."""
    n = rng.choice((1, 4, 16, 512))
    return put(data, place(data, rng, marks), rng.choice((bytes(n), b"\xff" * n, rng.randbytes(n))))


def swap_parts(data: bytes, rng: Random, marks: Sequence[int] = ()) -> bytes:
    """Swap two parts."""
    a, b, c = sorted(place(data, rng, marks) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


BLIND: tuple[Mutation, ...] = (
    flip_bits, flip_bits, truncate, grow, cut_out, put_extreme, put_extreme, put_noise, swap_parts,
)  # fmt: skip


def blind(data: bytes, rng: Random, marks: Sequence[int] = ()) -> bytes:
    """Apply one of these mutations."""
    return rng.choice(BLIND)(data, rng, marks)

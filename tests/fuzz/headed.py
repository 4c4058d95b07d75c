"""Edits of files that begin with the length of a JSON header: .safetensors, and base files."""

from __future__ import annotations

import struct
from random import Random

from documents import edit_json
from mutations import EXTREMES, blind, pack


def _edit(data: bytes, rng: Random, start: int, size: int) -> bytes:
    """Edit the length (`size` bytes at `start`), the header after it, or the rest."""
    behind = start + size
    n = int.from_bytes(data[start:behind], "little")
    header, rest = data[behind : behind + n], data[behind + n :]
    how = rng.random()
    if how < 0.2:
        return blind(data, rng, [0, start, behind, behind + n, len(data)])
    if how < 0.3:
        lengths = (*EXTREMES, n - 1, n + 1, n + len(rest))
        return data[:start] + pack(rng.choice(lengths), size) + header + rest
    if how < 0.5:
        return data[: behind + n] + blind(rest, rng)
    header = edit_json(header, rng)
    if rng.random() < 0.7:
        header += b" " * (n - len(header))  # otherwise everything after it would move
    return data[:start] + pack(len(header), size) + header + rest


def edit_safetensors(data: bytes, rng: Random) -> bytes:
    """Edit a file of 8 bytes of length, a header with the offsets of tensors, and the tensors."""
    return _edit(data, rng, 0, 8)


# Impossible or unlikely values for a row's lowest value and step.
FLOATS = tuple(struct.pack("<f", x) for x in (float("nan"), float("inf"), -float("inf"), 3e38, -3e38, -1.0, 0.0))


def edit_base(data: bytes, rng: Random) -> bytes:
    """Edit a file of 8 bytes of magic, 4 of length, a header, tokens, and rows of 256 predictions."""
    if rng.random() > 0.15:
        return _edit(data, rng, 8, 4)
    size = 8 + 2 * 256
    at = len(data) - size * rng.randint(1, 30) + rng.choice((0, 4))
    return data[:at] + rng.choice(FLOATS) + data[at + 4 :]

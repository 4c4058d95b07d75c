"""Edits of a model file by its structure: the header, and each parameter's sizes, type, name and data.

A file is parsed and written again, so that everything that is not edited stays valid. The format is that of
rwkv_np/files/format.py, implemented here a second time: a fuzzer that used the reader would share its bugs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from random import Random

from mutations import EXTREMES, blind, pack

N_FIELDS = 6
CODES = (*range(-1, 14), 100, 2**31 - 1)
NAMES = (
    b"", b"x", b"\0", b"\xff\xfe", b"a\nb", b"\x1b[2J", "名".encode(), b"emb.weight", b"head.weight", b"n" * 512,
    b"n" * 513, b"blocks.0.att.time_state", b"blocks.999999.ln1.weight", b"blocks.0.att.x_x", b"rwkv.blocks.0.x",
    b"blocks.0.att.lora_A", b"blocks.0.att.r_k", b"blocks.0.att.time_maa_x", b"blocks.0.att.ln_x.weight", b"ln0.bias",
)  # fmt: skip
# Float values that a weight never has, in 4 bytes and in 2.
FLOATS = tuple(struct.pack("<f", x) for x in (float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, -0.0)) + tuple(
    struct.pack("<e", x) for x in (float("nan"), float("inf"), 65504.0)
)


@dataclass(frozen=True)
class Part:
    """One parameter as stored in a file; counts are None if they are correct."""

    shape: tuple[int, ...]
    code: int
    name: bytes
    data: bytes
    n_dims: int | None = None
    n_name: int | None = None

    def pack(self) -> bytes:
        """Its bytes."""
        n_dims = len(self.shape) if self.n_dims is None else self.n_dims
        n_name = len(self.name) if self.n_name is None else self.n_name
        numbers = (n_dims, n_name, self.code, *self.shape)
        return b"".join(pack(number, 4) for number in numbers) + self.name + self.data


def parse(data: bytes) -> tuple[list[int], list[Part]]:
    """(the numbers of the header, the parameters) of a valid file."""
    fields, parts, at = list(struct.unpack_from("<6i", data)), [], 24
    sizes = _block_sizes(fields[1])
    while at < len(data):
        n_dims, n_name, code = struct.unpack_from("<3i", data, at)
        shape = struct.unpack_from(f"<{n_dims}i", data, at + 12)
        at += 12 + 4 * n_dims
        name, at = data[at : at + n_name], at + n_name
        n_weights = 1
        for size in shape:
            n_weights *= size
        block, n_block = sizes[code]
        end = at + n_weights // block * n_block
        parts.append(Part(shape, code, name, data[at:end]))
        at = end
    return fields, parts


def _block_sizes(version: int) -> dict[int, tuple[int, int]]:
    """Weights and bytes of a block, by type code."""
    floats = {0: (1, 4), 1: (1, 2)}
    if version == 100:
        return floats | {2: (32, 20), 3: (32, 24), 4: (32, 24)}
    return floats | {2: (32, 18), 3: (32, 20), 7: (32, 22), 8: (32, 24), 9: (32, 34)}


def build(fields: list[int], parts: list[Part]) -> bytes:
    """The bytes of a file."""
    return b"".join(pack(field, 4) for field in fields) + b"".join(part.pack() for part in parts)


def marks(data: bytes) -> list[int]:
    """The offsets of header, parameters and their fields."""
    fields, parts = parse(data)
    found, at = [4 * i for i in range(N_FIELDS)], 24
    for part in parts:
        sizes = (4, 4, 4, *(4 for _ in part.shape), len(part.name), len(part.data))
        for size in sizes:
            found.append(at)
            at += size
    return found


def edit_model_file(data: bytes, rng: Random) -> bytes:
    """Apply some edits to a valid file, or damage its bytes."""
    if rng.random() < 0.25:
        return blind(data, rng, marks(data))
    fields, parts = parse(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_EDITS)(fields, parts, rng)
    found = build(fields, parts)
    return blind(found, rng) if rng.random() < 0.05 else found


def _field(fields: list[int], parts: list[Part], rng: Random) -> None:
    i = rng.randrange(N_FIELDS)
    fields[i] = rng.choice((*EXTREMES, fields[i] + 1, fields[i] - 1, 2 * fields[i], 99, 100, 101, 102))


def _order(fields: list[int], parts: list[Part], rng: Random) -> None:
    """Remove, duplicate or move a parameter."""
    if not parts:
        return
    i, how = rng.randrange(len(parts)), rng.randrange(4)
    if how == 0:
        del parts[i]
    elif how == 1:
        parts.insert(rng.randint(0, len(parts)), parts[i])
    elif how == 2:
        parts.insert(rng.randint(0, len(parts) - 1), parts.pop(i))
    else:
        del parts[i : i + rng.choice((2, 10, len(parts)))]


def _name(fields: list[int], parts: list[Part], rng: Random) -> None:
    if not parts:
        return
    i, other = rng.randrange(len(parts)), rng.choice(parts)
    renamed = parts[i].name.replace(b"blocks.0", rng.choice((b"blocks.1", b"blocks.7", b"blocks.-1", b"blocks.00")))
    name = rng.choice((*NAMES, other.name, renamed, parts[i].name[:-1], parts[i].name + b" "))
    parts[i] = replace(parts[i], name=name)


def _trade(fields: list[int], parts: list[Part], rng: Random) -> None:
    """Swap the name, shape, type or data of two parameters."""
    if len(parts) < 2:
        return
    i, k = rng.sample(range(len(parts)), 2)
    what = rng.choice(("name", "shape", "code", "data"))
    a, b = getattr(parts[i], what), getattr(parts[k], what)
    parts[i], parts[k] = replace(parts[i], **{what: b}), replace(parts[k], **{what: a})


def _shape(fields: list[int], parts: list[Part], rng: Random) -> None:
    if not parts:
        return
    i = rng.randrange(len(parts))
    shape, how = list(parts[i].shape), rng.randrange(5)
    if how == 0:
        shape[rng.randrange(len(shape))] = rng.choice(EXTREMES) if shape else 0
    elif how == 1:
        shape.reverse()
    elif how == 2:
        shape = [1, *shape] if rng.random() < 0.5 else [*shape, 1]
    elif how == 3 and shape:  # the same number of weights
        k = rng.randrange(len(shape))
        shape[k : k + 1] = [shape[k] // 2, 2]
    else:
        shape = [rng.choice(EXTREMES) for _ in range(rng.choice((1, 2, 4, 5)))]
    parts[i] = replace(parts[i], shape=tuple(shape))


def _counts(fields: list[int], parts: list[Part], rng: Random) -> None:
    if parts:
        i = rng.randrange(len(parts))
        parts[i] = replace(parts[i], **{rng.choice(("n_dims", "n_name")): rng.choice(EXTREMES)})


def _type(fields: list[int], parts: list[Part], rng: Random) -> None:
    """Change the type, with data of the right size or not."""
    if not parts:
        return
    i, code = rng.randrange(len(parts)), rng.choice(CODES)
    part, data = parts[i], parts[i].data
    n_weights = 1
    for size in part.shape:
        n_weights *= size
    if rng.random() < 0.5 and 0 < n_weights < 2**20 and code in (sizes := _block_sizes(fields[1])):
        n_bytes = n_weights // sizes[code][0] * sizes[code][1]
        data = (data * (n_bytes // max(1, len(data)) + 1))[:n_bytes] if rng.random() < 0.5 else bytes(n_bytes)
    parts[i] = replace(part, code=code, data=data)


def _data(fields: list[int], parts: list[Part], rng: Random) -> None:
    """Less data, more data, or values that a weight never has."""
    if not parts:
        return
    i = rng.randrange(len(parts))
    data, how = parts[i].data, rng.randrange(3)
    if how == 0:
        data = data[: rng.randint(0, len(data))]
    elif how == 1:
        data += bytes(rng.choice((1, 2, 4, 64)))
    elif data:
        value = rng.choice(FLOATS)
        at = rng.randrange(len(data)) // len(value) * len(value)
        data = (data[:at] + value + data[at + len(value) :])[: len(data)]
    parts[i] = replace(parts[i], data=data)


def _many(fields: list[int], parts: list[Part], rng: Random) -> None:
    """Add thousands of tiny parameters."""
    if rng.random() < 0.05:
        parts.extend(Part((1,), 0, b"p%d" % n, bytes(4)) for n in range(rng.choice((1000, 20_000))))
    else:
        parts.extend(Part((1,), 0, b"p%d" % n, bytes(4)) for n in range(rng.choice((1, 2, 50))))


_EDITS = (_field, _field, _order, _name, _trade, _shape, _counts, _type, _data, _data, _many)

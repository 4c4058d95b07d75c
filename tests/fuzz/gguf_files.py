"""Edits of a GGUF file by its structure: counts, pairs of the metadata, and each tensor's name, shape, type and place.

As in model_files.py, the format is implemented here a second time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from random import Random

from mutations import EXTREMES, blind, pack

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
TYPES = (*range(-1, 42), 100, 2**31 - 1, 2**32 - 1)
KEYS = (
    b"", b"x", b"\xff", b"a\nb", b"general.alignment", b"general.architecture", b"split.count", b"n" * 512, b"n" * 513,
    b"rwkv7.wkv.head_size", b"rwkv6.rescale_every_n_layers", b"rwkv7.token_shift_count", b"tokenizer.ggml.model",
    b"tokenizer.chat_template",
)  # fmt: skip
NAMES = (
    b"", b"x", b"\0", b"\xff", b"token_embd.weight", b"blk.0.time_mix_v0.weight", b"blk.1.time_mix_r_k.weight",
    b"blk.0.time_mix_lerp_fused.weight", b"blk.0.time_mix_lerp_w.weight", b"blk.999999.attn_norm.weight",
    b"blk.0.time_mix_decay.weight", b"n" * 513,
)  # fmt: skip
TEXTS = (b"rwkv6", b"rwkv7", b"llama", b"arwkv7", b"", b"\xff", b"rwkv", b"gpt2", b"\\x4", b"\\", b"x" * 600)


@dataclass
class Tensor:
    """One tensor: what the file says about it, and its data."""

    name: bytes
    shape: list[int]
    code: int
    offset: int
    data: bytes
    n_dims: int | None = None


@dataclass
class File:
    """The parts of a file; counts are None if they are correct."""

    version: int = 3
    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    n_pairs: int | None = None
    n_tensors: int | None = None

    def pack(self) -> bytes:
        """Its bytes."""
        counts = (self.n_tensors, len(self.tensors)), (self.n_pairs, len(self.pairs))
        parts = [b"GGUF", pack(self.version, 4), *(pack(real if said is None else said, 8) for said, real in counts)]
        parts += [text(key) + value for key, value in self.pairs]
        for t in self.tensors:
            n_dims = len(t.shape) if t.n_dims is None else t.n_dims
            parts.append(text(t.name) + pack(n_dims, 4) + b"".join(pack(size, 8) for size in t.shape))
            parts.append(pack(t.code, 4) + pack(t.offset, 8))
        head = b"".join(parts)
        head += bytes(-len(head) % 32)
        data = b"".join(t.data + bytes(-len(t.data) % 32) for t in self.tensors)
        return head + data


def text(value: bytes) -> bytes:
    """A string of the file."""
    return pack(len(value), 8) + value


def parse(data: bytes) -> File:
    """The parts of a valid file whose tensors lie in order."""
    version, n_tensors, n_pairs = struct.unpack_from("<IQQ", data, 4)
    found, at = File(version), 24

    def string() -> bytes:
        nonlocal at
        (n,) = struct.unpack_from("<Q", data, at)
        at += 8 + n
        return data[at - n : at]

    for _ in range(n_pairs):
        key, start = string(), at
        code, item, count = struct.unpack_from("<IIQ", data + bytes(16), at)
        at += 4
        if code == STRING:
            string()
        elif code == ARRAY:
            at += 12
            for _ in range(count if item == STRING else 0):
                string()
            at += 0 if item == STRING else count * SIZES[item]
        else:
            at += SIZES[code]
        found.pairs.append((key, data[start:at]))
    for _ in range(n_tensors):
        name = string()
        (n_dims,) = struct.unpack_from("<I", data, at)
        shape = list(struct.unpack_from(f"<{n_dims}Q", data, at + 4))
        code, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * n_dims)
        at += 16 + 8 * n_dims
        found.tensors.append(Tensor(name, shape, code, offset, b""))
    start = -(-at // 32) * 32
    ends = [t.offset for t in found.tensors[1:]] + [len(data) - start]
    for t, end in zip(found.tensors, ends):
        t.data = data[start + t.offset : start + end]
    return found


def edit_gguf(data: bytes, rng: Random) -> bytes:
    """Apply some edits to a valid file, or damage its bytes."""
    if rng.random() < 0.2:
        return blind(data, rng, [0, 4, 8, 16, 24, len(parse(data).pack())])
    file = parse(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_EDITS)(file, rng)
    found = file.pack()
    return blind(found, rng) if rng.random() < 0.05 else found


def _counts(file: File, rng: Random) -> None:
    number = rng.choice((*EXTREMES, len(file.pairs) + rng.choice((-1, 1)), len(file.tensors) + rng.choice((-1, 1))))
    which = rng.choice(("version", "n_pairs", "n_tensors"))
    setattr(file, which, rng.choice((0, 1, 2, 4, 3 << 24, number)) if which == "version" else number)


def _value(rng: Random) -> bytes:
    code = rng.choice((*SIZES, STRING, ARRAY, 13, 2**32 - 1))
    if code == STRING:
        return pack(code, 4) + rng.choice((text(rng.choice(TEXTS)), pack(rng.choice(EXTREMES), 8) + b"abc"))
    if code == ARRAY:
        item, count = rng.choice((*SIZES, STRING, ARRAY, 99)), rng.choice((0, 1, 3, *EXTREMES))
        return pack(code, 4) + pack(item, 4) + pack(count, 8) + text(rng.choice(TEXTS)) * rng.choice((0, 1, 3))
    return pack(code, 4) + pack(rng.choice(EXTREMES), SIZES.get(code, 4))


def _pairs(file: File, rng: Random) -> None:
    """Replace, remove, duplicate or rename a pair."""
    i = rng.randrange(len(file.pairs)) if file.pairs else -1
    how = rng.randrange(5) if file.pairs else 4
    if how < 2:
        file.pairs[i] = (file.pairs[i][0], _value(rng))
    elif how == 2:
        del file.pairs[i]
    elif how == 3:
        file.pairs[i] = (rng.choice(KEYS), file.pairs[i][1])
    else:
        file.pairs.insert(max(i, 0), rng.choice([*file.pairs, (rng.choice(KEYS), _value(rng))]))


def _tokens(file: File, rng: Random) -> None:
    """Change the content of an array of strings or numbers."""
    arrays = [i for i, (_, value) in enumerate(file.pairs) if value[:4] == pack(ARRAY, 4)]
    if arrays:
        i = rng.choice(arrays)
        key, value = file.pairs[i]
        at = rng.randrange(4, len(value))
        how = rng.randrange(3)
        new = (
            value[:at] + pack(rng.choice(EXTREMES), rng.choice((1, 4, 8))) + value[at + 8 :],
            value[:at],
            blind(value, rng),
        )
        file.pairs[i] = key, new[how]


def _tensors(file: File, rng: Random) -> None:
    """Remove, duplicate, move or rename a tensor, or change one of its numbers."""
    if not file.tensors:
        return
    i = rng.randrange(len(file.tensors))
    t, other = file.tensors[i], rng.choice(file.tensors)
    how = rng.randrange(9)
    if how == 0:
        del file.tensors[i]
    elif how == 1:
        file.tensors.insert(rng.randint(0, len(file.tensors)), t)
    elif how == 2:
        t.name = rng.choice((*NAMES, other.name, t.name.replace(b"blk.0", b"blk.1"), t.name + b" "))
    elif how == 3:
        t.code = rng.choice(TYPES)
    elif how == 4 and t.shape:
        t.shape[rng.randrange(len(t.shape))] = rng.choice((*EXTREMES, 32, 64, 256))
    elif how == 5:
        t.offset = rng.choice((*EXTREMES, other.offset, t.offset + 32, t.offset - 32, t.offset + 1))
    elif how == 6:
        t.shape = rng.choice((t.shape[::-1], [*t.shape, 1], t.shape[1:], [1] * 5, list(other.shape)))
    elif how == 7:
        t.n_dims = rng.choice((0, 1, 5, *EXTREMES))
    else:
        t.data = rng.choice((blind(t.data, rng), t.data[: len(t.data) // 2], b"\xff" * len(t.data)))


_EDITS = (_counts, _pairs, _pairs, _tokens, _tensors, _tensors, _tensors)

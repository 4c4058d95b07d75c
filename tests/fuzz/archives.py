"""Edits of zip archives: missing, renamed, duplicated, recompressed or mislabelled members.

The content of a member is edited in its own format: JSON, .npy, or the pickle of a checkpoint. Sizes and other
fields of the zip records are set to false values after the archive was written.
"""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
import zlib
from random import Random

from documents import edit_json
from mutations import EXTREMES, blind, pack, put
from npy import edit_array, write

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
NAMES = ("x", "", "../x", "/etc/x", "a/b", "x.npy", "\0", "名.npy", "conversation.json", "architecture.npy", "n" * 5000)
# (signature, offsets and sizes of its fields) of a member's local record, of a directory record, and of the end record.
RECORDS = (
    (b"PK\x03\x04", ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))),
    (b"PK\x01\x02", ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4))),
    (b"PK\x05\x06", ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
)  # fmt: skip
GLOBALS = (
    b"torch FloatStorage", b"torch HalfStorage", b"torch ByteStorage", b"torch QInt8Storage",
    b"torch ComplexFloatStorage", b"torch._utils _rebuild_tensor_v2",
    b"torch._utils _rebuild_parameter", b"torch._utils _rebuild_sparse_tensor",
    b"torch._utils _rebuild_meta_tensor_no_storage", b"collections OrderedDict", b"builtins set", b"os system",
    b"builtins eval", b"x y", b" ",
)  # fmt: skip
BOMB = 64_000_000  # bytes of zeros: 64 KB when deflated

Member = list  # [name, data, method]


def read(data: bytes) -> list[Member]:
    """The members of a valid archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [[info.filename, archive.read(info), info.compress_type] for info in archive.infolist()]


def build(members: list[Member], comment: bytes = b"") -> bytes:
    """An archive of these members; names may occur twice."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compresslevel=1) as archive:
        warnings.simplefilter("ignore")  # for duplicate names
        for name, data, method in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, data)
        archive.comment = comment
    return buffer.getvalue()


def _records(data: bytes) -> list[int]:
    """The offsets of records."""
    found = []
    for signature, _ in RECORDS:
        at = data.find(signature)
        while at >= 0:
            found.append(at)
            at = data.find(signature, at + 4)
    return found


def edit_archive(data: bytes, rng: Random) -> bytes:
    """Apply some edits to an archive, or damage its bytes."""
    if rng.random() < 0.2:
        return blind(data, rng, [*_records(data), len(data)])
    members = read(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_EDITS)(members, rng)
    comment = rng.choice((b"c", bytes(60_000))) if rng.random() < 0.05 else b""
    found = build(members, comment)
    if rng.random() < 0.05:
        found = rng.choice((b"#!/bin/sh\n", b"PK\x05\x06", bytes(100))) + found
    return _lie(found, rng) if rng.random() < 0.15 else found


def _content(members: list[Member], rng: Random) -> None:
    """Edit the content of a member."""
    if members:
        member = rng.choice(members)
        member[1] = edit_content(member[0], member[1], rng)


def edit_content(name: str, data: bytes, rng: Random) -> bytes:
    """Edit a member in the format that its name indicates."""
    try:
        if name.endswith(".json"):
            return edit_json(data, rng)
        if name.endswith(".npy"):
            return edit_array(data, rng)
        if name.endswith(".pkl"):
            return edit_pickle(data, rng)
    except (ValueError, IndexError, KeyError, RecursionError):  # it was edited before
        pass
    return blind(data, rng)


def _order(members: list[Member], rng: Random) -> None:
    if not members:
        return
    i, how = rng.randrange(len(members)), rng.randrange(5)
    if how == 0:
        del members[i]
    elif how == 1:
        members.append([members[i][0], rng.choice(members)[1], members[i][2]])  # a duplicate name
    elif how == 2:
        members[i][0] = rng.choice((*NAMES, rng.choice(members)[0], members[i][0].upper()))
    elif how == 3:
        other = rng.choice(members)
        members[i][1], other[1] = other[1], members[i][1]
    else:
        members.append([rng.choice(NAMES), rng.choice((b"", b"x", members[i][1])), zipfile.ZIP_STORED])


def _pack(members: list[Member], rng: Random) -> None:
    """Change the compression of one member, or of all."""
    method, one = rng.choice(METHODS), rng.choice((None, None, *members)) if members else None
    for member in members:
        if one is None or member is one:
            member[2] = method


def _swell(members: list[Member], rng: Random) -> None:
    """Turn a member into a zip bomb: a few KB that unpack to 64 MB."""
    if not members or rng.random() > 0.15:
        return
    member = rng.choice(members)
    zeros = bytes(BOMB)
    if member[0].endswith(".npy"):
        shape = rng.choice(((BOMB // 4,), (1, BOMB // 4), (2, 2)))
        zeros = write(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}", zeros)
    elif member[0].endswith(".json"):
        zeros = rng.choice((b"[" * BOMB, b" " * BOMB + b"{}", b'{"x": "' + b"x" * BOMB + b'"}'))
    member[1], member[2] = zeros, zipfile.ZIP_DEFLATED


def _lie(data: bytes, rng: Random) -> bytes:
    """Set a field of a record to a false value; sometimes correct the checksum."""
    signature, fields = rng.choice(RECORDS)
    places = [at for at in _records(data) if data[at : at + 4] == signature]
    if not places:
        return data
    at, (offset, size) = rng.choice(places), rng.choice(fields)
    small = (0, 1, 2, 8, 12, 14, 99, 2049)
    return put(data, at + offset, pack(rng.choice(EXTREMES + small), size))


def edit_pickle(data: bytes, rng: Random) -> bytes:
    """Change numbers, names and instructions in a pickle of protocol 2."""
    instructions = [(code, argument, at) for code, argument, at in pickletools.genops(data)]
    ends = [at for _, _, at in instructions[1:]] + [len(data)]
    i = rng.randrange(len(instructions))
    wanted = rng.choice(("BININT", "BININT1", "BININT2", "BINUNICODE", "GLOBAL", "any"))
    chosen = [k for k, (code, _, _) in enumerate(instructions) if code.name == wanted]
    i = rng.choice(chosen) if chosen else i
    (code, _, at), end = instructions[i], ends[i]
    if code.name.startswith("BININT"):
        new = rng.choice((b"J" + pack(rng.choice(EXTREMES), 4), b"\x8a\x09" + bytes(8) + b"\x01", b"N", b"\x88", b"]"))
    elif code.name == "BINUNICODE":
        text = rng.choice((b"", b"x", b"\xff", b"cpu", b"cuda:0", b"meta", b"emb.weight", b"0", b"99", b"n" * 100_000))
        new = b"X" + pack(len(text), 4) + text
    elif code.name == "GLOBAL":
        new = b"c" + rng.choice(GLOBALS).replace(b" ", b"\n") + b"\n"
    else:
        new = rng.choice((b"", b"N", b".", b"(", b"}", b"0", b"2", b"R", b"t", b"h\x00", b"u", data[at:end] * 2))
    return data[:at] + new + data[end:]


def edit_packed(data: bytes, rng: Random) -> bytes:
    """Edit the content of a zlib stream, and compress it again."""
    if rng.random() < 0.3:
        return blind(data, rng)
    if rng.random() < 0.02:
        return zlib.compress(bytes(BOMB), 1)
    return zlib.compress(blind(zlib.decompress(data), rng), 1)


_EDITS = (_content, _content, _content, _content, _order, _pack, _swell)

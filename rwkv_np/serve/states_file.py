"""The cache of states on disk, so that the first answers after a restart are fast too.

It is written when the server stops, and read when it starts. `key` names the model and the code that computes its
states, since the code decides their last bits: a file with another key is not used. Each entry has its own checksum: of
a damaged file, the entries before the damage are used.

    a line of JSON  {"rwkv_np": "states", "version": 1, "key": ...}
    per entry       the header below, ids int32, the state and its logits float32, and the SHA-256 of all these
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from rwkv_np import arguments
from rwkv_np.errors import FileError, InputError, PathLike
from rwkv_np.files.output import new_file
from rwkv_np.files.reading import open_regular
from rwkv_np.models.base import Model
from rwkv_np.models.state import State
from rwkv_np.position import Position
from rwkv_np.serve.states import StateCache

VERSION = 1
_HEADER = struct.Struct("<3q")  # numbers of bytes: salt, ids, logits
_LINE_LIMIT = 10_000
_SALT_LIMIT = 1000
_SUM = hashlib.sha256().digest_size


class StatesFileError(FileError):
    """`path` does not contain states of this model."""


class Entry(NamedTuple):
    """A position in the cache, with its salt and ids."""

    salt: str
    ids: np.ndarray
    position: Position


def save(cache: StateCache, path: PathLike, key: str) -> None:
    """Write all entries to `path`. Raises OutputError."""
    with new_file(path, overwrite=True) as file:
        # The ids are private: they are the texts of users.
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps({"rwkv_np": "states", "version": VERSION, "key": key}).encode() + b"\n")
        for entry in cache.entries():
            _write(file, Entry(*entry))


def load(cache: StateCache, path: PathLike, key: str, model: Model) -> int:
    """Put the entries of the file at `path` into the cache; returns how many there were.

    Raises  StatesFileError: not such a file, another model or version, or damaged at some point (the entries before
            that are in the cache); OSError
    """
    n = 0
    with open_regular(path, StatesFileError) as file:
        _check_line(path, file.readline(_LINE_LIMIT), key)
        for salt, ids, position in _entries(path, file, model):
            cache.put(salt, ids, position.n_bytes, lambda position=position: position)  # type: ignore[misc]
            n += 1
    return n


def _check_line(path: PathLike, line: bytes, key: str) -> None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("rwkv_np") != "states":
        raise StatesFileError(path, "is not a file of states; name another file, or delete this one")
    if found.get("version") != VERSION or found.get("key") != key:
        raise StatesFileError(path, "contains states of another model, or of another version of this program")


def _write(file: BinaryIO, entry: Entry) -> None:
    salt, position = entry.salt.encode(), entry.position
    logits = np.empty(0, np.float32) if position.logits is None else position.logits
    parts = [
        _HEADER.pack(len(salt), entry.ids.size, logits.size), salt, entry.ids.astype("<i4").tobytes(),
        position.state.data.astype("<f4").tobytes(), logits.astype("<f4").tobytes(),
    ]  # fmt: skip
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
        file.write(part)
    file.write(found.digest())


def _entries(path: PathLike, file: BinaryIO, model: Model) -> Iterator[Entry]:
    size = os.fstat(file.fileno()).st_size
    while file.tell() < size:
        at = file.tell()
        try:
            entry = _read(file, size, model)
        except (ValueError, InputError, struct.error) as error:
            raise StatesFileError(path, f"is damaged from byte {at} on ({error}); the rest is used") from error
        yield entry


def _read(file: BinaryIO, size: int, model: Model) -> Entry:
    header = file.read(_HEADER.size)
    n_salt, n_ids, n_logits = _HEADER.unpack(header)
    n_state, n_vocab = model.state_layout.size, model.config.vocab_size
    n_bytes = n_salt + 4 * (n_ids + n_state + n_logits)
    # Checked before memory is allocated.
    if not 0 <= n_salt <= _SALT_LIMIT or n_ids < 1 or n_logits not in (0, n_vocab):
        raise ValueError("the header of the entry is invalid")
    if file.tell() + n_bytes + _SUM > size:
        raise ValueError("the file ends there")
    body = file.read(n_bytes)
    if hashlib.sha256(header + body).digest() != file.read(_SUM):
        raise ValueError("the checksum is wrong")
    ids = np.frombuffer(body, "<i4", n_ids, n_salt).astype(np.int64)
    numbers = np.frombuffer(body, "<f4", n_state + n_logits, n_salt + 4 * n_ids).astype(np.float32)
    arguments.finite("a state", numbers[:n_state])
    if ids.min() < 0 or ids.max() >= n_vocab:
        raise ValueError("a token id is not in the vocabulary")
    state = State(model.state_layout, numbers[:n_state].copy())
    return Entry(body[:n_salt].decode(), ids, Position(numbers[n_state:].copy() if n_logits else None, state))

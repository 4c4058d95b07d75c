"""The machine code of one function on disk: a file for each signature, with a checksum.

Numba's own cache unpickles whatever it finds: an empty file ended the process ("Aborted!"), a
changed byte in a traceback or in other instructions. It also has an index, which two processes that
start at once can write over each other's. Here is one file for all that code follows from: its name
and its checksum have a hash of that, so a file is this code, whole, or it is none. Compiling and
turning code into bytes stays Numba's.

A file that is damaged, or that others could have written, is compiled again and replaced; where
nothing can be written, nothing is kept. Each is said once in a process.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import secrets
import time
from contextlib import suppress
from pathlib import Path

from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps
from rwkv_np.kernels.notes import say_once
from rwkv_np.kernels.trust import is_ours

SUFFIX = ".nbc"
_MAGIC = b"rwkv_np code 1\n"
_DIGEST = hashlib.sha256().digest_size
_DEAD = 3600  # seconds after which nobody is still writing a file: its process was killed


class KeptCode(FunctionCache):
    """Numba's cache of one function, in files of `folder`."""

    def __init__(self, function, folder: Path) -> None:
        self._py_func, self._folder, self._impl = function, folder, _Impl()
        self._name, self._cache_path = repr(function), str(folder)
        source = Path(function.__code__.co_filename)
        self._stem = f"{source.stem}.{function.__qualname__}".replace("<", "").replace(">", "")[:100]
        # Not where it lies: a wheel, a moved environment and a second checkout with the same sources share code.
        self._source = f"{source.name} {function.__code__.co_firstlineno} {_hash_of(source)}"
        self.enable()

    def flush(self) -> None:
        for path in self._folder.glob(f"{self._stem}-*{SUFFIX}"):
            path.unlink(missing_ok=True)

    def load_overload(self, sig, target_context):
        target_context.refresh()
        key = self._key(sig, target_context.codegen())
        try:
            with open(self._path(key), "rb") as file:
                is_whole, data = is_ours(os.fstat(file.fileno())), file.read()
        except OSError:
            return None
        try:
            return self._impl.rebuild(target_context, pickle.loads(_checked(key, data if is_whole else b"")))
        except Exception:  # whatever a damaged pickle makes Python raise: MemoryError and ImportError, too
            say_once(f"{self._folder}: compiled kernels in it are damaged; they are compiled again and replaced")
            return None

    def save_overload(self, sig, data) -> None:
        if self._impl.check_cachable(data):
            key = self._key(sig, data.codegen)
            try:
                _write(self._path(key), key, dumps(self._impl.reduce(data)))
            except OSError as error:
                say_once(
                    f"{self._folder}: compiled kernels cannot be kept: {error.strerror or error}. Make room, or "
                    "name another folder in RWKV_NP_CACHE; until then each start compiles them again"
                )

    def _key(self, sig, codegen) -> bytes:
        """A hash of all that the code follows from."""
        return hashlib.sha256(f"{self._source} {self._index_key(sig, codegen)}".encode()).digest()

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{self._stem}-{key.hex()[:32]}{SUFFIX}"


class _Impl(CompileResultCacheImpl):
    """What turns code into bytes and back; Numba's would look for a folder of its own."""

    def __init__(self) -> None:
        pass


@functools.cache
def _hash_of(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()


def _checked(key: bytes, data: bytes) -> memoryview:
    """What was written for `key`. Raises ValueError: something else lies there."""
    begin = len(_MAGIC) + _DIGEST
    payload = memoryview(data)[begin:]
    if data[:begin] != _MAGIC + _digest(key, payload):
        raise ValueError("damaged")
    return payload


def _digest(key: bytes, payload: bytes | memoryview) -> bytes:
    found = hashlib.sha256(key)
    found.update(payload)
    return found.digest()


def _write(path: Path, key: bytes, payload: bytes) -> None:
    """Put a whole file in its place, which nobody else can write to. Raises OSError."""
    _sweep(path.parent)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # in a container, all are process 1
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(part, flags, 0o600), "wb") as file:
            file.write(_MAGIC + _digest(key, payload) + payload)
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove what killed processes left half written. (A clock that was set back shows times to come.)"""
    for part in folder.glob("*.part"):
        with suppress(OSError):
            if abs(time.time() - part.stat().st_mtime) > _DEAD:
                part.unlink()

"""The machine code of one function on disk: a file for each signature, with a checksum.

Numba's own cache unpickles whatever it finds: an empty file ended the process ("Aborted!"), and a
changed byte led to a traceback or to wrong instructions. It also has an index, which two processes that
start at once can overwrite for each other. Here one file contains all of a function's code. Its name and
its checksum include a hash of everything the code depends on, so a file is either this code, complete, or
it is rejected. Numba still does the compiling and the conversion between code and bytes.

A file that is damaged, or that other users could have written, is compiled again and replaced. If nothing
can be written, nothing is stored. Each message is shown once per process.
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
_DEAD = 3600  # seconds after which an unfinished file is abandoned: its process was killed


class KeptCode(FunctionCache):
    """Numba's cache of one function, in files of `folder`."""

    def __init__(self, function, folder: Path) -> None:
        self._py_func, self._folder, self._impl = function, folder, _Impl()
        self._name, self._cache_path = repr(function), str(folder)
        source = Path(function.__code__.co_filename)
        self._stem = f"{source.stem}.{function.__qualname__}".replace("<", "").replace(">", "")[:100]
        # Without its folder: a wheel, a moved environment and another checkout with the same sources share code.
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
        except Exception:  # a damaged pickle can raise anything, even MemoryError and ImportError
            say_once(f"{self._folder}: damaged compiled kernels found; compiling them again and replacing them")
            return None

    def save_overload(self, sig, data) -> None:
        if self._impl.check_cachable(data):
            key = self._key(sig, data.codegen)
            try:
                _write(self._path(key), key, dumps(self._impl.reduce(data)))
            except OSError as error:
                say_once(
                    f"{self._folder}: cannot store compiled kernels: {error.strerror or error}. Free some space, or "
                    "name another folder in RWKV_NP_CACHE; until then they are compiled at each start"
                )

    def _key(self, sig, codegen) -> bytes:
        """A hash of everything the code depends on."""
        return hashlib.sha256(f"{self._source} {self._index_key(sig, codegen)}".encode()).digest()

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{self._stem}-{key.hex()[:32]}{SUFFIX}"


class _Impl(CompileResultCacheImpl):
    """Converts code to bytes and back; Numba's own class would look for its own folder."""

    def __init__(self) -> None:
        pass


@functools.cache
def _hash_of(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()


def _checked(key: bytes, data: bytes) -> memoryview:
    """The content written for `key`. Raises ValueError: the file is something else."""
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
    """Write a complete file that only this user can change, then rename it into place. Raises OSError."""
    _sweep(path.parent)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # in containers every process id may be 1
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
    """Remove unfinished files of killed processes. (If the clock was set back, times may be in the future.)"""
    for part in folder.glob("*.part"):
        with suppress(OSError):
            if abs(time.time() - part.stat().st_mtime) > _DEAD:
                part.unlink()

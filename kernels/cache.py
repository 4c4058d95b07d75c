"""Where compiled kernels are kept: a folder that no changed source can share.

Numba's cache looks at the time stamp of one file. A kernel here is made of several, so an
edited helper would leave stale machine code in use. The folder's name is a hash of all sources
in kernels/; Numba itself keeps its versions, processors and the function's own file apart.

`RWKV_NP_CACHE` names another place. Where nothing can be written, kernels are compiled anew.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import llvmlite
import numba

ENV = "RWKV_NP_CACHE"


def source_hash(sources: Path = Path(__file__).parent) -> str:
    """A hash of every source that can end up in a kernel, and of what compiles them."""
    found = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    for path in sorted(sources.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _base() -> Path:
    if os.environ.get(ENV):
        return Path(os.environ[ENV])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "rwkv-np"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rwkv-np"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rwkv-np"


def place(name: str) -> Path | None:
    """The folder `name` for what can be made again, made if need be; None where none can be written."""
    for base in (_base(), Path(tempfile.gettempdir()) / "rwkv-np"):
        path = base / name
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / f"writable-{os.getpid()}").touch()
            (path / f"writable-{os.getpid()}").unlink()
        except OSError:
            continue
        return path
    return None


@functools.cache
def folder() -> Path | None:
    """The folder of these sources' kernels; None where none can be written."""
    return place(source_hash())


def is_first_run(module: str) -> bool:
    """Whether no kernel of that module (the end of its name) has been compiled and kept yet."""
    return folder() is None or not any(folder().rglob(f"{module}.*.nbi"))


@contextmanager
def _numba_keeps_in_folder():
    """Numba asks for its cache folder while a function is decorated, and only then."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder() or before)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def jit(*signature, **options):
    """`numba.njit` whose machine code is kept in the folder."""
    return _kept(numba.njit, signature, options)


def compile_c(*signature, **options):
    """`numba.cfunc` whose machine code is kept in the folder."""
    return _kept(numba.cfunc, signature, options)


def _kept(decorator, signature, options):
    def decorate(function):
        with _numba_keeps_in_folder():
            return decorator(*signature, cache=folder() is not None, **options)(function)

    return decorate

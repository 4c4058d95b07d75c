"""The folder where compiled kernels are stored: changed sources get another folder.

A kernel is made of several functions, so an edited helper function would leave stale machine code
in use. Therefore the folder's name is a hash of all sources in kernels/. The rest that the code
depends on (versions, processor, signature) is in the names of its files (kept_code.py).

`RWKV_NP_CACHE` names another place. If other users can write there (trust.py), or we cannot, a private
folder in the temporary directory is used. If that fails too, every process compiles its own kernels.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import llvmlite
import numba
import platformdirs
from numba.core import sigutils
from numba.core.ccallback import CFunc
from rwkv_np.kernels import outdated
from rwkv_np.kernels.kept_code import SUFFIX, KeptCode
from rwkv_np.kernels.notes import say_once
from rwkv_np.kernels.trust import HAS_OWNERS, what_speaks_against

ENV = "RWKV_NP_CACHE"


def source_hash(sources: Path = Path(__file__).parent) -> str:
    """A hash of every source that a kernel may include, and of the versions that compile them."""
    found = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    for path in sorted(sources.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _usual_base() -> Path:
    if os.environ.get(ENV):
        return Path(os.environ[ENV])
    if not os.environ.get("XDG_CACHE_HOME"):
        Path.home()  # raises RuntimeError if there is none; platformdirs would use a folder named "~"
    return platformdirs.user_cache_path("rwkv-np", appauthor=False, opinion=False)


def _spare_base() -> Path:
    return Path(tempfile.gettempdir()) / (f"rwkv-np-{os.geteuid()}" if HAS_OWNERS else "rwkv-np")


def place(name: str) -> Path | None:
    """The cache folder `name`, created if needed; None if no folder is writable."""
    problem = ""
    for base in (_usual_base, _spare_base):
        found = _usable(base, name)
        if isinstance(found, Path):
            if problem:
                say_once(f"{problem}; {found.parent} is used as the cache instead")
            return found
        problem = problem or found
    say_once(f"{problem}; nothing is cached")
    return None


def _usable(base: Callable[[], Path], name: str) -> Path | str:
    """The folder `name` in that base, or a text that says why it cannot be used."""
    path = None
    try:
        path = base().absolute() / name
        problem = what_speaks_against(path)  # before anything is created there
        if not problem:
            is_new = not path.is_dir()
            _make(path)
            problem = what_speaks_against(path)
            if is_new and not problem:
                outdated.sweep(path)
        if problem:
            return problem
        if os.access(path, os.R_OK | os.X_OK | os.W_OK) or any(path.glob(f"*{SUFFIX}")):
            return path.resolve()
    except OSError as error:
        return f"{error.filename or path or 'the cache'}: {error.strerror or error} (name a folder in {ENV})"
    except RuntimeError:  # the user has no home folder
        return f"there is no home folder (name a folder in {ENV})"
    return f"{path} is not writable (name a folder in {ENV})"


def _make(path: Path) -> None:
    """Create the folder and its missing parents with access for this user only; a umask may allow more."""
    if not path.is_dir():
        _make(path.parent)
        try:
            path.mkdir(0o700, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


@functools.cache
def folder() -> Path | None:
    """The folder for the kernels of these sources; None if no folder is writable."""
    return place(source_hash())


def kept() -> Iterator[Path]:
    """The files of the kernels that are stored now."""
    return iter(()) if folder() is None else folder().glob(f"*{SUFFIX}")


def is_first_run(module: str) -> bool:
    """Whether no kernel of that module (the end of its name) has been stored yet."""
    return not any(path.name.startswith(f"{module}.") for path in kept())


def jit(**options):
    """`numba.njit` that stores its machine code in the folder."""

    def decorate(function):
        dispatcher = numba.njit(**options)(function)
        if folder() is not None and not numba.config.DISABLE_JIT:
            dispatcher._cache = KeptCode(function, folder())
        return dispatcher

    return decorate


def compile_c(signature, **options):
    """`numba.cfunc` that stores its machine code in the folder."""

    def decorate(function):
        compiled = CFunc(function, sigutils.normalize_signature(signature), locals={}, options=options)
        if folder() is not None:
            compiled._cache = KeptCode(function, folder())
        compiled.compile()
        return compiled

    return decorate

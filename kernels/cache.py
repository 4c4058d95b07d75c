"""Where compiled kernels are kept: a folder that no changed source can share.

A kernel is made of several functions, so an edited helper would leave stale machine code in use.
The folder's name is a hash of all sources in kernels/; what else code follows from (versions,
processor, signature) is in the names of its files (kept_code.py).

`RWKV_NP_CACHE` names another place. Where others can write (trust.py), or we cannot, a folder of our
own among the temporary files is taken; where there is none, kernels are compiled in each process.
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
    """A hash of every source that can end up in a kernel, and of what compiles them."""
    found = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    for path in sorted(sources.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _usual_base() -> Path:
    if os.environ.get(ENV):
        return Path(os.environ[ENV])
    if not os.environ.get("XDG_CACHE_HOME"):
        Path.home()  # raises RuntimeError where there is none: platformdirs would name a folder "~"
    return platformdirs.user_cache_path("rwkv-np", appauthor=False, opinion=False)


def _spare_base() -> Path:
    return Path(tempfile.gettempdir()) / (f"rwkv-np-{os.geteuid()}" if HAS_OWNERS else "rwkv-np")


def place(name: str) -> Path | None:
    """The folder `name` for what can be made again, made if need be; None where none can be written."""
    problem = ""
    for base in (_usual_base, _spare_base):
        found = _usable(base, name)
        if isinstance(found, Path):
            if problem:
                say_once(f"{problem}; what was compiled or read is kept in {found.parent} instead")
            return found
        problem = problem or found
    say_once(f"{problem}; what is compiled or read is not kept")
    return None


def _usable(base: Callable[[], Path], name: str) -> Path | str:
    """The folder with that name in that base, or what is wrong with it."""
    path = None
    try:
        path = base().absolute() / name
        problem = what_speaks_against(path)  # before anything is made there
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
    except RuntimeError:  # of a user without a home
        return f"there is no home folder (name a folder in {ENV})"
    return f"{path} is not writable (name a folder in {ENV})"


def _make(path: Path) -> None:
    """Make the folder and those above it that are missing, for us alone: a umask may let others in."""
    if not path.is_dir():
        _make(path.parent)
        try:
            path.mkdir(0o700, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


@functools.cache
def folder() -> Path | None:
    """The folder of these sources' kernels; None where none can be written."""
    return place(source_hash())


def kept() -> Iterator[Path]:
    """The files of the kernels that are kept now."""
    return iter(()) if folder() is None else folder().glob(f"*{SUFFIX}")


def is_first_run(module: str) -> bool:
    """Whether no kernel of that module (the end of its name) has been compiled and kept yet."""
    return not any(path.name.startswith(f"{module}.") for path in kept())


def jit(**options):
    """`numba.njit` whose machine code is kept in the folder."""

    def decorate(function):
        dispatcher = numba.njit(**options)(function)
        if folder() is not None and not numba.config.DISABLE_JIT:
            dispatcher._cache = KeptCode(function, folder())
        return dispatcher

    return decorate


def compile_c(signature, **options):
    """`numba.cfunc` whose machine code is kept in the folder."""

    def decorate(function):
        compiled = CFunc(function, sigutils.normalize_signature(signature), locals={}, options=options)
        if folder() is not None:
            compiled._cache = KeptCode(function, folder())
        compiled.compile()
        return compiled

    return decorate

"""Choose which variant of the kernels this processor runs, once, and record the reason.

Numba already compiles for the host, so vector width is not handled here. CPU features matter only
where the algorithm differs, and that is one place: how four int8 products are added to an int32
lane (dots.py). `RWKV_NP_KERNELS` names a path, for tests and measurements.

On aarch64 LLVM leaves `dotprod` out of the host's features, so the operating system is asked too,
and the functions that need such a feature declare it (`target_features`). Adding it to
`numba.config.CPU_FEATURES` would be too late if another module has already jitted a function,
and would force recompilation of every cached function of other packages.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from typing import NamedTuple

import numba
from numba.core.registry import cpu_target
from rwkv_np.kernels import amx

ENV = "RWKV_NP_KERNELS"

# path -> features it needs, slowest first: the last one that the processor supports is used.
PATHS = {
    "generic": frozenset(),
    "neon": frozenset({"dotprod"}),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "vnni": (VNNI := frozenset({"avx512vnni", "avx512bw", "avx512vl", "f16c"})),
    "amx": VNNI | amx.FEATURES,
}
# path -> what the operating system must allow too; asked only where the processor has the features.
GRANTS = {"amx": amx.granted}

# Linux on aarch64: (entry of the auxiliary vector, bit) -> LLVM's name. From asm/hwcap.h: ASIMDDP in
# AT_HWCAP, I8MM and BF16 in AT_HWCAP2.
HWCAPS = {(16, 20): "dotprod", (26, 13): "i8mm", (26, 14): "bf16"}


class Choice(NamedTuple):
    """The chosen path and the reason, as `rwkv-np info` shows them."""

    path: str
    reason: str


@functools.cache
def cpu_features() -> frozenset[str]:
    """The features that a kernel may use, e.g. {"avx2", "fma"}: both the choice and code generation use this.

    These are Numba's and the operating system's. With NUMBA_CPU_NAME or NUMBA_CPU_FEATURES set they are
    Numba's only, since these variables request code for another machine.
    """
    is_host = numba.config.CPU_NAME is None and numba.config.CPU_FEATURES is None
    return _names(numba_features()) | (system_features() if is_host else frozenset())


def numba_features() -> str:
    """The features of Numba's code generator, in LLVM's notation: "+neon,-sve".

    `numba.config` may have changed since then, and NUMBA_ENABLE_AVX=0 is not in its list.
    """
    return cpu_target.target_context.codegen().magic_tuple()[2]


def is_intel() -> bool:
    """Whether kernels are compiled for a processor of Intel, or an unknown one of its kind."""
    name = cpu_target.target_context.codegen().magic_tuple()[1]
    is_amd = name.startswith(("znver", "bdver", "btver", "amdfam", "k8", "athlon", "barcelona", "geode"))
    return platform.machine().lower() in ("x86_64", "amd64") and not is_amd


def _names(features: str) -> frozenset[str]:
    return frozenset(name[1:] for name in features.split(",") if name.startswith("+"))


def system_features() -> frozenset[str]:
    """Features of an aarch64 processor that the operating system reports and LLVM may not."""
    system = platform.system(), platform.machine()
    if system == ("Darwin", "arm64"):
        return frozenset({"dotprod"})  # LLVM lists no features on macOS; every Apple processor has this one
    if system == ("Linux", "aarch64"):
        return frozenset(name for (entry, bit), name in HWCAPS.items() if _auxiliary(entry) >> bit & 1)
    return frozenset()


def _auxiliary(entry: int) -> int:
    """An entry of the auxiliary vector that Linux gives a process; in a container /proc may be unreadable."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return int(getauxval(entry))


def target_features(path: str) -> str:
    """LLVM's "target-features" for a function of that path, or "" if Numba's own list is enough.

    This list replaces Numba's, so it repeats Numba's entries. It adds only what the path needs: then
    Numba's list and the path determine the code, and both are in the key of its cache.
    """
    numbas = numba_features()
    missing = PATHS[path] & (cpu_features() - _names(numbas))
    return ",".join([*filter(None, [numbas]), *(f"+{name}" for name in sorted(missing))]) if missing else ""


def available_paths() -> list[str]:
    """The paths that this processor can run and the operating system allows, slowest first."""
    return [path for path, needs in PATHS.items() if needs <= cpu_features() and _is_granted(path)]


def _is_granted(path: str) -> bool:
    return path not in GRANTS or GRANTS[path]()


def choose(forced: str | None = None) -> Choice:
    """The fastest path, or `forced` (default: the value of RWKV_NP_KERNELS) if this processor can run it.

    An intrinsic that the processor lacks ends the process inside LLVM, so a path that cannot run is
    never chosen, even when asked for; the reason then says so.
    """
    wanted = os.environ.get(ENV) if forced is None else forced
    best = available_paths()[-1]
    if not wanted:
        needs = ", ".join(sorted(PATHS[best])) or "no special features"
        return Choice(best, f"the fastest this processor supports (needs {needs})")
    if wanted not in PATHS:
        return Choice(best, f"{ENV}={wanted} is not a path (choose from {', '.join(PATHS)}); using {best}")
    missing = PATHS[wanted] - cpu_features()
    if missing:
        needs = ", ".join(sorted(missing))
        return Choice(best, f"{ENV}={wanted} needs {needs}, which this processor lacks; using {best}")
    if not _is_granted(wanted):
        return Choice(best, f"{ENV}={wanted} needs registers that the operating system refuses; using {best}")
    return Choice(wanted, f"{ENV}={wanted}")

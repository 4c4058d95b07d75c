"""Which form of a kernel this processor runs, decided once, with the reason.

Numba already compiles for the host, so vector width is not our business. Features matter
only where the algorithm differs, and that is one place: how four int8 products are added
to an int32 lane (dots.py). `RWKV_NP_KERNELS` names a path for tests and for measuring.
"""

from __future__ import annotations

import functools
import os
import platform
from typing import NamedTuple

import llvmlite.binding
import numba

ENV = "RWKV_NP_KERNELS"

# path -> features it needs, slowest first: the last one that the processor has is taken.
PATHS = {
    "generic": frozenset(),
    "neon": frozenset({"dotprod"}),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "vnni": frozenset({"avx512vnni", "avx512bw", "avx512vl", "f16c"}),
}


class Choice(NamedTuple):
    """The path taken, and why, for people: `rwkv-np info` shows both."""

    path: str
    reason: str


@functools.cache
def cpu_features() -> frozenset[str]:
    """The features that Numba compiles for, e.g. {"avx2", "fma"}.

    `numba.config` comes first: under NUMBA_CPU_NAME=generic it holds an empty list, so that
    code generation and this choice pose as the oldest machine together.
    """
    flat = numba.config.CPU_FEATURES
    if flat is None:
        flat = llvmlite.binding.get_host_cpu_features().flatten()
    found = {name[1:] for name in flat.split(",") if name.startswith("+")}
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        found.add("dotprod")  # LLVM lists no features there; every Apple processor has this one
    return frozenset(found)


def available_paths() -> list[str]:
    """The paths that this processor can run, slowest first."""
    return [path for path, needs in PATHS.items() if needs <= cpu_features()]


def choose(forced: str | None = None) -> Choice:
    """The fastest path, or `forced` (default: what RWKV_NP_KERNELS says) where it can run.

    An intrinsic that the processor lacks ends the process inside LLVM, so a path that cannot
    run is never taken, whoever asks for it; the reason then says so.
    """
    asked = os.environ.get(ENV) if forced is None else forced
    best = available_paths()[-1]
    if not asked:
        needs = ", ".join(sorted(PATHS[best])) or "nothing in particular"
        return Choice(best, f"the fastest that this processor runs (it needs {needs})")
    if asked not in PATHS:
        return Choice(best, f"{ENV}={asked} names no path (there are: {', '.join(PATHS)})")
    missing = PATHS[asked] - cpu_features()
    if missing:
        return Choice(best, f"{ENV}={asked} needs {', '.join(sorted(missing))}, which is missing here")
    return Choice(asked, f"{ENV}={asked}")

"""`rwkv-np info`: which kernels run on this machine, and why."""

from __future__ import annotations

import json
import platform
from typing import Any

import click

from rwkv_np import __version__
from rwkv_np.cli import Command

# The features that select a kernel path, or may in future; a processor has a hundred others.
_X86 = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "amx-tile", "amx-int8")
_AARCH64 = ("dotprod", "i8mm", "bf16")


@click.command(cls=Command, name="info", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
def command(as_json: bool) -> None:
    """Show the kernels chosen for this processor and why, and the threads, the cache and the versions."""
    found = _info()
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo("\n".join(f"{name:16}{value}" for name, value in found.items()))


def _info() -> dict[str, Any]:
    import llvmlite
    import numba
    import numpy

    from rwkv_np.kernels import cache, dispatch, threads

    choice = dispatch.choose()
    features = dispatch.cpu_features()
    return {
        "rwkv_np": __version__,
        "kernels": choice.path,
        "reason": choice.reason,
        "available": ", ".join(dispatch.available_paths()),
        "features": ", ".join(name for name in _X86 + _AARCH64 if name in features) or "none that these kernels use",
        "threads": threads.default_threads(),
        "kernel cache": str(cache.folder() or "none: each process compiles the kernels again"),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "llvmlite": f"{llvmlite.__version__} (LLVM {'.'.join(map(str, _llvm_version()))})",
    }


def _llvm_version() -> tuple[int, ...]:
    import llvmlite.binding

    return tuple(llvmlite.binding.llvm_version_info)

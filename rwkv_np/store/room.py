"""Whether a model fits: on the disk while it is made, and in memory while chatting.

Checked before a download of gigabytes. An error says what is needed, what is available, and what would fit.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rwkv_np import memory
from rwkv_np.errors import InputError, OutputError
from rwkv_np.files.published import PUBLISHED
from rwkv_np.store.needs import PROCESS, Needs, needs, needs_about
from rwkv_np.store.origin import Origin

# docs/quantization.md: Q8_0 if it fits into memory, and if not the next smaller ones.
PREFERRED = ("Q8_0", "Q5_1", "Q4_1")
SMALLEST = "Q4_0"
SHARE = 0.75  # share of the memory that a preferred type may use: the system and a browser need the rest


def needs_of(origin: Origin, data_type: str) -> Needs:
    """The needs of the model in that type; an estimate if only the checkpoint's size is known."""
    return needs(origin.shape, data_type) if origin.shape else needs_about(origin.n_bytes or 0, data_type)


def default_type(origin: Origin) -> str:
    """The recommended type for this machine: the most exact of PREFERRED that leaves room for other programs."""
    installed = memory.installed()
    fitting = (t for t in PREFERRED if installed is None or needs_of(origin, t).memory <= SHARE * installed)
    return next(fitting, PREFERRED[-1])


def check_memory(origin: Origin, data_type: str) -> None:
    """Raise InputError if this machine has less memory than the model needs."""
    installed, needed = memory.installed(), needs_of(origin, data_type).memory
    if installed is None or needed <= installed:
        return
    raise InputError(
        f"{origin.name} needs {gb(needed)} of memory as {data_type}, and this machine has {gb(installed)}. "
        f"{_what_fits(origin, installed)} (--force gets it anyway)"
    )


def check_memory_of_file(origin: Origin) -> None:
    """The same for a model file whose size is known, and which is used as it is."""
    installed, needed = memory.installed(), (origin.n_bytes or 0) + PROCESS
    if installed is not None and needed > installed:
        raise InputError(
            f"{origin.name} needs {gb(needed)} of memory, and this machine has {gb(installed)}. Get a smaller type of "
            "the model (--force gets it anyway)"
        )


def _what_fits(origin: Origin, installed: int) -> str:
    smaller = (t for t in (*PREFERRED, SMALLEST) if needs_of(origin, t).memory <= installed)
    if found := next(smaller, None):
        return f"Another type fits: rwkv-np get {origin.name} --type {found}, {gb(needs_of(origin, found).memory)}"
    others = [
        (needs(entry.shape, t).memory, entry.name, t) for entry in PUBLISHED.values() for t in (*PREFERRED, SMALLEST)
    ]
    fitting = [one for one in others if one[0] <= installed]
    if not fitting:
        return "No published model fits"
    n_bytes, name, data_type = max(fitting, key=lambda one: one[0])
    return f"The largest model that fits: rwkv-np get {name} --type {data_type}, {gb(n_bytes)}"


def check_disk(origin: Origin, folder: Path, peak: int, there: int) -> None:
    """Raise OutputError if the disk of `folder` has no room for `peak` bytes, of which `there` are already written."""
    free = shutil.disk_usage(_existing(folder)).free
    if peak - there <= free:
        return
    names = [
        name for name, entry in PUBLISHED.items()
        if entry.n_bytes + needs(entry.shape, "FP16").file <= free and entry.n_bytes < (origin.n_bytes or 0)
    ]  # fmt: skip
    largest = max(names, key=lambda name: PUBLISHED[name].n_bytes, default=None)
    other = f" A smaller model fits: rwkv-np get {largest}" if largest else ""
    raise OutputError(
        folder,
        f"making {origin.name} needs {gb(peak - there)} of disk space (for checkpoint and model at the same time), "
        f"and the disk has {gb(free)} free. Free some space, or choose another folder: --models FOLDER.{other}",
    )


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder if os.path.isdir(folder) else Path.cwd()


def gb(n_bytes: float) -> str:
    """A number of bytes in readable units."""
    if n_bytes >= 1e9:
        return f"{n_bytes / 1e9:,.2f} GB"
    return f"{n_bytes / 1e6:,.0f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:,.0f} kB"

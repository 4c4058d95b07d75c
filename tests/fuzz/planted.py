"""Files that fail in every possible way when opened, to test that the fuzzer notices: used by its own test.

The content of a file is the name of its failure.
"""

from __future__ import annotations

import ctypes
import itertools
import warnings
from pathlib import Path
from random import Random

import click
import numpy as np

from rwkv_np.errors import InputError

FAULTS = (
    b"ok", b"refused", b"signal", b"hang", b"traceback", b"lines", b"long", b"escape", b"memory", b"greed", b"warning",
    b"later", b"exit",
)  # fmt: skip

UNREADABLE = {b"lines": "two\nlines", b"escape": "\x1b[2J", b"long": "x" * 5000}


def seed(folder: Path) -> None:
    """Write one valid file."""
    (folder / "file").write_bytes(b"ok")


def edit(data: bytes, rng: Random) -> bytes:
    """Choose a failure."""
    return rng.choice(FAULTS)


class Opener:
    """Opens them."""

    def __init__(self, folder: Path, work: Path) -> None:
        """Neither argument is needed."""

    def open_planted(self, path: Path) -> bytes:
        """Produce the failure that the file names."""
        return _happen(path.read_bytes())

    def use_planted(self, said: bytes) -> None:
        """An accepted file may still fail."""
        if said == b"later":
            raise InputError("one line, but too late")


def _happen(said: bytes) -> bytes:
    if said == b"signal":
        ctypes.string_at(0)
    if said == b"hang":
        sum(itertools.repeat(1))  # runs in C, without bytecode in between
    if said == b"memory":
        np.ones(20_000_000)
    if said == b"greed":
        np.empty(2**36)  # never touched, so it does not show in the resident memory
    if said == b"warning":
        warnings.warn("a warning", RuntimeWarning, stacklevel=1)
    if said == b"exit":
        raise SystemExit(0)
    if said == b"traceback":
        raise IndexError("a bug")
    if said in UNREADABLE:  # our errors are shortened to one line when shown; click's are shown unchanged
        raise click.ClickException(UNREADABLE[said])
    if said == b"refused":
        raise InputError("one line")
    return said

"""Standard streams that the shell has closed (`<&-`, `>&-`).

Python has None for such a stream, and the next file that is opened takes its number: a model would be read as the
input, and a library's warning written into it. So the null device is put in its place, before any file is opened.
Nobody can miss what would be written to stderr. What would be read from stdin, or written to stdout, was meant for
somebody, and is refused in a line.
"""

from __future__ import annotations

import os
import sys

from rwkv_np.errors import InputError

_closed: set[str] = set()


def open_closed() -> None:
    """Open the null device for each standard stream that is closed."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            _closed.add(name)
            _take_number(number)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _take_number(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which need not be this one
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


def check_output() -> None:
    """Raise InputError where stdout was closed."""
    if "stdout" in _closed:
        raise InputError("stdout is closed; expected a place for what is written: a file, a pipe, or > /dev/null")


def check_input() -> None:
    """Raise InputError where stdin was closed."""
    if "stdin" in _closed:
        raise InputError("stdin is closed; expected lines to answer: a terminal, a file or a pipe, or give --prompt")

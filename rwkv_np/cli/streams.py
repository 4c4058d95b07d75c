"""Standard streams that the shell has closed (`<&-`, `>&-`).

Python has None for such a stream, and the next file that is opened gets its number: a model would be read as the
input, or a library's warning written into it. So the null device is put in its place, before any file is opened.
Output to stderr is then lost, which does no harm. Reading stdin or writing to stdout is refused with an error,
since the user expects it to work.
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
    opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which may be another one
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


def check_output() -> None:
    """Raise InputError where stdout was closed."""
    if "stdout" in _closed:
        raise InputError("stdout is closed; expected a file, a pipe, or > /dev/null")


def check_input() -> None:
    """Raise InputError where stdin was closed."""
    if "stdin" in _closed:
        raise InputError("stdin is closed; expected a terminal, a file or a pipe, or use --prompt")

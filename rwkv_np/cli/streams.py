"""Standard streams that the shell has closed (`<&-`, `>&-`) or that write to a full disk.

Python has None for a closed stream, and the next opened file gets its number: a model would be read as the input, or a
library's warning would be written into it. So the null device takes its place before any file is opened. Output to
stderr is then lost, which does no harm. Reading stdin or writing to stdout is an error, since the user expects it to
work. A full disk is treated the same way: notes may be lost, answers may not.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

from rwkv_np.errors import InputError, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_closed: set[str] = set()


def open_closed() -> None:
    """Open the null device for each standard stream that is closed."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            _closed.add(name)
            _take_number(number)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


class _Notes(io.FileIO):
    """Stderr: if the disk is full, the output is lost and the work continues."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return memoryview(data).nbytes


def forgive_full() -> None:
    """Keep a note on a full disk from ending the program."""
    stream = sys.stderr
    if stream is not sys.__stderr__ or not isinstance(stream, io.TextIOWrapper) or stream.isatty():
        return  # replaced by a test or another program; a terminal is never full
    raw = io.BufferedWriter(_Notes(stream.fileno(), "w", closefd=False))
    sys.stderr = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True, write_through=True)


def describe(error: Exception) -> str:
    """An error's message. Python does not name stdout when its disk is full, so the message adds the name."""
    if isinstance(error, OSError) and error.errno in _FULL and not error.filename:  # errors of files have a name
        return f"stdout: {one_line(error)}. Free some space, or write elsewhere"
    return one_line(error)


def _take_number(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which may be another one
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


def check_output() -> None:
    """Raise InputError if stdout was closed."""
    if "stdout" in _closed:
        raise InputError("stdout is closed; expected a file, a pipe, or > /dev/null")


def check_input() -> None:
    """Raise InputError if stdin was closed."""
    if "stdin" in _closed:
        raise InputError("stdin is closed; expected a terminal, a file or a pipe, or use --prompt")

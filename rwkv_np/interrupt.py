"""Ctrl-C before a command has started: the program exits with status 130, without a Python traceback.

Importing NumPy, click and this package takes some tenths of a second. During that time there is no output, and no code
that could catch a KeyboardInterrupt. So this module is imported first. In one of our programs, it ends the process at
Ctrl-C until `rwkv_np.cli.Command` starts its work. Other programs that import the package are not affected.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable

Handler = Callable[[int, "types.FrameType | None"], object]
# llvmlite's, and Python's own, whose exceptions are shown and dropped too.
CALLBACKS = {"_raw_object_cache_notify", "_raw_object_cache_getbuffer", "__del__"}
STATUS = 130  # the exit status that shells report for a program ended by Ctrl-C
_TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools")


def is_program() -> bool:
    """Whether this is `rwkv-np`, `python -m rwkv_np` (or its .batch, .chat or .serve), or a script of tools/."""
    started = sys.argv[0] if sys.argv else ""
    if started == "-m":  # Python puts the module's path there once its package is imported
        return any(re.fullmatch(r"(-m)?rwkv_np(\.batch|\.chat|\.serve)?", word) for word in sys.orig_argv[1:])
    if re.fullmatch(r"rwkv-np(-script\.pyw?|\.exe)?", os.path.basename(started)):
        return True
    return started.endswith(".py") and os.path.dirname(os.path.realpath(started)) == os.path.realpath(_TOOLS)


def leave(number: int, frame: object) -> None:
    """Handle Ctrl-C until `release`: no file is open that would have to be closed."""
    os._exit(STATUS)


def release() -> None:
    """Make Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, outside_callbacks(signal.default_int_handler))


def outside_callbacks(handler: Handler) -> Handler:
    """A wrapper for a signal handler that raises: it waits while the exception would be lost.

    llvmlite calls Python from C while a kernel is compiled. An exception cannot pass through C code: Python printed it
    as ignored, the signal was lost, and LLVM continued with a buffer that was never filled, until a segmentation fault.
    """

    def handle(number: int, frame: types.FrameType | None) -> object:
        if not _is_in_callback(frame):
            return handler(number, frame)
        again = threading.Timer(0.02, signal.raise_signal, (number,))
        again.start()
        return None

    return handle


def _is_in_callback(frame: types.FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in CALLBACKS:
            return True
        frame = frame.f_back
    return False


if threading.current_thread() is threading.main_thread() and is_program():
    # Not if Ctrl-C already has another handler, or is ignored (`nohup`, `&` in a script).
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)

"""Ctrl-C before a command has begun: the program leaves with 130, without Python's own traceback.

Importing NumPy, click and ours takes some tenths of a second, in which nothing is written and nobody can
catch a KeyboardInterrupt. So this module comes first when the package is imported, and where the process is one of
our programs it ends it at Ctrl-C until `rwkv_np.cli.Command` begins its work. A program of somebody else that
imports the package is left alone.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading

STATUS = 130  # the exit status that shells give to what Ctrl-C ended
_TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools")


def is_program() -> bool:
    """Whether this process was started as `rwkv-np`, `python -m rwkv_np` (or its .chat or .serve) or tools/*.py."""
    started = sys.argv[0] if sys.argv else ""
    if started == "-m":  # Python puts the module's path there once its package is imported
        return any(re.fullmatch(r"(-m)?rwkv_np(\.chat|\.serve)?", word) for word in sys.orig_argv[1:])
    if re.fullmatch(r"rwkv-np(-script\.pyw?|\.exe)?", os.path.basename(started)):
        return True
    return started.endswith(".py") and os.path.dirname(os.path.realpath(started)) == os.path.realpath(_TOOLS)


def leave(number: int, frame: object) -> None:
    """What Ctrl-C does until `release`: nothing is open that would have to be closed."""
    os._exit(STATUS)


def release() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt again, where it was not."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if threading.current_thread() is threading.main_thread() and is_program():
    # Not where somebody has said that Ctrl-C means something else, or nothing (`nohup`, `&` in a script).
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)

"""Keys while an answer is generated: Ctrl-C ends it, and other keys are kept for the next line."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rwkv_np.completion import Completion

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]


@contextmanager
def ctrl_c_interrupts(completion: Completion) -> Iterator[None]:
    """Ctrl-C ends the answer after the current token, however often it is pressed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    before = signal.signal(signal.SIGINT, lambda *_: completion.interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def typing_unseen() -> Iterator[None]:
    """Typed text is not echoed into the answer; the line editor shows it afterwards."""
    if termios is None or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    # NOFLSH: otherwise Ctrl-C discards what was typed before it, and output that is not shown yet.
    silent = [*before[:3], before[3] & ~termios.ECHO | termios.NOFLSH, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)

"""Run a command of rwkv-np, or of tools/, with a fault at a known moment.

    python tests/faults/faulty.py FAULT FOLDER rwkv-np convert ...

FAULT is one of

    kill-at-step:N    kill -9 just before the Nth change in FOLDER: a file opened for writing, renamed or removed
    TERM-at-step:N    the same with that signal (or HUP, INT)
    kill-at-byte:N    kill in the middle of a write, when a file would become longer than N bytes
    full-at-byte:N    a full disk: no file can become longer than N bytes
    gone-at-step:N    FOLDER is deleted just before the Nth change in it
    clock-at-step:N   the clock goes back by an hour, for files too, just before the Nth change in FOLDER
    no-override       file modes also apply to root (Linux)
"""

import ctypes
import os
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

WRITES = os.O_WRONLY | os.O_RDWR


class Steps:
    """Counts changes in a folder, and calls a function just before one of them."""

    def __init__(self, folder, happen, at):
        self.folder, self.happen, self.at, self.n = os.path.realpath(folder), happen, at, 0

    def __call__(self, event, args):
        if event == "open":
            path, mode, flags = args
            is_change = bool(set(mode or "") & set("wxa+")) or bool((flags or 0) & WRITES)
        else:
            path, is_change = args[0] if args else None, event in ("os.rename", "os.remove")
        if is_change and isinstance(path, (str, bytes)) and os.fsdecode(path).startswith(self.folder):
            self.n += 1
            if self.n == self.at:
                self.happen()


def obey_modes():
    """Drop the capabilities that let root read and write everything: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH."""
    if sys.platform != "linux" or os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    version, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(version, sets) == 0
    for i in (0, 1):  # effective, permitted
        sets[i] &= ~0b110
    assert libc.capset(version, sets) == 0


def turn_back(folder, by=3600):
    """Let the time be earlier: what is there is of the future then. (The system's own clock is not ours to set.)"""
    clock = time.time
    time.time = lambda: clock() - by
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (clock() + by, clock() + by))


def prepare(fault, folder):
    kind, _, number = fault.partition(":")
    what, _, where = kind.partition("-at-")
    if fault == "no-override":
        obey_modes()
        return
    if what == "clock":
        sys.addaudithook(Steps(folder, lambda: turn_back(folder), int(number)))
        return
    if what == "gone":
        sys.addaudithook(Steps(folder, lambda: shutil.rmtree(folder), int(number)))
        return
    if where == "step":
        number_of_signal = signal.SIGKILL if what == "kill" else getattr(signal, f"SIG{what}")
        sys.addaudithook(Steps(folder, lambda: os.kill(os.getpid(), number_of_signal), int(number)))
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if what == "kill" else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), int(number)))


def main(fault, folder, program, *arguments):
    if program == "rwkv-np":
        from rwkv_np.cli import main as command

        prepare(fault, folder)  # not earlier: imports may write caches
        command(list(arguments), prog_name="rwkv-np")
    prepare(fault, folder)
    sys.argv = [program, *arguments]
    sys.path.insert(0, os.path.dirname(program))
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])

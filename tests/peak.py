"""The peak memory of a process during its work, for test scripts that limit it.

The memory is sampled at each progress report, independent of the load of the machine, and also every two
milliseconds, to catch short peaks in between.
"""

import os
import threading
import time
from pathlib import Path


def rss_anon():
    """Bytes of memory that belong only to this process; only Linux reports them."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


class Peak:
    """Pass `progress` as callback to the work; `growth` is the peak growth of memory since creation, in bytes."""

    def __init__(self):
        self._before = self._most = rss_anon()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            self.progress()
            time.sleep(0.002)

    def progress(self, *_):
        self._most = max(self._most, rss_anon())

    @property
    def growth(self):
        return self._most - self._before


def bounded_environment():
    """Environment variables of such a script: it finds this module, and has two threads on every processor.

    Each thread of torch or Numba has its own memory, which the limits should not depend on.
    """
    places = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}

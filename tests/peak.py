"""The most memory that a process held while it worked, for the scripts of tests that bound it.

The peak is looked for at each report of progress, which no load of the machine can leave out, and every two
milliseconds besides, for what comes and goes in between.
"""

import os
import threading
import time
from pathlib import Path


def rss_anon():
    """Bytes of memory that belong to this process alone; Linux alone tells it."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


class Peak:
    """`progress` is for the work to call; `growth` is by how much memory grew since this was made, in bytes."""

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
    """The variables of such a script: it finds this module, and has two threads on a processor of any size.

    Each thread of torch or Numba has some memory of its own, which is no part of what the bounds are about.
    """
    places = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}

"""A parallel region, and what stands for it in a process that was forked.

A fork copies the memory of its process but none of the threads. GNU OpenMP then ends the child at its next
region, and `multiprocessing.Pool`, which forks on Linux up to Python 3.13, starts another one in its place, for
ever. So where threads had been started before the fork, the child enters the same functions compiled without
them, and does all the work itself. A pool has a process for each core, so it loses nothing by that.

(Numba's `workqueue` layer would start its threads again, but ends a process in which two threads enter regions
at once, and others than us may do so.)
"""

from __future__ import annotations

import functools
import os
import threading
import types
from collections.abc import Callable

import numba
from rwkv_np.kernels.cache import jit

# Every parallel call of this package holds it: only one may be in there at a time.
one_at_a_time = threading.RLock()

_regions: list[Region] = []
_is_alone = False


class Region:
    """A function with a `prange` in it.

    enter  call it: with threads, or in a process that has lost them without
    """

    def __init__(self, function: Callable, options: dict[str, object]) -> None:
        self._function, self._options = function, options
        self.enter = self.alone if _is_alone else jit(parallel=True, nogil=True, **options)(function)
        _regions.append(self)

    @functools.cached_property
    def alone(self) -> Callable:
        """The same, as one thread computes it."""
        f = self._function
        # Under another name: the kernels' cache tells functions apart by their names, and not by their options.
        copy = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
        copy.__qualname__ = f"{f.__qualname__}_alone"
        return jit(nogil=True, **self._options)(copy)


def region(**options: object) -> Callable[[Callable], Region]:
    """Decorate the function of a region; the options are those of `jit`."""
    return lambda function: Region(function, options)


def is_alone() -> bool:
    """Whether this process was forked from one that had started threads, and so can have none."""
    return _is_alone


def _go_on_alone() -> None:
    """In the child, just after the fork."""
    global _is_alone
    try:
        numba.threading_layer()
    except ValueError:  # none was started yet: this process can still have its own
        pass
    else:
        _is_alone = True
        for each in _regions:
            each.enter = each.alone
    one_at_a_time.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    # A fork waits for the pass that another thread is in: else the child would wait for that thread for ever.
    os.register_at_fork(
        before=one_at_a_time.acquire, after_in_parent=one_at_a_time.release, after_in_child=_go_on_alone
    )

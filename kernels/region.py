"""A parallel region, and its replacement in a forked process.

A fork copies the memory of its process but none of the threads. GNU OpenMP then ends the child process at its
next region, and `multiprocessing.Pool`, which forks on Linux up to Python 3.13, starts another child, without
end. So if threads had been started before the fork, the child calls the same functions compiled without
threads, and does all the work itself. A pool has one process per core, so it loses nothing by this.

(Numba's `workqueue` layer would start its threads again, but it ends a process in which two threads enter
regions at once, and other packages may do that.)
"""

from __future__ import annotations

import functools
import os
import threading
import types
from collections.abc import Callable

import numba
from rwkv_np.kernels.cache import jit

# Every parallel call of this package takes this lock: only one may run at a time.
one_at_a_time = threading.RLock()

_regions: list[Region] = []
_is_alone = False


class Region:
    """A function with a `prange` in it.

    enter  call the function: with threads, or without them in a process that lost them in a fork
    """

    def __init__(self, function: Callable, options: dict[str, object]) -> None:
        self._function, self._options = function, options
        self.enter = self.alone if _is_alone else jit(parallel=True, nogil=True, **options)(function)
        _regions.append(self)

    @functools.cached_property
    def alone(self) -> Callable:
        """The same function, compiled for one thread."""
        f = self._function
        # Under another name: the kernel cache identifies functions by name, not by their options.
        copy = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
        copy.__qualname__ = f"{f.__qualname__}_alone"
        return jit(nogil=True, **self._options)(copy)


def region(**options: object) -> Callable[[Callable], Region]:
    """Decorate the function of a region; the options are those of `jit`."""
    return lambda function: Region(function, options)


def is_alone() -> bool:
    """Whether this process was forked from one that had started threads, and so cannot start any."""
    return _is_alone


def _go_on_alone() -> None:
    """In the child, just after the fork."""
    global _is_alone
    try:
        numba.threading_layer()
    except ValueError:  # none was started yet: this process can still start its own
        pass
    else:
        _is_alone = True
        for each in _regions:
            each.enter = each.alone
    one_at_a_time.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    # A fork waits until another thread's pass has ended. Otherwise the child would wait for that thread forever.
    os.register_at_fork(
        before=one_at_a_time.acquire, after_in_parent=one_at_a_time.release, after_in_child=_go_on_alone
    )

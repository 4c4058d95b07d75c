"""Check the environment variables that Numba reads, before Numba reads them.

Numba answers a bad value with a warning and a traceback (NUMBA_OPT=abc), an error at the first parallel
call (NUMBA_NUM_THREADS=0), or the end of the process (100,000 threads; features without a sign). So this
module is imported before Numba, and does not import it. Harmful values are removed from this process's
environment, since Numba reads it again for each compilation. The caller decides what to do about `problems`.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable

MOST_THREADS = 4096  # 16,384 still start here; 65,536 end the process
LAYERS = ("default", "omp", "tbb", "workqueue", "safe", "threadsafe", "forksafe")


def _is_count(value: str) -> bool:
    return value.strip().isascii() and value.strip().isdigit() and 1 <= int(value[:9]) <= MOST_THREADS


# name -> (whether a value is valid, what is expected)
CHECKS: dict[str, tuple[Callable[[str], object], str]] = {
    "NUMBA_NUM_THREADS": (_is_count, f"a whole number from 1 to {MOST_THREADS}"),
    "NUMBA_THREADING_LAYER": (lambda value: value.lower() in LAYERS, f"one of {', '.join(LAYERS)}"),
    "NUMBA_CPU_FEATURES": (re.compile(r"([+-][\w.-]+(,[+-][\w.-]+)*)?").fullmatch, "features such as +avx2,-avx512f"),
    "NUMBA_DISABLE_JIT": (("0", "").__contains__, "0: this program needs Numba's compiler"),
}

_bad: list[str] = []


def _say(name: str, value: str, expected: str) -> str:
    return f"the variable {name} is {value!r}; expected {expected}. Correct it, or run: unset {name}"


def _take_out_bad() -> None:
    for name, (is_good, expected) in CHECKS.items():
        value = os.environ.get(name)
        if value is not None and not is_good(value):
            _bad.append(_say(name, value, expected))
            del os.environ[name]


def problems() -> list[str]:
    """A line for each bad variable: what was found, what is expected, and how to fix it."""
    return _bad + [_say(name, value, "a whole number") for name, value in os.environ.items() if _is_unread(name, value)]


def _is_unread(name: str, value: str) -> bool:
    """Whether Numba expected a number and used its default; only known after Numba was imported."""
    config = getattr(sys.modules.get("numba"), "config", None)
    if not name.startswith("NUMBA_") or not isinstance(getattr(config, name[6:], None), int):
        return False
    return value != "max" and not re.fullmatch(r"\s*[+-]?\d+\s*", value)  # NUMBA_OPT may be max


_take_out_bad()
# `problems` has a line instead.
warnings.filterwarnings("ignore", message="Environment variable 'NUMBA_", category=RuntimeWarning)

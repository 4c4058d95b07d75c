"""Variables of the environment that Numba reads: what is nonsense in them, found before Numba does.

Numba answers with a warning and a traceback (NUMBA_OPT=abc), an error at the first parallel call
(NUMBA_NUM_THREADS=0), or the end of the process (100,000 threads; features without a sign). So this is
imported before Numba is. A bad variable is taken out of this process's environment, since Numba reads
it again with each compilation, and is remembered in `problems`: what to do about it is not our business.
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


# name -> whether a value is good, and what was expected
CHECKS: dict[str, tuple[Callable[[str], object], str]] = {
    "NUMBA_NUM_THREADS": (_is_count, f"a whole number from 1 to {MOST_THREADS}"),
    "NUMBA_THREADING_LAYER": (lambda value: value.lower() in LAYERS, f"one of {', '.join(LAYERS)}"),
    "NUMBA_CPU_FEATURES": (re.compile(r"([+-][\w.-]+(,[+-][\w.-]+)*)?").fullmatch, "features such as +avx2,-avx512f"),
    "NUMBA_DISABLE_JIT": (("0", "").__contains__, "0: without its compiler nothing runs here"),
}
_UNREAD = re.compile(r"Environment variable '(\w+)' is defined but its associated value '(.*)' could not be parsed")

problems: list[str] = []
"""A line for each bad variable: what was found, what was expected, and what mends it."""


def _refuse(name: str, value: str, expected: str) -> None:
    problems.append(f"the variable {name} is {value!r}; expected {expected}. Mend it, or: unset {name}")
    os.environ.pop(name, None)


def check() -> None:
    """Look at what Numba is about to read, and import it."""
    for name, (is_good, expected) in CHECKS.items():
        value = os.environ.get(name)
        if value is not None and not is_good(value):
            _refuse(name, value, expected)
    if "numba" in sys.modules:
        return  # somebody else's import, who has seen its warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import numba  # noqa: F401
    for warning in caught:
        found = _UNREAD.match(str(warning.message))
        if found:
            _refuse(found[1], found[2], "a value that Numba can read")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


check()

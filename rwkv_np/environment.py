"""The environment of the process: variables that make no sense are refused, or noted, in a line.

Which are found is said by `kernels/environment.py`, before Numba reads them. Importing this package never
fails because of them: what needs the kernels does.
"""

from __future__ import annotations

import os

from rwkv_np.errors import InputError
from rwkv_np.kernels import dispatch, environment, threads
from rwkv_np.kernels.kept_code import say_once


def check_environment() -> None:
    """Raise InputError where a variable that Numba reads has a value that cannot be true."""
    if environment.problems:
        raise InputError(environment.problems[0])


def check_threading_layer() -> None:
    """Start Numba's threads. Raises InputError: the layer that was asked for is not installed."""
    problem = threads.what_stops_threads()
    if problem:
        raise InputError(problem)


def note_kernels(choice: dispatch.Choice) -> None:
    """Say in a line that another path of the kernels was asked for than the one taken."""
    if os.environ.get(dispatch.ENV, choice.path) not in ("", choice.path):
        say_once(f"{choice.reason}. Mend it, or: unset {dispatch.ENV}")

"""The environment of the process: variables that make no sense are refused in a line.

Which are found is said by `kernels/environment.py`, before Numba reads them. Importing this package never
fails because of them: what needs the kernels does.
"""

from __future__ import annotations

from rwkv_np.errors import InputError
from rwkv_np.kernels import environment


def check_environment() -> None:
    """Raise InputError where a variable that Numba reads has a value that cannot be true."""
    for problem in environment.problems():
        raise InputError(problem)

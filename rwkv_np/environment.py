"""The environment of the process: an invalid variable gives an error of one line.

`kernels/environment.py` finds them, before Numba reads them. Importing this package never fails because of them; only
code that needs the kernels fails.
"""

from __future__ import annotations

from rwkv_np.errors import InputError
from rwkv_np.kernels import environment


def check_environment() -> None:
    """Raise InputError if a variable that Numba reads has an invalid value."""
    for problem in environment.problems():
        raise InputError(problem)

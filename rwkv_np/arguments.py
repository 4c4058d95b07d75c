"""Checks of arguments: one function for each kind, and one way to show the value that was found.

Public functions call them once on entry (`load`, `SamplingParams`, `Model.read`, ...); internal code does not
check again. A message is one line: the argument's name, what it is, and what was expected.

True and False do not count as numbers here: `threads=True` is a mistake.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from typing import TypeVar

import numpy as np

from rwkv_np.errors import InputError

SHOWN = 60  # characters of a value in a message

T = TypeVar("T")


def shown(value: object) -> str:
    """A value as a message shows it: on one line, shortened."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of 5,000 digits raises one too
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def whole_number(name: str, value: object, low: int, high: int | None = None) -> int:
    """`value` as an int. Raises InputError unless it is an integer from `low` to `high`, both included."""
    expected = f"at least {low}" if high is None else f"{low} to {high}"
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} is {shown(value)}; expected a whole number, {expected}")
    if number < low or (high is not None and number > high):
        raise InputError(f"{name} is {shown(number)}; expected {expected}")
    return number


def number(name: str, value: object, low: float, high: float) -> float:
    """`value` as a float. Raises InputError unless it is a number from `low` to `high`; NaN is not."""
    expected = f"{low:g} to {high:g}"
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise InputError(f"{name} is {shown(value)}; expected a number, {expected}")
    if not low <= value <= high:  # type: ignore[operator]
        found = value if isinstance(value, float) else shown(value)  # the repr of a NumPy number names its type
        raise InputError(f"{name} is {found}; expected {expected}")
    return float(value)


def switch(name: str, value: object) -> bool:
    """`value` as a bool. Raises InputError unless it is True or False (the string "no" would count as True)."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} is {shown(value)}; expected True or False")
    return bool(value)


def path(name: str, value: object) -> str:
    """`value` as a str. Raises InputError if it cannot be a path."""
    found = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(found, str) or not found or "\0" in found:
        raise InputError(f"{name} is {shown(value)}; expected the path of a file")
    return found


def one_of(name: str, value: T, kind: type | tuple[type, ...], expected: str) -> T:
    """`value` itself. Raises InputError unless it is an instance of `kind`."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is {shown(value)}; expected {expected}")
    return value


def token_ids(name: str, value: object) -> np.ndarray:
    """One id or a sequence of ids as (n,) int64, n > 0. Raises InputError otherwise; the model checks the range."""
    expected = "expected one id or a sequence of at least one, as integers"
    try:
        ids = np.atleast_1d(np.asarray(value))
    except Exception as error:  # rows of several lengths, and whatever a foreign object's __array__ raises
        raise InputError(f"{name} are {shown(value)}; {expected}") from error
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise InputError(f"{name} have shape {ids.shape} and type {ids.dtype}; {expected}")
    if ids.dtype == np.uint64 and ids.max() > np.iinfo(np.int64).max:
        raise InputError(f"{name} contain {ids.max()}; expected ids of a vocabulary")
    return ids.astype(np.int64, copy=False)


def memory(name: str, data: object, shape: tuple[int, ...], *, changes: bool = True) -> None:
    """Raise InputError unless kernels can read `data` as float32 of that shape, and write to it if `changes`.

    Kernels get only the address. With another dtype they would read past the end, and a write to a read-only mapping
    would crash the process.
    """
    if not isinstance(data, np.ndarray) or type(data) is not np.ndarray:
        raise InputError(f"{name} holds a {type(data).__name__}; expected a NumPy array (numpy.asarray makes one)")
    if data.dtype != np.float32 or not (data.flags.c_contiguous and data.flags.aligned):
        raise InputError(f"{name} holds {data.dtype.str} values; expected a contiguous array of float32")
    if data.shape != shape:
        raise InputError(f"{name} has shape {data.shape}; expected {shape}")
    if changes and not data.flags.writeable:
        raise InputError(f"{name} is read-only but would be changed; pass a copy")


def finite(name: str, values: np.ndarray) -> None:
    """Raise InputError if any value is NaN or infinite."""
    if n_bad := values.size - int(np.count_nonzero(np.isfinite(values))):
        raise InputError(f"{name} holds {n_bad} values of {values.size} that are not finite")


def logit_change(token: object, value: object) -> tuple[int, float]:
    """What is added to a token's logit: a finite float32 number, or -inf. Raises InputError."""
    largest = float(np.finfo(np.float32).max)
    change = value if value == -math.inf else number(f"logit_bias of {shown(token)}", value, -largest, largest)
    return whole_number("a token id in logit_bias", token, 0, 2**31), float(change)

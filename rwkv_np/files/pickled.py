"""Read the pickles of checkpoints without Python's pickle: nothing named in a file is ever called.

A pickle is a program for a small machine with a stack. Python's own machine imports and calls whatever the
program names, which is how a downloaded file runs code. This one has only the instructions that
checkpoints of named tensors use; names are looked up in the caller's table, and an unknown name is an error.
`pickletools` splits the bytes into instructions, and calls nothing either.
"""

from __future__ import annotations

import itertools
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

MAX_INSTRUCTIONS = 500_000  # they take a second; a tensor needs 35, and RWKV-7 of 61 layers has 2,300 tensors

Known = Callable[[str], Any]
"""From a name ("torch FloatStorage") to its replacement; raises UnknownName."""


class UnknownName(Exception):
    """The pickle names something that is neither a weight nor plain data."""


class Function:
    """The replacement for a name that the pickle may call: a function from data to data."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


def read_pickle(file: BinaryIO, known: Known, persistent: Callable[[Any], Any]) -> Any:
    """The content of the pickle at the current position of `file`; the position is then after the pickle.

    known       gives the replacement for a name: a Function, or a value
    persistent  gives the replacement for an object that is stored elsewhere: a storage
    Raises      UnknownName, ValueError: damaged
    """
    machine = _Machine(known, persistent)
    try:
        for instruction, argument, _ in itertools.islice(pickletools.genops(file), MAX_INSTRUCTIONS):
            if instruction.name == "STOP":
                return machine.pop()
            machine.step(instruction.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeError, OverflowError, AssertionError) as error:
        raise ValueError("its list of names is invalid") from error
    raise ValueError("its list of names has no valid end")


_MARK = object()
_WORDS = ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
          "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING")  # fmt: skip
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set, "MARK": lambda: _MARK,
}  # fmt: skip
_IGNORED = ("PROTO", "FRAME")


class _Machine:
    """The stack, and the memo: objects saved by number."""

    def __init__(self, known: Known, persistent: Callable[[Any], Any]) -> None:
        self._known, self._persistent = known, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self._stack.pop()

    def step(self, name: str, argument: Any) -> None:
        """Execute one instruction. Raises ValueError, or any error that an invalid stack causes."""
        if name in _WORDS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name not in _IGNORED:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise ValueError(f"its list of names uses the pickle instruction {name}, which checkpoints do not need")
            method(argument)

    def _marked(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def _long1(self, number: int) -> None:
        if number.bit_length() > 128:  # Python itself refuses to print numbers of a few thousand digits
            raise ValueError("its list of names contains an absurdly large number")
        self._stack.append(number)

    # --- the memo

    def _binput(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    _long_binput = _binput

    def _memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _binget(self, number: int) -> None:
        self._stack.append(self._memo[number])

    _long_binget = _binget

    # --- tuples, lists, dictionaries

    def _tuple(self, _: None) -> None:
        self._stack.append(tuple(self._marked()))

    def _tuple_of(self, n: int) -> None:
        if len(self._stack) < n:
            raise IndexError
        self._stack[-n:] = [tuple(self._stack[-n:])]

    def _tuple1(self, _: None) -> None:
        self._tuple_of(1)

    def _tuple2(self, _: None) -> None:
        self._tuple_of(2)

    def _tuple3(self, _: None) -> None:
        self._tuple_of(3)

    def _append(self, _: None) -> None:
        self._put_into_list([self.pop()])

    def _appends(self, _: None) -> None:
        self._put_into_list(self._marked())

    def _put_into_list(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TypeError
        self._stack[-1].extend(values)

    def _additems(self, _: None) -> None:
        for value in self._marked():
            self._stack[-1].add(_key(value))

    def _setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self._put_into_dict([key, value])

    def _setitems(self, _: None) -> None:
        self._put_into_dict(self._marked())

    def _put_into_dict(self, pairs: list[Any]) -> None:
        if type(self._stack[-1]) is not dict or len(pairs) % 2:
            raise TypeError
        self._stack[-1].update((_key(key), value) for key, value in zip(pairs[::2], pairs[1::2]))

    # --- names and calls

    def _global(self, name: str) -> None:
        self._stack.append(self._known(name))

    def _stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self._global(f"{module} {name}" if isinstance(name, str) and isinstance(module, str) else "?")

    def _reduce(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Function or type(arguments) is not tuple:
            raise TypeError
        self._stack.append(function.call(*arguments))

    _newobj = _reduce

    def _build(self, _: None) -> None:
        """Set attributes of an object: ignored, since no object made here needs any."""
        self.pop()

    def _binpersid(self, _: None) -> None:
        self._stack.append(self._persistent(self.pop()))


def _key(value: Any) -> Any:
    """A key of a dictionary. The hash of deeply nested tuples can take forever."""
    if not isinstance(value, (str, bytes, int, float, type(None))):
        raise TypeError
    return value

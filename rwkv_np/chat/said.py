"""Values from untrusted JSON: each is read with a check of its type and range.

A value knows its path, so that an error can name it:
branches.main.turns[2].tokens[5] is 300; expected an id below 256.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Iterator
from typing import Any, NoReturn


class Impossible(ValueError):
    """A value is wrong; the message has its place, the value, and what was expected."""


class Said:
    """A value and its place. Every method raises Impossible."""

    def __init__(self, value: Any, place: str = "") -> None:
        self._value, self._place = value, place

    def __getitem__(self, name: str) -> Said:
        """A required member of an object."""
        if not isinstance(self._value, dict):
            self.refuse("an object")
        if name not in self._value:
            raise Impossible(f"{self._place or 'the text'} has no {name}")
        return Said(self._value[name], f"{self._place}.{name}".lstrip("."))

    def __contains__(self, name: str) -> bool:
        return isinstance(self._value, dict) and name in self._value

    @property
    def is_null(self) -> bool:
        return self._value is None

    def members(self) -> Iterator[tuple[str, Said]]:
        """The members of an object that has at least one."""
        if not isinstance(self._value, dict) or not self._value:
            self.refuse("an object with members")
        return ((Said(name, f"a name in {self._place}").text(at_least=1), self[name]) for name in self._value)

    def items(self) -> list[Said]:
        """The values in a list."""
        if not isinstance(self._value, list):
            self.refuse("a list")
        return [Said(value, f"{self._place}[{i}]") for i, value in enumerate(self._value)]

    def text(self, at_least: int = 0, at_most: float = math.inf) -> str:
        """A string with so many characters that UTF-8 can encode."""
        if not isinstance(self._value, str) or len(self._value) < at_least:
            self.refuse("a string" if not at_least else "a string that is not empty")
        if len(self._value) > at_most:
            self.refuse(f"at most {at_most} characters")
        try:
            self._value.encode()
        except UnicodeEncodeError:
            self.refuse("a string without lone surrogates")
        return self._value

    def texts(self) -> tuple[str, ...]:
        """A list of strings that are not empty."""
        return tuple(item.text(at_least=1) for item in self.items())

    def one_of(self, choices: Collection[str]) -> str:
        if not isinstance(self._value, str) or self._value not in choices:
            self.refuse(f"one of {', '.join(choices)}")
        return self._value

    def whole(self, low: int = 0, high: float = math.inf) -> int:
        """A whole number from `low` to `high`."""
        if type(self._value) is not int or not low <= self._value <= high:
            self.refuse(f"a whole number from {low}" + (f" to {high}" if high < math.inf else ""))
        return self._value

    def number(self) -> float:
        if type(self._value) not in (int, float):
            self.refuse("a number")
        return self._value

    def ids(self, n: int) -> tuple[int, ...]:
        """Token ids below `n`."""
        if not isinstance(self._value, list):
            self.refuse("a list of ids")
        for i, value in enumerate(self._value):
            if type(value) is not int or not 0 <= value < n:
                Said(value, f"{self._place}[{i}]").refuse(f"an id below {n}")
        return tuple(self._value)

    def refuse(self, expected: str) -> NoReturn:
        """Raise Impossible: the value is not what was expected."""
        raise Impossible(f"{self._place or 'the text'} is {reprlib.repr(self._value)}; expected {expected}")

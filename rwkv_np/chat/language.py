"""The language of a chat: which one, and the program's texts in it.

Each language is one TOML file; a test compares them. Errors that name files
and settings stay in English, as the options do: they are searched for on the web.
"""

from __future__ import annotations

import locale
import os
from pathlib import Path
from typing import Any

from rwkv_np.toml import read_toml

LANGUAGES = ("en", "zh", "ja")


def guess_language() -> str:
    """The language of the locale if it is supported, otherwise English."""
    said = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), None)
    said = said or locale.getlocale()[0] or ""
    return said[:2].lower() if said[:2].lower() in LANGUAGES else "en"


class Language:
    """The texts of one language: `say` for messages, `help` for commands."""

    def __init__(self, name: str) -> None:
        self.name = name
        texts = read_toml(Path(__file__).parent / "languages" / f"{name}.toml")
        self._messages: dict[str, str] = texts["messages"]
        self.help: dict[str, str] = texts["commands"]

    def say(self, message: str, /, **values: Any) -> str:
        """The message of that name, with its {values} filled in."""
        numbers = {name: _Number(value) for name, value in values.items() if type(value) is int}
        return self._messages[message].format(**values | numbers)


class _Number(int):
    """A number followed by its noun in singular or plural: {tokens:token|tokens}."""

    def __format__(self, spec: str) -> str:
        one, bar, more = spec.partition("|")
        return f"{int(self)} {one if self == 1 else more}" if bar else format(int(self), spec)

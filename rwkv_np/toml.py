"""TOML files written by users: errors name the line."""

from __future__ import annotations

import sys
from typing import Any

from rwkv_np.errors import PathLike, SettingsFileError
from rwkv_np.files.reading import SETTINGS_LIMIT, read_regular
from rwkv_np.text import decode_utf8

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: PathLike) -> dict[str, Any]:
    """The content of the file at `path`. Raises SettingsFileError with the line, TextError, OSError."""
    data = read_regular(path, SETTINGS_LIMIT, SettingsFileError)
    try:
        document = tomllib.loads(decode_utf8(data, path))
        _check(document)
        return document
    except RecursionError as error:
        raise SettingsFileError(path, "is not valid TOML: it is nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError is one; so is Python's error for a number of 5000 digits
        raise SettingsFileError(path, f"is not valid TOML: {error}") from error


def _check(value: Any) -> None:
    """Raise ValueError if an integer has more than TOML's 64 bits: Python reads any size, but cannot print every
    one."""
    if isinstance(value, (dict, list)):
        for member in value.values() if isinstance(value, dict) else value:
            _check(member)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number has more than 64 bits")

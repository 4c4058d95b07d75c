"""TOML files that people write: read, and refused where their mistake is."""

from __future__ import annotations

import sys
from typing import Any

from rwkv_np.errors import PathLike, SettingsFileError
from rwkv_np.text import decode_utf8

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: PathLike) -> dict[str, Any]:
    """What the file at `path` says. Raises SettingsFileError with the line, TextError, OSError."""
    with open(path, "rb") as file:
        data = file.read()
    text = decode_utf8(data, path)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise SettingsFileError(path, "is no valid TOML: brackets in brackets, hundreds deep") from error
    except ValueError as error:  # TOMLDecodeError, and what a number of too many digits makes Python raise
        raise SettingsFileError(path, f"is no valid TOML: {error}") from error

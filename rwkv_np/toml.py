"""TOML files that people write: read, and refused where their mistake is."""

from __future__ import annotations

import sys
from typing import Any

from rwkv_np.errors import PathLike, SettingsFileError
from rwkv_np.files.regular import read_regular
from rwkv_np.text import decode_utf8

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: PathLike) -> dict[str, Any]:
    """What the file at `path` says. Raises SettingsFileError with the line, TextError, OSError."""
    try:
        return tomllib.loads(decode_utf8(read_regular(path), path))
    except tomllib.TOMLDecodeError as error:
        raise SettingsFileError(path, f"is no valid TOML: {error}") from error

"""TOML files that people write: read, and refused where their mistake is."""

from __future__ import annotations

import sys
from typing import Any

from rwkv_np.errors import PathLike, SettingsFileError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: PathLike) -> dict[str, Any]:
    """What the file at `path` says. Raises SettingsFileError, which names the line; OSError."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SettingsFileError(path, f"byte {error.start} is no UTF-8; save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsFileError(path, f"is no valid TOML: {error}") from error

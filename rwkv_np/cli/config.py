"""The settings file: defaults for a command's options, in a table with the command's name.

    [chat]
    temperature = 0.8
    language = "zh"

An option on the command line overrides its environment variable, which overrides the file. One table does not belong to
a command, since every command that takes a model reads it:

    [models]
    folder = "/big/disk/models"
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import platformdirs

from rwkv_np.errors import SettingsFileError
from rwkv_np.store.kept import Store
from rwkv_np.toml import read_toml

PLACE = "rwkv_np.config"  # where a context's `meta` says which file was read
MODELS = "RWKV_NP_MODELS"
_F = TypeVar("_F", bound=Callable[..., Any])
_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def default_path() -> Path:
    """The default path of the file."""
    return platformdirs.user_config_path("rwkv-np", appauthor=False) / "config.toml"


def read_config(ctx: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """An option's callback: make the values in the file the defaults of `ctx`. The default file is optional."""
    if path is None and not default_path().exists():
        return None
    path = path or str(default_path())
    found = read_toml(path).get(ctx.command.name or "", {})
    if not isinstance(found, dict):
        raise SettingsFileError(path, f"{ctx.command.name} is not a table; expected a line [{ctx.command.name}]")
    # Options with an environment variable are settings; the others (a prompt, a file) apply to one call.
    params = (param for param in ctx.command.params if param is not option)
    options = {param.name: param for param in params if param.name and param.envvar}
    ctx.meta[PLACE] = path
    ctx.default_map = {name: _checked(ctx, path, options, name, value) for name, value in found.items()}
    return path


def _checked(ctx: click.Context, path: str, options: dict[str, click.Parameter], name: str, value: Any) -> Any:
    if name not in options:
        near = difflib.get_close_matches(name, options, 1, cutoff=0.3)
        raise SettingsFileError(path, f"there is no setting {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    option = options[name]
    expected = _expected(option)
    # A string may contain a number, as in an environment variable.
    if not isinstance(value, (str, *expected)) or isinstance(value, bool) and bool not in expected:
        kinds = _KINDS.get(expected[0], "a string")
        raise SettingsFileError(path, f"{name} is {_shortened(value)}; expected {kinds}")
    if isinstance(value, str) and "\0" in value:
        raise SettingsFileError(path, f"{name} is {_shortened(value)}; expected a string without the character U+0000")
    try:
        option.type_cast_value(ctx, value)
    except click.BadParameter as error:
        raise SettingsFileError(path, f"{name}: {error.message}") from error
    return value


def _expected(option: click.Parameter) -> tuple[type, ...]:
    """The TOML types allowed for an option, besides a string."""
    t = click.types
    kinds = {t.BoolParamType: (bool,), t.IntParamType: (int,), t.FloatParamType: (float, int)}
    return next((found for kind, found in kinds.items() if isinstance(option.type, kind)), (str,))


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- the folder of installed models


def usual_models() -> Path:
    """The default folder of installed models."""
    return platformdirs.user_data_path("rwkv-np", appauthor=False) / "models"


def models_option(command: _F) -> _F:
    """The --models option, for commands about installed models; other commands use the variable or the settings
    file."""
    return click.option(
        "--models", metavar="FOLDER", envvar=MODELS, show_envvar=True, type=click.Path(file_okay=False),
        help=f"Folder of installed models.  [default: {usual_models()}]",
    )(command)  # fmt: skip


def store(given: str | None = None) -> Store:
    """The installed models: in the folder `given`, or from the variable, the settings file, or the default."""
    folder = given or os.environ.get(MODELS) or _folder_of_file() or usual_models()
    return Store(Path(folder).expanduser())


def model_path(given: str) -> str:
    """The file for a command's MODEL: a path, or the name of an installed model. Raises InputError."""
    return store().path(given)


def _folder_of_file() -> str | None:
    """The folder in the settings file that this command has read, or would read."""
    ctx = click.get_current_context(silent=True)
    path = ctx.meta.get(PLACE) if ctx else None
    path = path or os.environ.get("RWKV_NP_CONFIG") or default_path()
    if not os.path.exists(path):
        return None
    found = read_toml(path).get("models", {})
    folder = found.get("folder") if isinstance(found, dict) else found
    if not isinstance(found, dict) or not isinstance(folder, (str, type(None))) or set(found) - {"folder"}:
        raise SettingsFileError(path, '[models] has one setting: folder = "FOLDER"')
    return folder

"""Every error that this package raises on purpose.

RwkvError
    FileError                  a file cannot be used for its purpose
        FormatError            it is not a model file that this version can read
        CheckpointError        it is not an RWKV checkpoint that can be converted
        StateFileError         it is not a saved state of this model
        ConversationFileError  it is not a saved conversation with this model
        SettingsFileError      it contains settings or an opening dialogue, with a mistake
        TextError              it is not UTF-8, or not a text that can be evaluated
        BaseFileError          it does not contain a baseline's predictions of this text
        TokenizerError         the tokenizer is missing, damaged, or does not fit the model
        OutputError            the destination cannot be written
    InputError                 an argument is invalid (also a ValueError)
    MissingPackageError        an optional package is needed and not installed
    DownloadError              a file could not be fetched

A message says where the error is, what was found, what was expected, and the command that fixes it. A bug remains an
AssertionError or whatever Python raises, with its traceback. Only `rwkv_np.cli.Command` turns these errors into a line
on the screen.
"""

from __future__ import annotations

import os
from typing import Union

PathLike = Union[str, "os.PathLike[str]"]
_LONGEST = 700  # characters of a problem


class RwkvError(Exception):
    """Any error that this package raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        # Python would call the class with the message alone. That fails for a class with other arguments, and it fails
        # in the process that waits for the result: multiprocessing.Pool then waits forever.
        return _same_error, (type(self), self.args), vars(self)


def _same_error(kind: type[RwkvError], args: tuple[object, ...]) -> RwkvError:
    """An error with that text, made without its constructor; its attributes are set afterwards."""
    return kind.__new__(kind, *args)


def one_line(error: Exception) -> str:
    """An RwkvError or OSError as one line for the screen. A path in it may contain a line break, or be very long."""
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: " if error.filename else ""
        text += error.strerror or str(error)
    return text if text.isprintable() and len(text) <= 1000 else as_line(text, _LONGEST)


def as_line(said: str, most: int = 300) -> str:
    """Text of another library's error, for a message: one printable line, with its middle removed if it is long.

    Such text can repeat the content of a file: a line break, an escape sequence, or a megabyte.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(said.split()))
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


class FileError(RwkvError):
    """`path` cannot be used for its purpose; `problem` says why."""

    def __init__(self, path: PathLike, problem: str) -> None:
        # `problem` may repeat untrusted content of the file: the name of a tensor, a library's message about a header.
        if not problem.isprintable() or len(problem) > _LONGEST:
            problem = as_line(problem, _LONGEST)
        super().__init__(f"{os.fspath(path)}: {problem}")
        self.path = os.fspath(path)
        self.problem = problem


class FormatError(FileError):
    """`path` is not a model file that this version can read."""


class CheckpointError(FileError):
    """`path` is not a checkpoint that can be converted."""


class StateFileError(FileError):
    """`path` is not a saved state, or not one of this model."""


class ConversationFileError(FileError):
    """`path` is not a saved conversation, or not one with this model."""


class SettingsFileError(FileError):
    """`path`, a file that a person wrote (settings, an opening dialogue), contains a mistake."""


class TextError(FileError):
    """`path` is not UTF-8 text, or a model cannot be evaluated on it."""


class BaseFileError(FileError):
    """`path` does not contain a baseline model's predictions of this text."""


class TokenizerError(FileError):
    """The tokenizer at `path` is missing, damaged, or does not fit the model."""


class OutputError(FileError):
    """`path` cannot be written; an existing file there is unchanged."""


class InputError(RwkvError, ValueError):
    """An argument has an invalid value."""


class MissingPackageError(RwkvError):
    """An optional package is needed for this and not installed."""


class DownloadError(RwkvError):
    """A file could not be fetched."""

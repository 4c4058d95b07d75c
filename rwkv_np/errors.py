"""Every error that this package raises on purpose.

RwkvError
    FileError                  a file cannot be used as what it was given as
        FormatError            it is not a model file that this version can read
        CheckpointError        it is not an RWKV checkpoint that can be converted
        StateFileError         it is not a saved state of this model
        ConversationFileError  it is not a saved conversation with this model
        SettingsFileError      it holds settings or an opening, with a mistake in them
        TextError              it is not UTF-8, or not a text that can be evaluated
        BaseFileError          it does not hold a base's predictions of this text
        TokenizerError         the tokenizer is missing, damaged, or does not fit the model
        OutputError            the destination cannot be written
    InputError                 an argument is invalid (also a ValueError)
    MissingPackageError        an optional package is needed and not installed
    DownloadError              a file could not be fetched

A message says where, what was found, what was expected, and the command that mends it.
A bug stays an AssertionError or whatever Python raises, with its traceback.
The one place that turns these into a line on the screen is `rwkv_np.cli.Command`.
"""

from __future__ import annotations

import os
from typing import Union

PathLike = Union[str, "os.PathLike[str]"]
_LONGEST = 700  # characters of a problem


class RwkvError(Exception):
    """Any error that this package raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        # Python would call the class with the message alone. Where a class takes other arguments that fails, and
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
    """What another library said, for a message: one line that can be shown, without its middle where it is long.

    Such words repeat what stands in a file, which may be a line break, an escape sequence, or a megabyte.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(said.split()))
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


class FileError(RwkvError):
    """`path` cannot be used as what it was given as; `problem` says why."""

    def __init__(self, path: PathLike, problem: str) -> None:
        # It may repeat what a stranger wrote into the file: the name of a tensor, a library's words on a header.
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
    """`path`, which a person wrote (settings, an opening), holds a mistake."""


class TextError(FileError):
    """`path` is not UTF-8 text, or a model cannot be evaluated on it."""


class BaseFileError(FileError):
    """`path` does not hold a base model's predictions of this text."""


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

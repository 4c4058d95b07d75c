"""A job's settings in a file beside its answers: what all of them depend on, so that no other job adds to them.

Also a lock, so that two processes do not write the same answers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rwkv_np.batch.output import Places
from rwkv_np.errors import OutputError
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.files.lock import locked
from rwkv_np.files.output import new_file

FORMAT = 1
_OPTIONS = ("seed", "name", "chat", "template", "think", "system", "max_tokens", "head_q8_0", "head_epsilon")
_FILES = ("opening", "state", "tokenizer")  # what counts is their content
_MEND = "use --overwrite to begin again, or choose another file"


def settings(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All that an answer depends on, besides its row: for the model at `path` and the options of the command."""
    found: dict[str, Any] = {"format": FORMAT, "model": fingerprint(path)}
    found |= {name: options[name] for name in _OPTIONS}
    found["name"] = options["name"] or Path(path).stem
    return found | {name: _content(options[name]) for name in _FILES}


def _content(given: str | None) -> str | None:
    """A hash of the file; a word that is not a file ("none", "world") stands for itself."""
    if given is None or not os.path.isfile(given):
        return given
    return hashlib.sha256(Path(given).read_bytes()).hexdigest()


@contextmanager
def job(at: Places, wanted: Mapping[str, Any], *, overwrite: bool) -> Iterator[None]:
    """The right to write the job's files, in this block. Raises OutputError: they belong to another job or process."""

    def refuse() -> None:
        raise OutputError(at.answers, "another process is writing it; wait for it, or choose another file")

    folder = os.path.dirname(os.path.abspath(at.answers))
    if not os.path.isdir(folder):
        raise OutputError(at.answers, f"the folder {folder} does not exist; create it first")
    lock = os.path.abspath(f"{at.answers}.lock")
    with locked(lock, refuse):
        try:
            if overwrite:
                _delete(at)
            _check(at, wanted)
            yield
        finally:
            with suppress(OSError):
                os.unlink(lock)


def _delete(at: Places) -> None:
    for path in at:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _check(at: Places, wanted: Mapping[str, Any]) -> None:
    found = _read(at.job)
    if found is None:
        if os.path.exists(at.answers) and os.path.getsize(at.answers):
            raise OutputError(at.answers, f"already exists, and {at.job} does not say which job it is from; {_MEND}")
        with new_file(at.job, overwrite=True, durable=True) as file:
            file.write(json.dumps(wanted, indent=1, ensure_ascii=False).encode() + b"\n")
        return
    for name, value in wanted.items():
        if found.get(name) != value:
            problem = f"was begun with {name} {_said(found.get(name))}, and this start has {_said(value)}; {_MEND}"
            raise OutputError(at.answers, problem)


def _read(path: str) -> dict[str, Any] | None:
    try:
        found = json.loads(Path(path).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _said(value: object) -> str:
    return "not set" if value is None else str(value)[:60]

"""The file in which the cache of states survives a restart: read at the start, written at the end.

`states_file.py` knows its format. Here is what happens with a file that does not fit.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rwkv_np.errors import InputError, RwkvError
from rwkv_np.serve import states_file
from rwkv_np.serve.worker import Worker

Notify = Callable[[str], None]
_FIRST = b'{"rwkv_np": "states"'  # the first bytes of a file of states


class KeptStates:
    """The file of the cache, if one was requested."""

    def __init__(self, path: str | None, key: str, worker: Worker, notify: Notify) -> None:
        self._path, self._key, self._worker, self._notify = path, key, worker, notify

    def load(self) -> None:
        """Load the states in the file. A file of another model causes only a note, and is overwritten at the end."""
        if not self._path or not os.path.exists(self._path):
            return
        with open(self._path, "rb") as file:
            if not file.read(len(_FIRST)) == _FIRST:
                raise InputError(
                    f"{self._path}: exists already and is not a file of states; name another one with --cache-file"
                )
        try:
            n = states_file.load(self._worker.cache, self._path, self._key, self._worker.model)
        except RwkvError as error:
            self._notify(f"{error}. Starting with an empty cache.")
        else:
            self._notify(f"{self._path}: {n} states of earlier prompts")

    def save(self) -> None:
        """Write the current states. Raises OutputError."""
        if self._path:
            states_file.save(self._worker.cache, self._path, self._key)

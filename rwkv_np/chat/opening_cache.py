"""States after openings, kept on disk: the second start of a 7B model does not read it again.

The state depends on the model, the tokens and the code that reads them (in the last bits), so the file name is made
from these. A state of another model is never found; a damaged file is ignored; if the folder is not writable, no state
is kept, and a message says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rwkv_np import files, kernels, models
from rwkv_np.errors import OutputError, StateFileError, one_line
from rwkv_np.kernels.notes import say_once
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.state import State, load_state

BUDGET = 256_000_000  # bytes on disk: a hundred states of RWKV-4 7B, or four to twenty of v7
# Folders of the code that computes a state: decoding of weights, the model, and its kernels.
SOURCES = tuple(Path(package.__path__[0]) for package in (files, models, kernels))


def cache_key(model: str) -> str:
    """The `key` of a cache: for the model with that fingerprint, this code, and the kernels of this processor."""
    from rwkv_np.kernels import dispatch  # imports numba, which `chat --help` does not need
    from rwkv_np.kernels.cache import source_hash

    return " ".join([model, dispatch.choose().path, *map(source_hash, SOURCES)])


class OpeningCache:
    """The states of openings that one model has read; without a folder nothing is kept.

    key  names the model, and the code that computes the states
    """

    def __init__(self, folder: Path | None, key: str, config: ModelConfig) -> None:
        self.folder, self.key, self.config = folder, key, config

    def get(self, tokens: Sequence[int]) -> State | None:
        """The state after `tokens`, if it was kept."""
        if self.folder is None:
            return None
        path = self.folder / self._name(tokens)
        with contextlib.suppress(StateFileError, OSError):
            state = load_state(path, self.config)
            with contextlib.suppress(OSError):
                path.touch()  # recently used: not among the oldest
            return state
        return None

    def put(self, tokens: Sequence[int], state: State) -> None:
        """Keep the state after `tokens`; the least recently used states are deleted for it."""
        # One that is larger than the whole budget would only evict the others.
        if self.folder is None or state.n_bytes > BUDGET:
            return
        try:
            state.save(self.folder / self._name(tokens), overwrite=True)
            self._let_go()
        except (OutputError, OSError) as error:
            say_once(f"{one_line(error)}. The chat continues; the next start reads the opening again")

    def _let_go(self) -> None:
        """Delete files until the rest fits the budget; the least recently used go first."""
        assert self.folder is not None
        found = [(path.stat(), path) for path in self.folder.glob("*.state")]
        n_bytes, now = 0, time.time()
        # A file with a future date, from a wrong clock, is deleted first: otherwise it would outlive all later ones.
        used = {path: stat.st_mtime if stat.st_mtime < now + 60 else 0 for stat, path in found}
        for stat, path in sorted(found, key=lambda entry: used[entry[1]], reverse=True):
            n_bytes += stat.st_size
            if n_bytes > BUDGET:
                path.unlink(missing_ok=True)

    def _name(self, tokens: Sequence[int]) -> str:
        found = hashlib.sha256(self.key.encode() + b"\0" + np.asarray(tokens, "<i4").tobytes())
        return f"{found.hexdigest()[:32]}.state"

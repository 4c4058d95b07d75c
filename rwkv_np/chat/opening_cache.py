"""States after openings, kept on disk: the second start of a 7B model does not read it again.

What an opening becomes depends on the model, the tokens and the kernels that read them (in the
last bit), so these name the file. The state of another model is never found; a damaged file is
read as none; where nothing can be written, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rwkv_np.errors import OutputError, StateFileError
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.state import State, load_state

KEPT = 32  # files: 83 MB of 7B states


class OpeningCache:
    """Openings that one model has read; `key` names the model and what computes it, no folder keeps none."""

    def __init__(self, folder: Path | None, key: str, config: ModelConfig) -> None:
        self.folder, self.key, self.config = folder, key, config

    def get(self, tokens: Sequence[int]) -> State | None:
        """The state after `tokens`, if it was kept."""
        if self.folder is None:
            return None
        path = self.folder / self._name(tokens)
        with contextlib.suppress(StateFileError, OSError):
            state = load_state(path, self.config)
            path.touch()  # in use: not among the oldest
            return state
        return None

    def put(self, tokens: Sequence[int], state: State) -> None:
        """Keep the state after `tokens`, in place of the one that was not used for longest."""
        if self.folder is None:
            return
        with contextlib.suppress(OutputError, OSError):
            state.save(self.folder / self._name(tokens), overwrite=True)
            files = sorted(self.folder.glob("*.state"), key=lambda path: path.stat().st_mtime, reverse=True)
            for old in files[KEPT:]:
                old.unlink(missing_ok=True)

    def _name(self, tokens: Sequence[int]) -> str:
        found = hashlib.sha256(self.key.encode() + b"\0" + np.asarray(tokens, "<i4").tobytes())
        return f"{found.hexdigest()[:32]}.state"

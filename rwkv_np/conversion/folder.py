"""The files of a model in the layout of the transformers library: a folder, or a repository on the hub.

    config.json    what the model is
    weights        model.safetensors, or parts of it and model.safetensors.index.json, which says which part has
                   a tensor; or the same as pytorch_model.bin

`hugging_face.py` knows what the names mean. A folder is a stranger's, and its index names files: only files
in the folder itself are opened.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

from rwkv_np.errors import CheckpointError, DownloadError
from rwkv_np.files.download import Progress
from rwkv_np.files.hub import SCHEME, fetch
from rwkv_np.files.reading import read_regular

CONFIG = "config.json"
WHOLE = ("model.safetensors", "pytorch_model.bin")
MOST_BYTES = 16 * 2**20  # of a JSON file; an index of 2,300 tensors has 0.2 MB
MOST_PARTS = 1000
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")


def is_repository(source: str) -> bool:
    """Whether it names a whole repository on the hub: hf://OWNER/REPO."""
    return bool(re.fullmatch(r"hf://[^/]+/[^/]+/?", source))


class Folder:
    """A local folder or hf://OWNER/REPO. Raises CheckpointError for what is missing or damaged; DownloadError.

    progress  of downloads, as in `hub.fetch`
    """

    def __init__(self, source: str, progress: Progress | None = None) -> None:
        self.path, self._progress = source.rstrip("/"), progress
        self._find: Callable[[str], str | None] = self._remote if source.startswith(SCHEME) else self._local
        self.config = self._json(self._needed(CONFIG))

    def weights(self) -> dict[str, frozenset[str] | None]:
        """The path of each file with weights, and the names that it must have; None: any."""
        for whole in WHOLE:
            if index := self._find(f"{whole}.index.json"):
                return self._parts(index)
            if path := self._find(whole):
                return {path: None}
        raise CheckpointError(self.path, f"has neither {' nor '.join(WHOLE)}, and no index of one. Download it again")

    def _parts(self, index: str) -> dict[str, frozenset[str] | None]:
        names_of: dict[str, set[str]] = {}
        found = self._json(index).get("weight_map")
        for name, file in found.items() if isinstance(found, dict) else ():
            if not isinstance(file, str) or not _PLAIN.fullmatch(file):
                raise CheckpointError(index, f"names the file {str(file)[:80]!r}; expected one in the same folder")
            names_of.setdefault(file, set()).add(name)
        if not 1 <= len(names_of) <= MOST_PARTS:
            raise CheckpointError(index, f"its weight_map names {len(names_of)} files; expected 1 to {MOST_PARTS}")
        return {self._needed(file): frozenset(names) for file, names in names_of.items()}

    def _json(self, path: str) -> dict[str, Any]:
        try:
            found = json.loads(read_regular(path, MOST_BYTES, CheckpointError))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(path, "is not JSON. Download it again") from error
        if not isinstance(found, dict):
            raise CheckpointError(path, "contains no JSON object. Download it again")
        return found

    def _needed(self, name: str) -> str:
        path = self._find(name)
        if path is None:
            raise CheckpointError(self.path, f"has no file {name}. Download the folder again")
        return path

    def _local(self, name: str) -> str | None:
        path = os.path.join(self.path, name)
        return path if os.path.exists(path) else None

    def _remote(self, name: str) -> str | None:
        try:
            return fetch(f"{self.path}/{name}", progress=self._progress)
        except DownloadError as error:
            # So the hub answers for a file that the repository does not have.
            if "download failed: 404" in str(error):
                return None
            raise

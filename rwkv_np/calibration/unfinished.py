"""What an interrupted calibration has finished: a folder beside the new file, with one file for each matrix.

Calibrating a 7B model takes hours. Every matrix is written when it is ready, completely or not at all, so a second
start with the same settings goes on. With other types or another size, only what was measured stays (the arrays);
with another source or text, the folder is emptied. It is deleted when the new file is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_np.errors import FormatError, PathLike
from rwkv_np.files.opened import Extent, OpenedFile
from rwkv_np.files.output import new_file
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import DataType

METHOD = 1  # changes when an encoder changes: files of an earlier one are not continued
_SETTINGS = "settings.json"


class Unfinished:
    """The folder for the new file `destination`. `is_continued`: it has matrices of an earlier run.

    measured  what the arrays depend on: source and text
    settings  what the matrices depend on besides
    """

    def __init__(self, destination: PathLike, measured: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.folder = Path(f"{os.fspath(destination)}.unfinished")
        wanted = json.loads(json.dumps([{"method": METHOD, **measured}, settings]))
        found = self._settings()
        self.is_continued = found == wanted
        if self.is_continued:
            return
        if found[0] != wanted[0]:
            self.remove()
            self.folder.mkdir()
        for path in self.folder.iterdir():
            if path.suffix != ".npz":
                path.unlink()
        with new_file(self.folder / _SETTINGS) as file:
            file.write(json.dumps(wanted).encode())

    def load(self, name: str, shape: tuple[int, ...], data_type: DataType) -> Parameter | None:
        """The finished matrix; None if there is none."""
        path = self._path(name, data_type)
        n_bytes = data_type.format.n_bytes(int(np.prod(shape)))
        if not path.is_file() or path.stat().st_size != n_bytes:
            return None
        return Parameter(name, shape, data_type, Extent(OpenedFile(path, FormatError), 0, n_bytes))

    def save(self, name: str, shape: tuple[int, ...], data_type: DataType, blocks: np.ndarray) -> Parameter:
        """Keep a finished matrix, and return it."""
        with new_file(self._path(name, data_type), overwrite=True) as file:
            file.write(np.ascontiguousarray(blocks).view(np.uint8).data)
        found = self.load(name, shape, data_type)
        assert found is not None
        return found

    def arrays(
        self, what: str, names: Collection[str], make: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays of those names that an earlier run kept as `what`, or those of `make`, which are then kept."""
        path = self.folder / f"{what}.npz"
        if path.is_file():
            with np.load(path) as kept:
                if set(kept) == set(names):
                    return dict(kept)
        arrays = dict(make())
        with new_file(path, overwrite=True) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return arrays

    def remove(self) -> None:
        """Delete the folder, if it is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str, data_type: DataType) -> Path:
        return self.folder / f"{name}.{data_type.name}"

    def _settings(self) -> list[Any]:
        """Those of the earlier run; nothing that is wanted, if there was none."""
        try:
            found = json.loads((self.folder / _SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return [None, None]
        return found if isinstance(found, list) and len(found) == 2 else [None, None]


def fingerprint(path: PathLike) -> str:
    """A hash of a file's size, time of change, and first bytes: whether it is the same file as before."""
    found, status = hashlib.sha256(), os.stat(path)
    found.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    with open(path, "rb") as file:
        found.update(file.read(2**16))
    return found.hexdigest()[:32]

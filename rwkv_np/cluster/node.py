"""The actor on one node: it finds or fetches the model, opens it, and does the work.

All errors of this file name the node: the person reads them on another machine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

from rwkv_np import __version__
from rwkv_np.cluster.work import Parcel, Work
from rwkv_np.errors import FileError, InputError, RwkvError
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.files.output import new_file
from rwkv_np.kernels import cache, dispatch

VARIABLE = "RWKV_NP_CLUSTER_MODEL"
"""The path of the model on a node, if it is not the path that the job was started with."""

PIECE = 32_000_000  # bytes of a model file that are sent at a time
_WAIT = 1.0  # seconds: `take` returns at least so often, which shows that the node is alive


class About(NamedTuple):
    """A node. `has_model`: whether the model's file is here."""

    has_model: bool
    kernels: str


class Node:
    """The actor. `name` of the node, for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: Work | None = None
        self._folder = tempfile.mkdtemp(prefix="rwkv-np-")  # for the files of the parcel
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def about(self, parcel: Parcel) -> About:
        """What this node has. Raises InputError: another version; FileError: another model under the same path."""
        if parcel.version != __version__:
            raise InputError(
                f"node {self._name} has rwkv_np {__version__}, and the job {parcel.version}; install the same version"
            )
        return About(self._found(parcel) is not None, dispatch.choose().path)

    def open(self, parcel: Parcel, read: Any = None) -> int:
        """Load the model. Returns how many items should be under way here.

        read  an actor's method that gives a piece of the model's file: (begin, size); for a node without the file
        """
        try:
            path = self._found(parcel) or self._fetched(parcel, read)
            files = _unpacked(parcel.files, self._folder)
            self._work = parcel.opens(path, dict(parcel.options) | files)
        except (RwkvError, OSError) as error:
            raise RwkvError(f"node {self._name}: {error}") from error
        return self._work.n_ahead

    def submit(self, items: Sequence[Any]) -> None:
        """Start with these items."""
        assert self._work is not None
        for item in items:
            self._work.submit(item)

    def take(self) -> list[Any]:
        """The results that are there; waits a moment for the first."""
        assert self._work is not None
        found: list[Any] = []
        try:
            found.append(self._work.take_within(_WAIT))
            while len(found) < 256:
                found.append(self._work.take_within(0))
        except Empty:
            pass
        return found

    def _found(self, parcel: Parcel) -> str | None:
        """The model's file on this node; None if there is none."""
        path = os.environ.get(VARIABLE) or parcel.path
        if not os.path.isfile(path):
            return None
        if (found := fingerprint(path)) != parcel.fingerprint:
            problem = (
                f"is another model on node {self._name} (fingerprint {found[:12]}, and the job has "
                f"{parcel.fingerprint[:12]}); copy the same file there, delete it, or set {VARIABLE}"
            )
            raise FileError(path, problem)
        return path

    def _fetched(self, parcel: Parcel, read: Any) -> str:
        """The model's file, fetched once and kept for later jobs."""
        folder = (cache.place("models") or Path(tempfile.mkdtemp())) / parcel.fingerprint
        folder.mkdir(exist_ok=True)
        path = folder / os.path.basename(parcel.path)
        if not path.exists():
            with new_file(path) as file:
                _copy(read, file.write)
        if (found := fingerprint(path)) != parcel.fingerprint:
            path.unlink()
            raise FileError(path, f"arrived damaged (fingerprint {found[:12]}); start the job again")
        return str(path)


def _copy(read: Any, write: Callable[[bytes], object]) -> None:
    import ray

    begin = 0
    while piece := ray.get(read.remote(begin, PIECE)):
        write(piece)
        begin += len(piece)


def _unpacked(files: Mapping[str, tuple[str, bytes]], folder: str) -> dict[str, str]:
    """The files that options name, written to a folder: option -> path."""
    made = {}
    for option, (name, content) in files.items():
        path = Path(folder) / option / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        made[option] = str(path)
    return made


class Donor:
    """The actor that sends the model's file to nodes without it; it runs where the job was started."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115

    def read(self, begin: int, size: int) -> bytes:
        """A piece of the file; empty after its end."""
        self._file.seek(begin)
        return self._file.read(size)

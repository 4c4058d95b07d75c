"""Install a GGUF file from the hub: it is downloaded, checked and kept as it is.

Nothing is converted, so nothing but the download can be interrupted, and the same command continues it. The type is
the one in the file's name: uploaders write it there, and the file itself only has one for each matrix.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_np.errors import FormatError, InputError
from rwkv_np.files import hub
from rwkv_np.files.download import bytes_so_far
from rwkv_np.models import model_config
from rwkv_np.models.containers import read_model
from rwkv_np.store import room
from rwkv_np.store.kept import GGUF, MAKING
from rwkv_np.store.origin import Origin

if TYPE_CHECKING:
    from rwkv_np.store.making import Note, Progress


def check_wish(origin: Origin, data_type: str | None) -> None:
    """Raise InputError if the file cannot be installed as it is."""
    if not origin.is_remote:
        raise InputError(f"{origin.source} is on this machine already: rwkv-np chat {origin.source}")
    if data_type is not None:
        raise InputError(
            f"{origin.source} is a GGUF file, which is installed in its own type; omit {data_type}, or make another "
            "file from it: rwkv-np quantize"
        )


def install(origin: Origin, place: Path, progress: Progress, note: Note, *, force: bool) -> None:
    """Download the file to the folder `place`.

    Raises  InputError: too little memory; OutputError, DownloadError, MissingPackageError; FormatError: not a model
            that this program runs, and then it is deleted
    """
    if not force:
        room.check_memory_of_file(origin)
    making = place / MAKING
    making.mkdir(exist_ok=True)
    downloaded = making / origin.file
    for path in making.iterdir():  # of another file with this name
        if not path.name.lstrip(".").startswith(origin.file):
            path.unlink()
    room.check_disk(origin, place, origin.n_bytes or 0, bytes_so_far(str(downloaded)))
    note(f"Downloading {origin.source}, {room.gb(origin.n_bytes or 0)}")
    with progress("Downloading") as show:
        hub.fetch(origin.source, str(downloaded), progress=show)
    _check(origin, downloaded)
    os.replace(downloaded, place / f"{origin.stem}{GGUF}")
    shutil.rmtree(making)


def _check(origin: Origin, path: Path) -> None:
    try:
        model_config(read_model(path))
    except FormatError as error:
        shutil.rmtree(path.parent)
        raise FormatError(origin.source, error.problem) from error

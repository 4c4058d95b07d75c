"""Folders of kernels whose sources are no more, in a cache: deleted where nobody has used them for long.

Each changed source makes a new folder (cache.py), and an upgrade never comes back to the old one. Only what looks
like ours is touched: a folder with a hash as its name, and nothing in it but compiled kernels. Nobody is
told, and nothing fails because of it: what was wrongly deleted is compiled again.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path

from rwkv_np.kernels.kept_code import SUFFIX

UNUSED = 90 * 86400  # seconds
_NAME = re.compile(r"[0-9a-f]{16}")


def sweep(new: Path) -> None:
    """Delete the folders beside `new`, which was just made, that were not used for UNUSED seconds."""
    if not _NAME.fullmatch(new.name):
        return
    with suppress(OSError):
        for folder in new.parent.iterdir():
            if folder.name != new.name and _NAME.fullmatch(folder.name):
                with suppress(OSError):
                    _delete_unused(folder)


def _delete_unused(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        return
    files = list(folder.iterdir())
    if any(not re.search(rf"{re.escape(SUFFIX)}(\.[0-9a-f]+\.part)?$", path.name) for path in files):
        return
    # A disk may note no reading: then what counts is the compiling. Looking into an empty folder is noted as well.
    times = [max(stat.st_atime, stat.st_mtime) for stat in (path.lstat() for path in files)]
    if max(times, default=folder.stat().st_mtime) > time.time() - UNUSED:
        return
    for path in files:
        path.unlink()
    folder.rmdir()

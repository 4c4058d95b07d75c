"""Delete the cache folders of kernels whose sources no longer exist, if they were not used for a long time.

Each changed source makes a new folder (cache.py), and after an upgrade the old one is never used again. Only
what looks like ours is touched: a folder with a hash as its name that contains only compiled kernels. This
happens silently, and no failure here matters: a kernel deleted by mistake is compiled again.
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
    """Delete the folders next to `new` (just created) that were not used for UNUSED seconds."""
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
    # A disk may not record reads: then the time of compilation counts. Listing an empty folder also counts as a read.
    times = [max(stat.st_atime, stat.st_mtime) for stat in (path.lstat() for path in files)]
    if max(times, default=folder.stat().st_mtime) > time.time() - UNUSED:
        return
    for path in files:
        path.unlink()
    folder.rmdir()

"""Who else may change what lies at a path: code that others can write is never run.

Compiled kernels are unpickled and executed. Whoever can write them, or put another folder in the
place of theirs, can run what he likes as us. So a folder and everything above it must belong to us
or to the system, and be writable for nobody else. (`/tmp` is: its sticky bit keeps others from
renaming what is ours.) Windows has no such bits, and its folders of a user are that user's.
"""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path

HAS_OWNERS = hasattr(os, "geteuid")


def what_speaks_against(path: Path) -> str | None:
    """Why code from the folder `path`, or one to be made there, cannot be trusted, and how to mend it; None: it can.

    Raises OSError
    """
    if not HAS_OWNERS:
        return None
    path = path.resolve()
    for place in (path, *path.parents):
        if not place.exists():
            continue
        found = place.stat()
        if found.st_uid not in _trusted():
            return f"{place} belongs to user {found.st_uid} (name a folder of your own in RWKV_NP_CACHE)"
        is_sticky = bool(found.st_mode & stat.S_ISVTX)
        if others_may_write(found) and not (is_sticky and place != path):
            return f"others may write to {place} (chmod go-w {place})"
    return None


def is_ours(found: os.stat_result) -> bool:
    """Whether a file was written by us or by the system, and can be changed by nobody else."""
    return not HAS_OWNERS or found.st_uid in _trusted() and not others_may_write(found)


def others_may_write(found: os.stat_result) -> bool:
    """Whether its mode lets others write. (A POSIX list of access shows in the group's bits.)"""
    mode = found.st_mode
    return bool(mode & stat.S_IWOTH) or bool(mode & stat.S_IWGRP) and not _is_alone_in(found.st_gid)


@functools.cache
def _trusted() -> frozenset[int]:
    """Us and the system. In a container without the system's user, `/` belongs to a number that stands for it."""
    return frozenset({0, os.geteuid(), os.stat("/").st_uid})


@functools.cache
def _is_alone_in(group: int) -> bool:
    """Whether that group is the one that many systems make for a user alone, who is then given umask 002."""
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}

"""Check who else can change the files at a path: code that others can write is never run.

Compiled kernels are unpickled and executed. Anyone who can write them, or replace their folder, can run
code with our rights. So a folder and all folders above it must belong to this user or to the system,
and nobody else may be able to write to them. (`/tmp` is accepted: its sticky bit keeps others from
renaming our files.) Windows does not have such bits; a user's folders there belong to that user.
"""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path

HAS_OWNERS = hasattr(os, "geteuid")


def what_speaks_against(path: Path) -> str | None:
    """Why code in `path`, or in a folder to be created there, cannot be trusted, and how to fix it; None if it can.

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
    """Whether a file belongs to this user or to the system, and nobody else can change it."""
    return not HAS_OWNERS or found.st_uid in _trusted() and not others_may_write(found)


def others_may_write(found: os.stat_result) -> bool:
    """Whether its mode lets others write. (A POSIX access control list shows in the group's bits.)"""
    mode = found.st_mode
    return bool(mode & stat.S_IWOTH) or bool(mode & stat.S_IWGRP) and not _is_alone_in(found.st_gid)


@functools.cache
def _trusted() -> frozenset[int]:
    """This user and the system. A container may not map the system's user; then the owner of `/` stands for it."""
    return frozenset({0, os.geteuid(), os.stat("/").st_uid})


@functools.cache
def _is_alone_in(group: int) -> bool:
    """Whether that group contains only this user. Many systems create such a group and set umask 002."""
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}

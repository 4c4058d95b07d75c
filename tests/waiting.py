"""Waiting for another process: by looking whether it is so far, and for longer than a loaded machine needs.

A limit is there for a program that hangs. It is never what a test measures, so it may be generous: only a
failure takes that long.
"""

import time

import pytest

PATIENCE = 600  # seconds


def until(is_there, what):
    """Look until `is_there()` is true; the test fails where that does not come."""
    end = time.monotonic() + PATIENCE
    while not is_there():
        if time.monotonic() > end:
            pytest.fail(f"never seen: {what}")
        time.sleep(0.001)


def until_written(child, folder, pattern, n_bytes=0):
    """Wait until a file that matches in `folder` has more than `n_bytes`, or the child has ended without that."""
    until(
        lambda: child.poll() is not None or any(_size(path) > n_bytes for path in folder.rglob(pattern)),
        f"{n_bytes} bytes in {pattern}",
    )


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:  # renamed between the two looks
        return 0

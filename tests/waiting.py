"""Wait for another process by polling, for longer than a loaded machine needs.

A limit is for a program that hangs. It is never what a test measures, so it may be generous: only a failure
takes that long.
"""

import time

import pytest

PATIENCE = 600  # seconds


def until(is_there, what):
    """Poll until `is_there()` is true; the test fails if that does not happen."""
    end = time.monotonic() + PATIENCE
    while not is_there():
        if time.monotonic() > end:
            pytest.fail(f"timed out waiting for: {what}")
        time.sleep(0.001)


def until_written(child, folder, pattern, n_bytes=0):
    """Wait until a matching file in `folder` has more than `n_bytes`, or the child has ended."""
    until(
        lambda: child.poll() is not None or any(_size(path) > n_bytes for path in folder.rglob(pattern)),
        f"{n_bytes} bytes in {pattern}",
    )


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:  # renamed between two polls
        return 0

"""The build backend that pip calls: setuptools, plus one line in an editable install.

setuptools makes an editable package importable by a hook that runs at start, since `kernels/` has another path
when installed. Type checkers do not run hooks: they did not find the package, so its `py.typed` was useless. So
the install also names the checkout in a .pth file, which they read. It comes last in `sys.path`.

It may only use the standard library and the backend interface of PEP 517 and PEP 660.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

CHECKOUT = Path(__file__).resolve().parents[2]
NAME = "rwkv_np_checkout.pth"

Settings = dict[str, Any]


def build_editable(
    wheel_directory: str, config_settings: Settings | None = None, metadata_directory: str | None = None
) -> str:
    """Build setuptools' editable wheel and add a line with the checkout's path; returns its name."""
    name = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    _add(Path(wheel_directory) / name, NAME, f"{CHECKOUT}\n".encode())
    return name


def _add(wheel: Path, name: str, data: bytes) -> None:
    """Add a file to a wheel, and to its file list (RECORD), which is the last entry."""
    with zipfile.ZipFile(wheel) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    entry = f"{name},sha256={digest},{len(data)}\n".encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
        for info, content in members:
            archive.writestr(info, content + entry if info.filename.endswith(".dist-info/RECORD") else content)

"""What pip calls to build this package: setuptools, and one line more in an editable install.

setuptools lets Python find an editable package by a hook that runs, since `kernels/` does not lie where it will be
installed. Type checkers run no hooks: for them the package was not there, and its `py.typed` of no use. So the
install also names the checkout in a .pth file, which they read. It comes last in `sys.path`.

Its constraint: nothing but the standard library and what PEP 517 and PEP 660 say of a backend.
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
    """setuptools' editable wheel, in which the checkout has a line of its own; returns its name."""
    name = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    _add(Path(wheel_directory) / name, NAME, f"{CHECKOUT}\n".encode())
    return name


def _add(wheel: Path, name: str, data: bytes) -> None:
    """Put a file into a wheel, and on the list of its files, which is the last of them."""
    with zipfile.ZipFile(wheel) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    entry = f"{name},sha256={digest},{len(data)}\n".encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
        for info, content in members:
            archive.writestr(info, content + entry if info.filename.endswith(".dist-info/RECORD") else content)

"""Packages that only some commands need: the error that says how to install them."""

from __future__ import annotations

import importlib.util

from rwkv_np.errors import MissingPackageError


def need_package(name: str, extra: str) -> None:
    """Raise MissingPackageError if a package of that extra is not installed."""
    if importlib.util.find_spec(name) is None:
        raise MissingPackageError(f"this needs the package {name}: pip install 'rwkv-np[{extra}]'")

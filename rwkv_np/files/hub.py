"""`hf://OWNER/REPO/FILE`: a file on the Hugging Face hub, downloaded once and kept.

The public functions of huggingface_hub give the address of a file, the token, and the content of its cache, so mirrors
(HF_ENDPOINT), offline mode and logins work as usual. download.py downloads the bytes. A complete file is not requested
again: published checkpoints have their date in their name.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from typing import Any

from rwkv_np.errors import DownloadError, InputError, MissingPackageError
from rwkv_np.files.download import Changed, Progress, Remote, bytes_so_far, download, look
from rwkv_np.files.lock import locked
from rwkv_np.files.output import check_destination
from rwkv_np.files.published import FIRST, Published
from rwkv_np.files.request import Address

SCHEME = "hf://"
_ATTEMPTS = 3  # to get a consistent file while it is being replaced on the server


def is_remote(source: str) -> bool:
    """Whether `source` names a file on the hub rather than one on this machine."""
    return source.startswith(SCHEME)


def file_name(source: str) -> str:
    """The name of the file that `source` (hf://owner/repo/file) names. Raises InputError."""
    return _parse(source)[1].rpartition("/")[2]


def find(source: str) -> str | None:
    """The path of a complete copy on this machine; None if there is none.

    Raises  InputError, MissingPackageError
    """
    repo, name = _parse(source)
    hub = _hub()
    cached = hub.try_to_load_from_cache(repo, name)
    if isinstance(cached, str):
        return cached
    place = _usual_place(hub, repo, name)
    return place if os.path.exists(place) else None


def describe(source: str) -> Remote:
    """The hub's description of the file. Raises InputError, MissingPackageError, DownloadError."""
    return look(_address(_hub(), source))


def fetch(
    source: str, place: str | None = None, *, expected: Published | None = None, progress: Progress | None = None
) -> str:
    """The path of the file that `source` (hf://owner/repo/file) names, downloaded if it is not here.

    place     the destination, in a folder that no other process uses; None: next to the hub's own cache, or the copy
              in that cache if there is one
    expected  the expected file: another size or SHA-256 is an error, before the download if the hub reports it
    progress  called with the file's name, the bytes so far, and the total
    Raises    InputError, MissingPackageError, OutputError, DownloadError
    """
    repo, name = _parse(source)
    hub = _hub()
    if place is not None:
        _download(_address(hub, source), source, place, expected, progress)
        return place
    if found := find(source):
        return found
    place = _usual_place(hub, repo, name)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with locked(f"{place}.lock"):  # a second process waits, and then finds the file
        if not os.path.exists(place):
            _download(_address(hub, source), source, place, expected, progress)
    return place


def _download(address: Address, source: str, place: str, expected: Published | None, progress: Progress | None) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        remote = look(address)
        if expected is not None:
            remote = _insisted(remote, source, expected)
        check_destination(place, None, False, (remote.n_bytes or 0) - bytes_so_far(place))
        try:
            download(address, place, remote, progress)
            return
        except Changed as error:
            if attempt == _ATTEMPTS:
                raise DownloadError(f"{source}: download failed: {error}. Run the command again later") from error


def _insisted(remote: Remote, source: str, expected: Published) -> Remote:
    """`remote` with the expected size and SHA-256. Raises DownloadError if the hub reports others."""
    found = (remote.n_bytes or expected.n_bytes, remote.digest or expected.sha256)
    if found != (expected.n_bytes, expected.sha256):
        raise DownloadError(
            f"{source}: the hub has another file there ({found[0]:,} bytes, SHA-256 {found[1][:12]}...) than this "
            f"version knows ({expected.n_bytes:,} bytes, {expected.sha256[:12]}...). If you trust it, get it under "
            f"another name: rwkv-np get {source} --name NAME"
        )
    return replace(remote, n_bytes=expected.n_bytes, sha256=expected.sha256)


def _parse(source: str) -> tuple[str, str]:
    """("owner/repo", "path/to/file")"""
    parts = source.removeprefix(SCHEME).split("/")
    if len(parts) < 3 or not {"", ".", ".."}.isdisjoint(parts):
        raise InputError(f"{source}: expected hf://OWNER/REPO/FILE, such as {FIRST.source}")
    return "/".join(parts[:2]), "/".join(parts[2:])


def _usual_place(hub: Any, repo: str, name: str) -> str:
    return os.path.join(hub.constants.HF_HOME, "rwkv-np", *repo.split("/"), *name.split("/"))


def _address(hub: Any, source: str) -> Address:
    repo, name = _parse(source)
    if hub.constants.HF_HUB_OFFLINE:
        raise DownloadError(f"{source}: download failed: offline mode is on. Unset HF_HUB_OFFLINE")
    try:
        url = hub.hf_hub_url(repo, name)
    except ValueError as error:  # its message for a name that the hub does not allow
        raise InputError(f"{source}: {str(error).splitlines()[0]}") from error
    headers = hub.utils.build_hf_headers(library_name="rwkv-np")
    return Address(source, url, headers, float(hub.constants.HF_HUB_DOWNLOAD_TIMEOUT))


def _hub() -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.constants")
    except ImportError as error:
        raise MissingPackageError(
            f"downloading needs huggingface_hub, which is not installed ({error}). "
            "Install it: pip install 'rwkv-np[convert]'"
        ) from error
    return hub

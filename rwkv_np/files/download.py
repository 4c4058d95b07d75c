"""Fetch `hf://owner/repo/path/to/file` from the Hugging Face hub, resuming an interrupted download.

huggingface_hub does the work: addresses, tokens, mirrors (the environment variable
HF_ENDPOINT), retries and progress. What is added is that a partial download survives the
process: its `hf_hub_download` has not kept it since version 2, and 14 GB over a home connection
are often interrupted. The file is kept next to the hub's own cache, and not requested again once
it is complete: published checkpoints have their date in their name.
"""

from __future__ import annotations

import importlib
import os
import re
from typing import Any

from rwkv_np.errors import DownloadError, InputError, MissingPackageError, RwkvError
from rwkv_np.files.output import check_destination
from rwkv_np.files.published import FIRST

SCHEME = "hf://"


def is_remote(source: str) -> bool:
    """Whether `source` names a file on the hub rather than one on this machine."""
    return source.startswith(SCHEME)


def fetch(source: str) -> str:
    """The path of the file that `source` (hf://owner/repo/file) names, downloaded once and kept.

    Raises  InputError, MissingPackageError, OutputError, DownloadError
    """
    repo, name = _parse(source)
    hub = _hub()
    cached = hub.try_to_load_from_cache(repo, name)
    if isinstance(cached, str):
        return cached
    place = os.path.join(hub.constants.HF_HOME, "rwkv-np", *repo.split("/"), *name.split("/"))
    try:
        _download(hub, repo, name, place)
    except RwkvError:
        raise
    except Exception as error:  # its own errors, and those of whichever HTTP client it uses
        raise DownloadError(
            f"{source}: download failed: {_reason(error)}. Check the name and the network and run the "
            "command again (it resumes), or download the file with a browser and give its path"
        ) from error
    return place


def _parse(source: str) -> tuple[str, str]:
    """("owner/repo", "path/to/file")"""
    parts = source.removeprefix(SCHEME).split("/")
    if len(parts) < 3 or not {"", ".", ".."}.isdisjoint(parts):
        raise InputError(f"{source}: expected hf://OWNER/REPO/FILE, such as {FIRST.source}")
    return "/".join(parts[:2]), "/".join(parts[2:])


def _download(hub: Any, repo: str, name: str, place: str) -> None:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with hub.utils.WeakFileLock(f"{place}.lock"):  # a second process waits, and finds the file
        if os.path.exists(place):
            return
        url = hub.hf_hub_url(repo, name)
        found = hub.get_hf_file_metadata(url)
        # Named by its content: what is left of an older upload is never continued with a newer one.
        part = f"{place}.{found.etag[:16]}.part"
        with open(part, "ab") as file:
            done = file.tell()
            check_destination(place, None, False, (found.size or 0) - done)
            hub.file_download.http_get(
                url,
                file,
                resume_size=done,
                headers=hub.utils.build_hf_headers() | {"Accept-Encoding": "identity"},
                expected_size=found.size,
                displayed_filename=os.path.basename(name),
            )
        os.replace(part, place)


def _reason(error: Exception) -> str:
    """The error message without the request id, the advice on tokens and the links."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return re.sub(r" \(Request ID[^)]*\)", "", " ".join(lines[:2])).rstrip(".")


def _hub() -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.file_download")
    except ImportError as error:
        raise MissingPackageError(
            f"downloading needs huggingface_hub, which is not installed ({error}). "
            "Install it: pip install 'rwkv-np[convert]'"
        ) from error
    return hub

"""Download a file over HTTP. Received bytes stay on the disk, and the next attempt or process continues from there.

A 6 GB checkpoint over a home connection is often interrupted, and no release of huggingface_hub since version 2 keeps a
partial file across processes. This module knows only three headers of the hub (hub.py knows the rest). It uses the HTTP
client of the standard library: huggingface_hub has changed from requests to httpx and httpx2, and none of them is a
dependency of this package.

Redirects are followed here, one by one: a token is for the hub only, and must not be sent to the host that stores the
file.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import importlib
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from rwkv_np.errors import DownloadError, as_line
from rwkv_np.files.output import write_error

Progress = Callable[[str, int, int], None]
"""Called with the file's name, the bytes so far, and the total."""

CHUNK = 2**18  # most bytes to read from the connection at a time
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
_BEYOND = 416  # the file ends before the requested range
_LATER = (408, 425, 429, 500, 502, 503, 504)  # the same request may succeed later
# Seconds before each retry if no new bytes arrived; the first retry is immediate. The last failure is final.
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
LONGEST_PAUSE = 300.0  # seconds: the longest pause that a server may request

_log = logging.getLogger("rwkv_np")


@dataclass(frozen=True)
class Remote:
    """A file as its server describes it; None for unknown values.

    etag    names the content; on the hub it is the SHA-256 of a large file
    sha256  the expected SHA-256 of the content, from another source
    """

    n_bytes: int | None
    etag: str | None
    sha256: str | None = None

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the content, if it is known."""
        is_sha256 = self.etag is not None and re.fullmatch("[0-9a-f]{64}", self.etag)
        return self.sha256 or (self.etag if is_sha256 else None)

    @property
    def content(self) -> str:
        """A name of the content for use in a file name; empty if it is unknown."""
        return re.sub("[^0-9a-zA-Z]", "", self.digest or self.etag or "")[:16]


@dataclass(frozen=True)
class Address:
    """The address of a file, and its name in messages.

    headers  may contain a token, which is sent to this host only
    timeout  seconds without a byte
    """

    name: str
    url: str
    headers: Mapping[str, str]
    timeout: float = 10.0


class Changed(Exception):
    """The file on the server has changed since the server described it."""


class _Broken(Exception):
    """The connection broke, or the server asks for a retry later: after `wait` seconds, if it says so."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


# --- description


def look(address: Address) -> Remote:
    """Ask the server to describe the file. Raises DownloadError."""
    patience = _Patience(address.name, PAUSES[:3])  # without a network, the user waits 3 s for the error
    while True:
        try:
            with _answer(address, "HEAD") as (response, first):
                return _described(response, first)
        except _Broken as error:
            patience.wait(error)


def _described(response: Any, first: Mapping[str, str]) -> Remote:
    length = first.get("X-Linked-Size") or response.headers.get("Content-Length")
    return Remote(int(length) if length and length.isdigit() else None, _etag(response, first))


def _etag(response: Any, first: Mapping[str, str]) -> str | None:
    """The ETag of the file. The storage behind a redirect has its own, so the hub sends the right one before."""
    etag = first.get("X-Linked-ETag") or response.headers.get("ETag") or ""
    return etag.strip().removeprefix("W/").strip('"') or None


# --- the file


def download(address: Address, place: str, remote: Remote, progress: Progress | None = None) -> None:
    """Download the file to `place`; it appears there after its size and SHA-256 were checked against `remote`.

    Raises  DownloadError: the server refuses, the connection breaks too often, or the content is wrong
            OutputError: the disk is full; received bytes stay, and the next call continues
            Changed: the server has a newer file
    """
    part = _part(place, remote)
    patience = _Patience(address.name)
    while True:
        before = _size(part)
        try:
            with _opened(part, place) as file:
                _receive(address, file, place, remote, progress or (lambda name, done, total: None))
            break
        except _Broken as error:
            if _size(part) > before:
                patience = _Patience(address.name)
            patience.wait(error, _size(part), remote.n_bytes)
    _verify(part, place, remote, progress)
    os.replace(part, place)


def bytes_so_far(place: str) -> int:
    """How many bytes of the file for `place` earlier calls have downloaded."""
    return max((_size(part) for part in _parts(place)), default=0)


def _part(place: str, remote: Remote) -> str:
    """The path of the partial file. Its name depends on the content, so an older file is never continued with a newer
    one."""
    part = f"{place}.{remote.content}.part"
    for old in _parts(place):
        if old != part or not remote.content:  # without a name for the content, the part may belong to another file
            os.unlink(old)
    return part


def _parts(place: str) -> list[str]:
    folder, name = os.path.split(place)
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        parts = [entry.path for entry in entries if entry.name.startswith(f"{name}.") and entry.name.endswith(".part")]
        return sorted(parts)
    return []


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


@contextmanager
def _opened(part: str, place: str) -> Iterator[BinaryIO]:
    """The partial file, opened to append. Unbuffered: received bytes are not lost if the process is killed."""
    try:
        file = open(part, "ab", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise write_error(place, error) from error
    with file:
        yield file


def _receive(address: Address, file: BinaryIO, place: str, remote: Remote, progress: Progress) -> None:
    """Append the missing bytes. Raises _Broken if some are still missing."""
    done = file.seek(0, os.SEEK_END)
    if remote.n_bytes is not None and done > remote.n_bytes:
        done = file.truncate(0)
    if done == remote.n_bytes:
        return
    name = os.path.basename(place)
    with _answer(address, "GET", done) as (response, first):
        if response.status == _BEYOND:
            file.truncate(0)
            raise _Broken("the server has no more bytes")
        _check_answer(response, first, remote)
        if done and not _goes_on(response, done, remote.n_bytes):
            done = file.truncate(0)  # the server sends from the first byte
        total = remote.n_bytes or done + int(response.headers.get("Content-Length") or 0)
        progress(name, done, total)
        for piece in _pieces(response):
            done += _write(file, piece, place)
            progress(name, done, max(total, done))
    if remote.n_bytes is not None and done > remote.n_bytes:
        os.unlink(file.name)
        raise DownloadError(
            f"{address.name}: the server sent more than the {remote.n_bytes:,} bytes that it announced. "
            "The download is deleted; run the command again"
        )
    if done < total:
        raise _Broken("the connection broke")


def _check_answer(response: Any, first: Mapping[str, str], remote: Remote) -> None:
    etag = _etag(response, first)
    if remote.etag and etag and etag != remote.etag and ("X-Linked-ETag" in first or first is response.headers):
        raise Changed("the file on the server has changed")
    length = response.headers.get("Content-Length")
    if response.status == 200 and remote.n_bytes is not None and length and int(length) != remote.n_bytes:
        raise Changed(f"the server sends {int(length):,} bytes, but announced {remote.n_bytes:,}")


def _goes_on(response: Any, done: int, n_bytes: int | None) -> bool:
    """Whether the response starts after the bytes so far. Raises _Broken if it starts elsewhere."""
    if response.status != 206:
        return False
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not found or int(found[1]) != done:
        raise _Broken("the server sent a different range than requested")
    if n_bytes is not None and found[2] not in ("*", str(n_bytes)):
        raise Changed(f"the server has {found[2]} bytes, but announced {n_bytes}")
    return True


def _pieces(response: Any) -> Iterator[bytes]:
    while True:
        try:
            piece = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(_reason(error)) from error
        if not piece:
            return
        yield piece


def _write(file: BinaryIO, piece: bytes, place: str) -> int:
    """Append the whole piece; returns its length. A nearly full disk may accept only a part at first."""
    left = memoryview(piece)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise write_error(place, error) from error
    return len(piece)


def _verify(part: str, place: str, remote: Remote, progress: Progress | None) -> None:
    """Check the file on the disk, not only the received bytes: the first part may be from an earlier run."""
    if remote.digest is None:
        return
    found, total, done = hashlib.sha256(), _size(part), 0
    with open(part, "rb") as file:
        while piece := file.read(2**22):
            found.update(piece)
            done += len(piece)
            if progress and total > 2**28:  # about a second of work
                progress(f"{os.path.basename(place)}, checking", done, total)
    if found.hexdigest() != remote.digest:
        os.unlink(part)
        raise DownloadError(
            f"{os.path.basename(place)}: what was downloaded has the SHA-256 {found.hexdigest()}, expected "
            f"{remote.digest}. The download was damaged and is deleted; run the command again"
        )


# --- one request


@contextmanager
def _answer(address: Address, method: str, start: int = 0) -> Iterator[tuple[Any, Mapping[str, str]]]:
    """The response, and the headers of the first response that was not just a redirect on the same host.

    Raises DownloadError: the server refuses; _Broken: a retry may succeed
    """
    headers, url = {**address.headers, "Accept-Encoding": "identity"}, address.url
    if start:
        headers["Range"] = f"bytes={start}-"
    first: Mapping[str, str] | None = None
    for _ in range(_MOST_REDIRECTS):
        response = _ask(address, method, url, headers)
        with response:
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or not target:
                _refuse(address.name, response)
                yield response, response.headers if first is None else first
                return
            target = urljoin(url, target)
            if "X-Linked-Size" in response.headers:
                first = response.headers
                if method == "HEAD":
                    yield response, first
                    return
            if _host(target) != _host(url):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
    raise DownloadError(f"{address.name}: download failed: more than {_MOST_REDIRECTS} redirects. Check the address")


def _host(url: str) -> tuple[str, str]:
    """The scheme and host that a token is for: the same host with plain HTTP is different."""
    return urlsplit(url).scheme, urlsplit(url).netloc


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Disables the library's redirects, which would also send the token."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _ask(address: Address, method: str, url: str, headers: Mapping[str, str]) -> Any:
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=_certificates()))
    try:
        return opener.open(urllib.request.Request(url, headers=dict(headers), method=method), timeout=address.timeout)
    except urllib.error.HTTPError as response:  # any status that is not 2xx; it can be read like a response
        return response
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
            raise DownloadError(f"{address.name}: download failed: {_reason(error)}") from error
        raise _Broken(_reason(error)) from error
    except ValueError as error:
        raise DownloadError(f"{address.name}: download failed: {error}. Check the address (HF_ENDPOINT)") from error


def _certificates() -> ssl.SSLContext:
    """The system's certificates, certifi's (some Pythons have none), and a company proxy's from the variables of
    requests."""
    context = ssl.create_default_context()
    with suppress(ImportError, OSError):
        context.load_verify_locations(importlib.import_module("certifi").where())
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := os.environ.get(name):
            with suppress(OSError):
                context.load_verify_locations(*((None, path) if os.path.isdir(path) else (path,)))
    return context


def _refuse(name: str, response: Any) -> None:
    """Raise the error for a status that is not a success."""
    status = response.status
    if status in (200, 206, _BEYOND):
        return
    if status in _LATER:
        raise _Broken(f"the server answers {status} {response.reason}", _retry_after(response))
    said = response.headers.get("X-Error-Message") or response.headers.get("X-Error-Code") or response.reason
    hint = "Check the name and run the command again"
    if status in (401, 403):
        hint = "Check the name; for a gated or private model log in (hf auth login) and accept its terms on its page"
    raise DownloadError(f"{name}: download failed: {status} {as_line(str(said)).rstrip('.')}. {hint}")


def _retry_after(response: Any) -> float:
    """Seconds to wait, from the Retry-After header, which has a number or a date."""
    said = (response.headers.get("Retry-After") or "").strip()
    if said.isdigit():
        return min(float(said), LONGEST_PAUSE)
    with suppress(ValueError, TypeError):
        return max(0.0, min(email.utils.parsedate_to_datetime(said).timestamp() - time.time(), LONGEST_PAUSE))
    return 0.0


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    said = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return as_line(said or type(error).__name__).rstrip(".")


class _Patience:
    """Counts retries while no bytes arrive."""

    def __init__(self, name: str, pauses: Sequence[float] | None = None) -> None:
        pauses = PAUSES if pauses is None else pauses
        self._name, self._pauses, self._n = name, iter(pauses), len(pauses) + 1

    def wait(self, error: _Broken, done: int = 0, total: int | None = None) -> None:
        """Wait before the next attempt. Raises DownloadError if this was the last."""
        so_far = f" after {done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if total and done else ""
        pause = next(self._pauses, None)
        if pause is None:
            raise DownloadError(
                f"{self._name}: download failed{so_far}: {error}, {self._n} times in a row. Check the network and run "
                f"the command again{': it will continue from there' if done else ''}"
            ) from error
        pause = max(pause, error.wait)
        later = f" in {pause:.0f} s" if pause >= 1 else ""
        _log.warning("Downloading: %s%s; trying again%s", error, so_far, later)
        time.sleep(pause)
